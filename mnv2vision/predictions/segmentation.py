"""A photo's classes by pixel."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2vision.predictions.base import Exported, finite

_BAND = 64  # rows of a mask that are computed at a time


@dataclass(frozen=True)
class Segmentation:
    """A photo's classes by pixel.

    Attributes:
        mask: (H, W) uint8 labels, of the photo's size.
        names: Class names by label.
    """

    mask: NDArray[np.uint8]
    names: tuple[str, ...]

    def shares(self) -> list[tuple[str, float]]:
        """The classes that occur, with their share of the photo's pixels, largest first."""
        counts = np.bincount(self.mask.ravel(), minlength=len(self.names))
        order = np.argsort(-counts, kind="stable")
        return [(self.names[label], float(counts[label] / self.mask.size)) for label in order if counts[label]]


class SegmentationArrays:
    """See `predictions.base.ArrayDecoder`; the same masks as `segmentation.inference` makes of a single pass."""

    def __init__(self, head: Exported) -> None:
        rule: Mapping[str, Any] = head.parameters
        self._names, self._preprocessing = head.names, head.preprocessing
        self._stride, self._padding = int(rule["stride"]), rule["padding"]

    def __call__(
        self, outputs: Mapping[str, NDArray[np.float32]], sizes: Sequence[tuple[int, int]]
    ) -> list[Segmentation]:
        """The mask of each image."""
        if "labels" in outputs:
            return [self._nearest(labels, size) for labels, size in zip(outputs["labels"], sizes, strict=True)]
        logits = finite(outputs["logits"])
        return [self._mask(of_image, size) for of_image, size in zip(logits, sizes, strict=True)]

    def remarks(self) -> list[str]:
        """Nothing is left out."""
        return []

    def _nearest(self, labels: NDArray[Any], size: tuple[int, int]) -> Segmentation:
        place = self._preprocessing.placement(*size)
        rows, columns = (_centres(side, shown).round().astype(int) for side, shown in zip(size, place[:2], strict=True))
        return Segmentation(labels[np.ix_(rows, columns)].astype(np.uint8), self._names)

    def _mask(self, logits: NDArray[np.float32], size: tuple[int, int]) -> Segmentation:
        place = self._preprocessing.placement(*size)
        rows, columns = (
            self._axis(size[axis], place[axis], self._preprocessing.image_size[axis], logits.shape[1 + axis])
            for axis in (0, 1)
        )
        mask = np.empty(size, np.uint8)
        for start in range(0, size[0], _BAND):
            mask[start : start + _BAND] = (rows[start : start + _BAND] @ logits @ columns.T).argmax(0)
        return Segmentation(mask, self._names)

    def _axis(self, side: int, shown: int, length: int, cells: int) -> NDArray[np.float32]:
        """A matrix (side, cells) from cells to pixels of the network's input, and from these to a photo's.

        See `segmentation.inference.upsample`: with TensorFlow's padding the last cell lies on the last pixel, otherwise
        the first cell on the first pixel.
        """
        shift = (cells - 1) * self._stride + 1 - length if self._padding == "tf" else 0
        by_pixel = _linear((np.arange(length) + shift) / self._stride, cells)
        return _linear(_centres(side, shown), shown) @ by_pixel[:shown]


def _centres(side: int, shown: int) -> NDArray[np.float64]:
    """Where the pixels of a photo's side lie among the `shown` pixels of the network's input."""
    centres: NDArray[np.float64] = ((np.arange(side) + 0.5) * shown / side - 0.5).clip(0, shown - 1)
    return centres


def _linear(positions: NDArray[np.float64], count: int) -> NDArray[np.float32]:
    """A matrix that interpolates linearly between `count` values, at positions among them; the outer ones hold."""
    low = np.floor(positions).astype(int).clip(0, count - 1)
    share = (positions - low).clip(0, 1).astype(np.float32)
    rows = np.arange(len(positions))
    matrix = np.zeros((len(positions), count), np.float32)
    np.add.at(matrix, (rows, low), 1 - share)
    np.add.at(matrix, (rows, (low + 1).clip(max=count - 1)), share)
    return matrix


def agreement(a: Segmentation, b: Segmentation) -> tuple[int, int]:
    """See `PredictionKind.agreement`."""
    return int((a.mask == b.mask).sum()), a.mask.size
