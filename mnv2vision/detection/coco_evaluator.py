"""COCO's twelve numbers, by faster-coco-eval, which repeats pycocotools to the last digit."""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnv2vision.data.sample import Sample
from mnv2vision.detection.results import Collector, ImageResult, xywh

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
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

    def compute(self) -> dict[str, float]:
        """The twelve numbers in 0..1 over the images of all processes; -1, as COCO has it, where nothing is to find."""
        results = self.collect()
        truth = _ground_truth(results, len(self.names))
        self._objects = np.bincount(
            [item["category_id"] for item in truth["annotations"] if not item["iscrowd"]], minlength=len(self.names)
        )
        if not truth["annotations"]:
            self.precision = np.full((10, 101, len(self.names)), -1.0)
            return dict.fromkeys(METRICS, -1.0)
        evaluation = _evaluate(truth, _found(results))
        self.precision = evaluation.eval["precision"][:, :, :, _ALL, _HUNDRED]
        return {name: float(value) for name, value in zip(METRICS, evaluation.stats, strict=False)}

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

    def curves(self) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Recall and precision, the mean over classes, by IoU; after `compute`."""
        known = self.precision[0, 0] > -1
        if not known.any():
            return {}
        recall = np.linspace(0, 1, 101)
        return {f"IoU {0.5 + 0.05 * i:.2f}": (recall, self.precision[i][:, known].mean(1)) for i in (0, 5, 8)}


def _ground_truth(results: Sequence[ImageResult], num_classes: int) -> dict[str, list[dict[str, Any]]]:
    annotations: list[dict[str, Any]] = []
    for index, result in enumerate(results):
        sample: Sample = result.truth
        assert sample.boxes is not None
        assert sample.labels is not None
        count = len(sample.labels)
        boxes = xywh(sample.boxes)
        areas = boxes[:, 2] * boxes[:, 3] if sample.areas is None else sample.areas
        crowd = np.zeros(count, bool) if sample.is_crowd is None else sample.is_crowd
        rows = zip(boxes.tolist(), sample.labels.tolist(), areas.tolist(), crowd.tolist(), strict=True)
        for box, label, area, is_crowd in rows:
            number = len(annotations) + 1  # from 1: COCOeval takes 0 for "matches nothing"
            annotations.append(
                {
                    "id": number,
                    "image_id": index,
                    "category_id": label,
                    "bbox": box,
                    "area": area,
                    "iscrowd": int(is_crowd),
                }
            )
    return {
        "images": [{"id": index} for index in range(len(results))],
        "categories": [{"id": label, "name": str(label)} for label in range(num_classes)],
        "annotations": annotations,
    }


def _found(results: Sequence[ImageResult]) -> list[dict[str, Any]]:
    """Detections as COCO's loadRes makes them of a result file, but for the outlines it adds, which boxes need not."""
    rows: list[dict[str, Any]] = []
    for index, result in enumerate(results):
        boxes = xywh(result.found.boxes)
        areas = (boxes[:, 2] * boxes[:, 3]).tolist()
        scores = result.found.scores.astype(np.float64).tolist()
        entries = zip(boxes.tolist(), areas, scores, result.found.labels.tolist(), strict=True)
        rows += [
            {"image_id": index, "category_id": label, "bbox": box, "area": area, "score": score, "iscrowd": 0}
            for box, area, score, label in entries
        ]
    for number, row in enumerate(rows, 1):
        row["id"] = number
    return rows


def _evaluate(truth: dict[str, Any], found: list[dict[str, Any]]) -> Any:
    from faster_coco_eval import COCO, COCOeval_faster  # takes half a second to import

    logging.getLogger("faster_coco_eval").setLevel(logging.ERROR)
    ground = COCO(truth)
    predicted = COCO({"images": truth["images"], "categories": truth["categories"], "annotations": found})
    evaluation = COCOeval_faster(ground, predicted, iouType="bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation
