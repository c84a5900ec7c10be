"""A photo's class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnv2vision.predictions.base import Exported, finite, softmax


@dataclass(frozen=True)
class Classification:
    """A photo's class.

    Attributes:
        scores: (C,) float32 probabilities.
        names: Class names by label.
    """

    scores: NDArray[np.float32]
    names: tuple[str, ...]

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """The k best classes with their probabilities, best first."""
        order = np.argsort(-self.scores, kind="stable")[:k]
        return [(self.names[label], float(self.scores[label])) for label in order]


class ClassificationArrays:
    """See `predictions.base.ArrayDecoder`."""

    def __init__(self, head: Exported) -> None:
        self._names = head.names

    def __call__(
        self, outputs: Mapping[str, NDArray[np.float32]], sizes: Sequence[tuple[int, int]]
    ) -> list[Classification]:
        """Probabilities of each image."""
        if "probabilities" in outputs:
            scores = finite(outputs["probabilities"])
        else:
            scores = softmax(finite(outputs["logits"]), 1)
        return [Classification(of_image, self._names) for of_image in scores]

    def remarks(self) -> list[str]:
        """Nothing is left out."""
        return []


def agreement(a: Classification, b: Classification) -> tuple[int, int]:
    """See `PredictionKind.agreement`."""
    return int(a.scores.argmax() == b.scores.argmax()), 1
