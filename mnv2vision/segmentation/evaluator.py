"""Intersection over union from one confusion matrix over the data set, at the photos' own sizes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnv2vision.common.distributed import gather
from mnv2vision.common.text import few
from mnv2vision.contracts import ClassFigures
from mnv2vision.data.sample import IGNORE_INDEX, Sample


class ClassIou(NamedTuple):
    """A class's pixels in the ground truth, and how well they are found; None where it does not occur at all."""

    name: str
    pixels: int
    IoU: float | None
    recall: float | None
    precision: float | None


class ImageScore(NamedTuple):
    """An image's mean IoU over the classes that occur in its ground truth or prediction."""

    image_id: int | str
    mIoU: float
    pixel_accuracy: float


class SegmentationEvaluator:
    """Counts pixels by actual and predicted class; what is to be ignored counts for nothing, an image counts once.

    Attributes:
        names: Class names by label.
        confusion: (C, C) int64 by actual and predicted class, of all processes after `compute`.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        count = len(self.names)
        self._own: NDArray[np.int64] = np.zeros((count, count), np.int64)
        self._scores: dict[int | str, ImageScore] = {}
        self._pairs: dict[int | str, tuple[NDArray[np.int32], NDArray[np.int32]]] = {}
        self.confusion: NDArray[np.int64] = self._own
        self._worst: list[ImageScore] = []
        self._merged = dict(self._pairs)

    def update(self, predictions: Sequence[NDArray[np.uint8]], targets: Sequence[Sample]) -> None:
        """Add images: label maps (H, W) at photo size, and their samples; those without a mask do not count."""
        for predicted, sample in zip(predictions, targets, strict=True):
            image_id = sample.image_id
            if sample.mask is None or image_id in self._scores:
                continue
            counts = confusion_matrix(sample.mask, predicted, len(self.names))
            self._own += counts
            found = np.flatnonzero(counts)
            self._pairs[image_id] = found.astype(np.int32), counts.ravel()[found].astype(np.int32)
            ious = class_ious(counts)
            total = counts.sum()
            score = float(np.nanmean(ious)) if total else float("nan")
            accuracy = float(np.trace(counts) / total) if total else float("nan")
            self._scores[image_id] = ImageScore(image_id, score, accuracy)

    def compute(self) -> dict[str, float]:
        """Metrics in 0..1 over the images of all processes; NaN without pixels that count.

        `mIoU` is VOC's: the mean over the classes that occur in the ground truth or in a prediction. `mIoU_present`
        leaves out classes that do not occur in the ground truth. `mean_accuracy` is the mean recall of classes.
        """
        parts = gather((self._own, self._scores, self._pairs))
        self.confusion = np.sum([part[0] for part in parts], axis=0)
        scores: dict[int | str, ImageScore] = {}
        self._merged = {}
        for _, more, pairs in parts:
            for image_id in scores.keys() & more.keys():  # another process had it, too
                cells, counts = pairs[image_id]
                self.confusion.ravel()[cells] -= counts
            scores.update(more)
            self._merged |= pairs
        ranked = [score for score in scores.values() if score.mIoU == score.mIoU]
        self._worst = sorted(ranked, key=lambda score: (score.mIoU, str(score.image_id)))
        return _figures(self.confusion)

    @property
    def images(self) -> int:
        """See `Evaluator.images`."""
        return len(self._merged)

    def resampled(self, counts: NDArray[np.int64]) -> dict[str, float]:
        """See `Evaluator.resampled`."""
        pairs = [self._merged[image_id] for image_id in sorted(self._merged, key=str)]
        confusion = np.zeros(len(self.names) ** 2, np.int64)
        for (cells, pixels), count in zip(pairs, counts.tolist(), strict=True):
            confusion[cells] += count * pixels
        return _figures(confusion.reshape(len(self.names), -1))

    def remarks(self) -> list[str]:
        """What the figures cannot tell, in a line each, after `compute`."""
        pixels = self.confusion.sum(1)
        if not self.images:
            return []
        if not pixels.any():
            return [f"no pixel of the {self.images} masks counts (all are {IGNORE_INDEX}): mIoU cannot be measured"]
        missing = [name for name, count in zip(self.names, pixels, strict=True) if not count]
        if not missing:
            return []
        if len(missing) == len(self.names) - 1:
            only = self.names[int(pixels.argmax())]
            return [f"all pixels of the masks that count are {only}: mIoU tells nothing of the other classes"]
        have = "has" if len(missing) == 1 else "have"
        return [
            f"{len(missing)} of the {len(self.names)} classes {have} no pixels in the masks ({few(missing)}):"
            " each has an IoU of 0 where it is predicted, and is left out of mIoU where not"
        ]

    def per_class(self) -> list[ClassIou]:
        """A row per class, after `compute`."""
        ious = class_ious(self.confusion)
        right, actual, predicted = np.diag(self.confusion), self.confusion.sum(1), self.confusion.sum(0)
        return [
            ClassIou(
                name,
                int(actual[label]),
                float(ious[label]) if actual[label] or predicted[label] else None,
                float(right[label] / actual[label]) if actual[label] else None,
                float(right[label] / predicted[label]) if predicted[label] else None,
            )
            for label, name in enumerate(self.names)
        ]

    def class_figures(self) -> ClassFigures:
        """See `Evaluator.class_figures`."""
        rows = self.per_class()
        return ClassFigures("IoU", [(row.name, row.IoU) for row in rows if row.pixels and row.IoU is not None])

    def score(self, image_id: int | str) -> float:
        """The mean IoU of an image that was added; NaN where none of its pixels counts."""
        return self._scores[image_id].mIoU

    def worst(self, count: int = 20) -> list[ImageScore]:
        """The images with the lowest mean IoU, after `compute`."""
        return self._worst[:count]


def confusion_matrix(actual: NDArray[np.uint8], predicted: NDArray[np.uint8], num_classes: int) -> NDArray[np.int64]:
    """(C, C) counts of the pixels that count; labels are in 0..C-1."""
    counted = actual != IGNORE_INDEX
    pairs = actual[counted].astype(np.int64) * num_classes + predicted[counted]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def _figures(confusion: NDArray[np.int64]) -> dict[str, float]:
    """The metrics of a confusion matrix (C, C)."""
    ious = class_ious(confusion)
    actual = confusion.sum(1)
    right = np.diag(confusion)
    if not actual.any():
        return dict.fromkeys(("mIoU", "mIoU_present", "pixel_accuracy", "mean_accuracy"), float("nan"))
    present = actual > 0
    return {
        "mIoU": float(np.nanmean(ious)),
        "mIoU_present": float(ious[present].mean()),
        "pixel_accuracy": float(right.sum() / actual.sum()),
        "mean_accuracy": float((right[present] / actual[present]).mean()),
    }


def class_ious(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """(C,) intersection over union; NaN for classes that do not occur."""
    right = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - right
    return np.where(union > 0, right / np.maximum(union, 1), np.nan)
