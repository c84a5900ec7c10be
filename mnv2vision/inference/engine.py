"""What predicts: a model in torch, or an exported one in its runtime. Nothing here imports torch."""

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mnv2vision.predictions.classification import Classification
from mnv2vision.predictions.detection import Detection
from mnv2vision.predictions.segmentation import Segmentation
from mnv2vision.preprocessing import Preprocessing

Prediction = Classification | Detection | Segmentation
"""As the model's task is."""


class Engine(Protocol):
    """A model with one head, ready to predict.

    Attributes:
        preprocessing: The model's.
        names: Class names by label.
        task: "classification", "detection" or "segmentation".
    """

    preprocessing: Preprocessing
    names: tuple[str, ...]
    task: str

    def predict(self, photos: Iterable[NDArray[np.uint8]]) -> Sequence[Prediction]:
        """Predict for some photos (H, W, 3) at once, of which one at a time is asked for."""
        ...

    def remarks(self) -> list[str]:
        """What the predictions so far leave out, in a line each."""
        ...
