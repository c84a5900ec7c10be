"""What all predictions have in common. Nothing in this room imports torch: exported models are predicted with alone."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mnv2vision.errors import WeightsError
from mnv2vision.preprocessing import Preprocessing


class Prediction(Protocol):
    """What is predicted of a photo, at its own size."""

    @property
    def names(self) -> tuple[str, ...]:
        """Class names by label."""
        ...


class Described(NamedTuple):
    """A prediction for people and for tables.

    Attributes:
        picture: The photo with the prediction drawn.
        columns: Of the table.
        rows: Of the table.
        key: Of `entries` in the JSON file.
        entries: For the JSON file.
        mask: A label image to write beside the picture.
    """

    picture: Image.Image
    columns: tuple[str, ...]
    rows: list[list[object]]
    key: str
    entries: list[dict[str, object]]
    mask: NDArray[np.uint8] | None = None


class Exported(NamedTuple):
    """A head of an exported model.

    Attributes:
        names: Class names by label.
        parameters: What decodes its outputs; see `contracts.HeadExport`.
        preprocessing: The model's.
    """

    names: tuple[str, ...]
    parameters: Mapping[str, object]
    preprocessing: Preprocessing


class ArrayDecoder(Protocol):
    """Makes predictions of the outputs of an exported model."""

    def __call__(
        self, outputs: Mapping[str, NDArray[np.float32]], sizes: Sequence[tuple[int, int]]
    ) -> Sequence[Prediction]:
        """Predict.

        Args:
            outputs: Of `HeadExport`, by its names.
            sizes: (height, width) of the photos.
        """
        ...

    def remarks(self) -> list[str]:
        """What the predictions so far leave out, in a line each."""
        ...


NOT_FINITE = "the model's scores are not finite (nan or inf): its weights, or its mean and std, are bad"


def finite(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give the scores back; WeightsError where some are no numbers."""
    if not np.isfinite(scores).all():
        raise WeightsError(NOT_FINITE)
    return scores


def softmax(logits: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Probabilities of logits along an axis."""
    scores: NDArray[np.float32] = np.exp(logits - logits.max(axis, keepdims=True))
    scores /= scores.sum(axis, keepdims=True)
    return scores
