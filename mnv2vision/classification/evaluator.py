"""Top-1 and top-5 accuracy over a data set, with what explains them: classes and confusions."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mnv2vision.distributed import gather


class ClassificationTargets(NamedTuple):
    """Labels (N,) int64 and the N identifiers of the images."""

    labels: Tensor
    image_ids: Sequence[int | str]


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
    """Collects the five best classes of each image; every image counts once, however many processes saw it."""

    def __init__(self, num_classes: int, names: Sequence[str] = ()) -> None:
        self.num_classes = num_classes
        self.names = tuple(names) or tuple(f"class {label}" for label in range(num_classes))
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._ids: list[int | str] = []
        self._labels: list[NDArray[np.int64]] = []
        self._best: list[NDArray[np.int64]] = []
        self.confusion: NDArray[np.int64] = np.zeros((self.num_classes, self.num_classes), np.int64)
        """(C, C) counts by actual and predicted class, after `compute`."""

    def update(self, predictions: Tensor, targets: ClassificationTargets) -> None:
        """Add a batch: logits or scores (N, C), and what is right."""
        best = predictions.topk(min(5, self.num_classes), dim=1).indices
        self._ids.extend(targets.image_ids)
        self._labels.append(targets.labels.cpu().numpy())
        self._best.append(best.cpu().numpy())

    def compute(self) -> dict[str, float]:
        """`top1` and `top5` in 0..1 over the images of all processes; NaN without images."""
        width = min(5, self.num_classes)
        mine = (
            self._ids,
            np.concatenate([np.empty(0, np.int64), *self._labels]),
            np.concatenate([np.empty((0, width), np.int64), *self._best]),
        )
        parts = gather(mine)
        ids = [image_id for part in parts for image_id in part[0]]
        labels = np.concatenate([part[1] for part in parts])
        best = np.concatenate([part[2] for part in parts])
        first = list({image_id: index for index, image_id in reversed(list(enumerate(ids)))}.values())
        labels, best = labels[first], best[first]
        self.confusion = np.bincount(labels * self.num_classes + best[:, 0], minlength=self.num_classes**2).reshape(
            self.num_classes, self.num_classes
        )
        if not len(labels):
            return {"top1": float("nan"), "top5": float("nan")}
        hits = best == labels[:, None]
        return {"top1": float(hits[:, 0].mean()), "top5": float(hits.any(1).mean())}

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

    def most_confused(self, count: int = 10) -> list[Confusion]:
        """The pairs of classes that are mistaken most often, after `compute`."""
        wrong = self.confusion - np.diag(np.diag(self.confusion))
        order = np.argsort(-wrong, axis=None, kind="stable")[:count]
        return [
            Confusion(self.names[actual], self.names[predicted], int(wrong[actual, predicted]))
            for actual, predicted in zip(*np.unravel_index(order, wrong.shape), strict=True)
            if wrong[actual, predicted]
        ]
