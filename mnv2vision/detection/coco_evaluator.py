"""COCO's twelve numbers, by hotcoco, which repeats pycocotools to the last digit."""

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnv2vision.detection.results import Collector, Curve, ImageResult, remark_on_objects, xywh

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
_NOTHING = dict.fromkeys(METRICS, -1.0)
_ALL, _HUNDRED = 0, 2  # COCOeval's indices of all sizes, and of 100 detections an image


class ClassAp(NamedTuple):
    """A class's objects and its average precisions; None where there are no objects of it."""

    name: str
    objects: int
    AP: float | None
    AP50: float | None
    AP75: float | None


class CocoEvaluator(Collector):
    """Average precision and recall over IoU 0.5 to 0.95, as COCO defines them; crowds absorb, images count once.

    Attributes:
        names: Class names by label.
        precision: (10 IoUs, 101 recalls, C) after `compute`; -1 for classes without objects.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        super().__init__()

    def reset(self) -> None:
        """Forget all images."""
        super().reset()
        self.precision: NDArray[np.float64] = np.full((10, 101, len(self.names)), -1.0)
        self._objects: NDArray[np.int64] = np.zeros(len(self.names), np.int64)
        self._ignored = 0

    def compute(self) -> dict[str, float]:
        """The twelve numbers in 0..1 over the images of all processes; -1, as COCO has it, where nothing is to find."""
        results = self.collect()
        truth = _ground_truth(results)
        counts = ~truth.crowds
        self._objects = np.bincount(truth.labels[counts], minlength=len(self.names))
        self._ignored = int(truth.crowds.sum())
        if not len(truth.labels):
            self.precision = np.full((10, 101, len(self.names)), -1.0)
            return dict(_NOTHING)
        evaluation = _evaluate(truth, _found(results), len(results), len(self.names))
        self.precision = evaluation.eval["precision"][:, :, :, _ALL, _HUNDRED]
        return _figures(evaluation)

    def figures(self, results: Sequence[ImageResult]) -> dict[str, float]:
        """See `compute`."""
        truth = _ground_truth(results)
        if not len(truth.labels):
            return dict(_NOTHING)
        return _figures(_evaluate(truth, _found(results), len(results), len(self.names)))

    def remarks(self) -> list[str]:
        """What the figures cannot tell, in a line each, after `compute`."""
        return remark_on_objects(self.names, self._objects, len(self.results), self._ignored, "AP and AR")

    def per_class(self) -> list[ClassAp]:
        """A row per class, after `compute`."""

        def mean(values: NDArray[np.float64]) -> float | None:
            known = values[values > -1]
            return float(known.mean()) if known.size else None

        return [
            ClassAp(
                name,
                int(self._objects[label]),
                mean(self.precision[:, :, label]),
                mean(self.precision[0, :, label]),
                mean(self.precision[5, :, label]),
            )
            for label, name in enumerate(self.names)
        ]

    def curves(self) -> dict[str, Curve]:
        """Recall and precision, the mean over classes, by IoU; after `compute`."""
        known = self.precision[0, 0] > -1
        if not known.any():
            return {}
        recall, by_iou = np.linspace(0, 1, 101), self.precision[:, :, known].mean(2)
        return {f"IoU {0.5 + 0.05 * i:.2f}": Curve(recall, by_iou[i], float(by_iou[i].mean())) for i in (0, 5, 8)}


class _Truth(NamedTuple):
    """All objects: indices of their images (n,), labels (n,), boxes (n, 4) xywh, areas (n,), crowds (n,)."""

    images: NDArray[np.int64]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float64]
    areas: NDArray[np.float64]
    crowds: NDArray[np.bool_]


def _ground_truth(results: Sequence[ImageResult]) -> _Truth:
    parts = [_Truth(*(np.empty((0, *shape)) for shape in ((), (), (4,), (), ())))]
    for index, result in enumerate(results):
        truth = result.truth
        count = len(truth)
        boxes = xywh(truth.boxes)
        areas = boxes[:, 2] * boxes[:, 3] if truth.areas is None else truth.areas
        parts.append(_Truth(np.full(count, index), truth.labels, boxes, areas, truth.crowd))
    images, labels, boxes, areas, crowds = (np.concatenate(column) for column in zip(*parts, strict=True))
    return _Truth(images.astype(np.int64), labels.astype(np.int64), boxes, areas, crowds.astype(bool))


def _found(results: Sequence[ImageResult]) -> NDArray[np.float64]:
    """All detections, as rows of image, x, y, width, height, score, label."""
    parts = [np.empty((0, 7))]
    for index, result in enumerate(results):
        found = result.found
        image = np.full(len(found.labels), index, np.float64)
        parts.append(np.column_stack([image, xywh(found.boxes), found.scores.astype(np.float64), found.labels]))
    return np.concatenate(parts)


def _figures(evaluation: Any) -> dict[str, float]:
    return {name: float(value) for name, value in zip(METRICS, evaluation.stats, strict=True)}


def _evaluate(truth: _Truth, found: NDArray[np.float64], num_images: int, num_classes: int) -> Any:
    from hotcoco import COCO, COCOeval

    ground = COCO.from_arrays(
        [{"id": index} for index in range(num_images)],
        [{"id": label, "name": str(label)} for label in range(num_classes)],
        truth.images,
        truth.labels,
        truth.boxes,
        area=truth.areas,
        iscrowd=truth.crowds,
    )
    evaluation = COCOeval(ground, ground.load_res(found), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    with redirect_stdout(io.StringIO()):
        evaluation.summarize()
    return evaluation
