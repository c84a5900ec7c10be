"""What predicts: a model in torch, or an exported one in its runtime. Nothing here imports torch."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from mnv2vision.errors import ConfigError
from mnv2vision.predictions.base import Answers
from mnv2vision.predictions.classification import Classification
from mnv2vision.predictions.detection import AUTO, Detection
from mnv2vision.predictions.segmentation import Segmentation
from mnv2vision.preprocessing import Preprocessing

T = TypeVar("T")
OfHead = Classification | Detection | Segmentation
"""As the head's task is."""
Prediction = OfHead | Answers[OfHead]
"""Of a model with one head what that predicts; of one with several, all of it by the heads' names."""


class PredictingHead(NamedTuple):
    """A head that predicts.

    Attributes:
        task: "classification", "detection" or "segmentation".
        names: Class names by label.
    """

    task: str
    names: tuple[str, ...]


class Engine(Protocol):
    """A model ready to predict.

    Attributes:
        preprocessing: The model's.
        heads: By name.
    """

    preprocessing: Preprocessing
    heads: Mapping[str, PredictingHead]

    def predict(self, photos: Iterable[NDArray[np.uint8]]) -> Sequence[Prediction]:
        """Predict for some photos (H, W, 3) at once, of which one at a time is asked for."""
        ...

    def remarks(self) -> list[str]:
        """What the predictions so far leave out, in a line each."""
        ...


def check_options(options: Mapping[str, object], tasks: Iterable[str]) -> None:
    """Raise ConfigError for `max_detections` and a threshold of "auto" where no head of the tasks detects."""
    tasks = list(tasks)
    if options["score_threshold"] == AUTO and "detection" not in tasks:
        raise ConfigError(f"threshold={AUTO} is for detection, not for a model of {', '.join(tasks)}")
    if options["max_detections"] is not None and "detection" not in tasks:
        raise ConfigError(f"max_detections is for detection, not for a model of {', '.join(tasks)}")


def by_photo(predictions: Mapping[str, Sequence[OfHead]]) -> Sequence[Prediction]:
    """The predictions of each photo, of those of each head."""
    if len(predictions) == 1:
        return next(iter(predictions.values()))
    return [
        Answers(dict(zip(predictions, of_photo, strict=True))) for of_photo in zip(*predictions.values(), strict=True)
    ]
