"""What all predictions have in common. Nothing in this room imports torch: exported models are predicted with alone."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from mnv2vision.common.colors import Color
from mnv2vision.errors import WeightsError
from mnv2vision.preprocessing import Preprocessing


class Prediction(Protocol):
    """What is predicted of a photo, at its own size."""

    @property
    def names(self) -> tuple[str, ...]:
        """Class names by label."""
        ...


P_co = TypeVar("P_co", covariant=True)


class Answers(Mapping[str, P_co]):
    """What several heads predict of one photo, by the heads' names: `answers.detection`, or `answers["detection"]`."""

    def __init__(self, predictions: Mapping[str, P_co]) -> None:
        self._predictions = dict(predictions)

    def __getitem__(self, head: str) -> P_co:
        return self._predictions[head]

    def __getattr__(self, head: str) -> P_co:
        if head.startswith("_") or head not in self._predictions:
            raise AttributeError(f"there is no head {head!r}; valid: {', '.join(self.__dict__['_predictions'])}")
        return self._predictions[head]

    def __iter__(self) -> Iterator[str]:
        return iter(self._predictions)

    def __len__(self) -> int:
        return len(self._predictions)

    def __repr__(self) -> str:
        return f"Answers({self._predictions})"


class Described(NamedTuple):
    """A prediction for people and for tables.

    Attributes:
        picture: The photo (H, W, 3) with the prediction drawn.
        lines: To write below it.
        columns: Of the table.
        rows: Of the table.
        key: Of `entries` in the JSON file.
        entries: For the JSON file.
        mask: A label image to write beside the picture.
        most_lines: How many lines there are at most, of whatever photo.
        colors: Of the lines, where they have some.
    """

    picture: NDArray[np.uint8]
    lines: tuple[str, ...]
    columns: tuple[str, ...]
    rows: list[list[object]]
    key: str
    entries: list[dict[str, object]]
    mask: NDArray[np.uint8] | None = None
    most_lines: int = 0
    colors: tuple[Color | None, ...] = ()


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
