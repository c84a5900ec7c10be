"""Top-1 and top-5 accuracy over a data set, with what explains them: classes and confusions."""

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mnv2vision.classification.calibration import TEMPERATURES, Bins, calibration_bins, confidences, fit_temperature
from mnv2vision.common.distributed import gather
from mnv2vision.common.text import few
from mnv2vision.contracts import ClassFigures
from mnv2vision.data.sample import Sample

MOST_LOGITS = 2**22
"""How many are kept to fit a temperature to, 16 MB; of ImageNet's validation part those of 4 000 images."""
FEWEST_IMAGES = 100
"""Of which a temperature is kept in the model; fewer say little of it."""


class ClassRow(NamedTuple):
    """One class's images, the share recognised, and the share of predictions of it that are right (None: no such)."""

    name: str
    images: int
    recall: float | None
    precision: float | None


class Confusion(NamedTuple):
    """How often images of one class were taken for another."""

    actual: str
    predicted: str
    images: int


class ClassificationEvaluator:
    """Collects the five best classes of each image; every image counts once, however many processes saw it.

    The temperature is fitted to the logits of all images, or of an even choice of them where there are many.
    """

    def __init__(self, num_classes: int, names: Sequence[str] = (), images: int = 0) -> None:
        """Prepare.

        Args:
            num_classes: How many classes there are.
            names: Their names; "class 3" by default.
            images: How many are to come, about.
        """
        self.num_classes = num_classes
        self._every = max(1, -(-images * num_classes // MOST_LOGITS))
        self.names = tuple(names) or tuple(f"class {label}" for label in range(num_classes))
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._ids: list[int | str] = []
        self._labels: list[int] = []
        self._best: list[NDArray[np.int64]] = []
        self._sure: list[float] = []
        self._logits: dict[int | str, NDArray[np.float32]] = {}
        self.fitted: tuple[NDArray[np.float32], NDArray[np.int64]] = np.zeros((0, 1), np.float32), np.zeros(0, np.int64)
        """Logits (n, C) and labels (n,) that the temperature is fitted to, after `compute`."""
        self.confidence: NDArray[np.float64] = np.zeros(0)
        """(images,) probabilities of the best classes, after `compute`."""
        self._hits: NDArray[np.bool_] = np.zeros((0, 1), bool)
        self.temperature = float("nan")
        self.confusion: NDArray[np.int64] = np.zeros((self.num_classes, self.num_classes), np.int64)
        """(C, C) counts by actual and predicted class, after `compute`."""

    def update(self, predictions: Tensor, targets: Sequence[Sample]) -> None:
        """Add images: logits (N, C), and their samples; those without a label do not count."""
        best = predictions.topk(min(5, self.num_classes), dim=1).indices.cpu().numpy()
        sure = predictions.float().softmax(1).max(1).values.tolist()
        logits = predictions.float().cpu().numpy()
        for i, (guesses, sample) in enumerate(zip(best, targets, strict=True)):
            if sample.label is not None:
                self._ids.append(sample.image_id)
                self._labels.append(sample.label)
                self._best.append(guesses)
                self._sure.append(sure[i])
                if self._every == 1 or zlib.crc32(str(sample.image_id).encode()) % self._every == 0:
                    self._logits[sample.image_id] = logits[i].copy()

    def compute(self) -> dict[str, float]:
        """Figures over the images of all processes; NaN without images.

        `top1` and `top5`, `ece`, the expected calibration error, and `ece_calibrated`, what is left of it where logits
        are divided by `temperature`; all but the last in 0..1.
        """
        best = np.array(self._best, np.int64).reshape(-1, min(5, self.num_classes))
        parts = gather((self._ids, np.array(self._labels, np.int64), best, np.array(self._sure), self._logits))
        ids = [image_id for part in parts for image_id in part[0]]
        labels = np.concatenate([part[1] for part in parts])
        best = np.concatenate([part[2] for part in parts])
        seen = {image_id: index for index, image_id in reversed(list(enumerate(ids)))}
        first = [seen[image_id] for image_id in sorted(seen, key=str)]
        labels, best = labels[first], best[first]
        self.confidence = np.concatenate([part[3] for part in parts])[first]
        logits = {image_id: own for part in parts for image_id, own in part[4].items()}
        kept = [place for place, index in enumerate(first) if ids[index] in logits]
        if kept:
            self.fitted = np.stack([logits[ids[first[place]]] for place in kept]), labels[kept]
        self.confusion = np.bincount(labels * self.num_classes + best[:, 0], minlength=self.num_classes**2).reshape(
            self.num_classes, self.num_classes
        )
        self._hits = best == labels[:, None]
        return self.resampled(np.ones(len(labels), np.int64)) | self._calibration()

    def _calibration(self) -> dict[str, float]:
        logits, labels = self.fitted
        self.temperature = fit_temperature(logits, labels)
        calibrated = self.calibrated().error if len(labels) else float("nan")
        return {"ece": self.bins().error, "ece_calibrated": calibrated, "temperature": self.temperature}

    def bins(self) -> Bins:
        """All images by the probability of their best class, after `compute`."""
        return calibration_bins(self.confidence, self._hits[:, 0])

    def calibrated(self) -> Bins:
        """Those that the temperature was fitted to, by the probability that it leaves, after `compute`."""
        logits, labels = self.fitted
        return calibration_bins(confidences(logits, self.temperature), logits.argmax(1) == labels)

    def trusted_temperature(self) -> float:
        """The temperature, after `compute`; 1 where it is of few images, or there is no best one."""
        low, high = TEMPERATURES
        few_images = len(self.fitted[1]) < FEWEST_IMAGES
        return 1.0 if few_images or not 1.01 * low < self.temperature < high / 1.01 else self.temperature

    @property
    def images(self) -> int:
        """See `Evaluator.images`."""
        return len(self._hits)

    def resampled(self, counts: NDArray[np.int64]) -> dict[str, float]:
        """See `Evaluator.resampled`."""
        total = counts.sum()
        if not total:
            return {"top1": float("nan"), "top5": float("nan")}
        first, any_of_five = counts @ self._hits[:, 0], counts @ self._hits.any(1)
        return {"top1": float(first / total), "top5": float(any_of_five / total)}

    def remarks(self) -> list[str]:
        """What the figures cannot tell, in a line each, after `compute`."""
        images = self.confusion.sum(1)
        if not images.any():
            return []
        told = []
        if self.num_classes <= 5:
            one = self.num_classes == 1
            count = "is only 1 class" if one else f"are only {self.num_classes} classes"
            told.append(f"{'top1 and top5 are' if one else 'top5 is'} always 1: there {count}")
        missing = [name for name, count in zip(self.names, images, strict=True) if not count]
        if missing:
            have = "has" if len(missing) == 1 else "have"
            told.append(f"{len(missing)} of the {self.num_classes} classes {have} no images: {few(missing)}")
        return told

    def per_class(self) -> list[ClassRow]:
        """A row per class that occurs in the data, after `compute`."""
        right, actual, predicted = np.diag(self.confusion), self.confusion.sum(1), self.confusion.sum(0)
        return [
            ClassRow(
                name,
                int(actual[label]),
                float(right[label] / actual[label]) if actual[label] else None,
                float(right[label] / predicted[label]) if predicted[label] else None,
            )
            for label, name in enumerate(self.names)
            if actual[label] or predicted[label]
        ]

    def class_figures(self) -> ClassFigures:
        """See `Evaluator.class_figures`."""
        return ClassFigures("recall", [(row.name, row.recall) for row in self.per_class() if row.recall is not None])

    def most_confused(self, count: int = 10) -> list[Confusion]:
        """The pairs of classes that are mistaken most often, after `compute`."""
        wrong = self.confusion - np.diag(np.diag(self.confusion))
        order = np.argsort(-wrong, axis=None, kind="stable")[:count]
        return [
            Confusion(self.names[actual], self.names[predicted], int(wrong[actual, predicted]))
            for actual, predicted in zip(*np.unravel_index(order, wrong.shape), strict=True)
            if wrong[actual, predicted]
        ]
