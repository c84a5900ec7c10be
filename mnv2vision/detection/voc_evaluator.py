"""VOC's average precision at an IoU of 0.5: over all points (2010 on) and over 11 (2007)."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnv2vision.data.sample import Boxes
from mnv2vision.detection.results import Collector, Curve, ImageResult, remark_on_objects

METRICS = ("mAP", "mAP_07")


class VocClassAp(NamedTuple):
    """A class's objects (difficult ones left out) and its average precisions; None where there are no objects of it."""

    name: str
    objects: int
    AP: float | None
    AP_07: float | None

    @property
    def AP50(self) -> float | None:  # noqa: N802
        """As COCO's rows call the figure at an IoU of 0.5."""
        return self.AP


class VocEvaluator(Collector):
    """Each object is found once, by the best-scored detection that overlaps it; more of them are wrong.

    A detection goes for the object of its class that it overlaps most. Where that is difficult, the detection counts
    neither way. Boxes are continuous here: VOC's pixels from a to b, both included, are a - 1 to b, so that areas
    are those that VOC's development kit computes with its + 1.
    """

    def __init__(self, names: Sequence[str], iou_threshold: float = 0.5) -> None:
        """Prepare.

        Args:
            names: Class names by label.
            iou_threshold: From which overlap on an object counts as found.
        """
        self.names = tuple(names)
        self.iou_threshold = iou_threshold
        super().__init__()

    def reset(self) -> None:
        """Forget all images."""
        super().reset()
        self._rows: list[VocClassAp] = []
        self._ignored = 0
        self._curves: dict[str, Curve] = {}

    def compute(self) -> dict[str, float]:
        """`mAP` and `mAP_07` in 0..1, means over the classes with objects in all processes' images; NaN without any."""
        results = self.collect()
        self._rows, self._curves = self._judge(results)
        self._ignored = sum(len(result.truth) for result in results) - sum(row.objects for row in self._rows)
        return _means(self._rows)

    def figures(self, results: Sequence[ImageResult]) -> dict[str, float]:
        """See `compute`."""
        return _means(self._judge(results)[0])

    def _judge(self, results: Sequence[ImageResult]) -> tuple[list[VocClassAp], dict[str, Curve]]:
        """Average precisions, and recall and precision of the classes with objects."""
        hits: dict[int, list[tuple[float, int]]] = defaultdict(list)
        objects: NDArray[np.int64] = np.zeros(len(self.names), np.int64)
        for result in results:
            self._match(result, hits, objects)
        rows, curves = [], {}
        for label, name in enumerate(self.names):
            if not objects[label]:
                rows.append(VocClassAp(name, 0, None, None))
                continue
            recall, precision = _curve(hits[label], int(objects[label]))
            average = average_precision(recall, precision)
            curves[name] = Curve(recall, precision, average)
            rows.append(VocClassAp(name, int(objects[label]), average, eleven_points(recall, precision)))
        return rows, curves

    def ignored(self, truth: Boxes) -> NDArray[np.bool_]:
        """(n,) which of an image's objects do not count: difficult ones, and crowds."""
        return np.asarray(truth.difficult | truth.crowd)

    def remarks(self) -> list[str]:
        """What the figures cannot tell, in a line each, after `compute`."""
        objects = np.array([row.objects for row in self._rows], np.int64)
        return remark_on_objects(self.names, objects, len(self.results), self._ignored, "mAP")

    def per_class(self) -> list[VocClassAp]:
        """A row per class, after `compute`."""
        return self._rows

    def curves(self) -> dict[str, Curve]:
        """Recall and precision by class, after `compute`; of the first ten classes with objects."""
        return dict(list(self._curves.items())[:10])

    def _match(self, result: ImageResult, hits: dict[int, list[tuple[float, int]]], objects: NDArray[np.int64]) -> None:
        """Add an image's objects, and (score, 1 hit / 0 miss) of its detections."""
        truth, found = result.truth, result.found
        ignored = self.ignored(truth)
        np.add.at(objects, truth.labels[~ignored], 1)
        overlap = _iou(found.boxes.astype(np.float64), truth.boxes.astype(np.float64))
        overlap[found.labels[:, None] != truth.labels[None]] = -1.0
        taken = np.zeros(len(truth), bool)
        best = overlap.argmax(1) if overlap.size else np.zeros(len(found.labels), np.intp)
        for i in np.argsort(-found.scores, kind="stable"):
            entry = (float(found.scores[i]), 0)
            j = best[i]
            if overlap.size and overlap[i, j] >= self.iou_threshold:
                if ignored[j]:
                    continue
                entry = (entry[0], int(not taken[j]))
                taken[j] = True
            hits[int(found.labels[i])].append(entry)


def _means(rows: Sequence[VocClassAp]) -> dict[str, float]:
    known = [row for row in rows if row.AP is not None]
    if not known:
        return dict.fromkeys(METRICS, float("nan"))
    return {
        "mAP": float(np.mean([row.AP for row in known if row.AP is not None])),
        "mAP_07": float(np.mean([row.AP_07 for row in known if row.AP_07 is not None])),
    }


def _iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (a, b)]
    return np.asarray(common / np.maximum(areas[0][:, None] + areas[1][None] - common, 1e-12))


def _curve(hits: Sequence[tuple[float, int]], objects: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Recall and precision after each detection, from the best score on."""
    scores = np.array([score for score, _ in hits], np.float64)
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(np.array([hit for _, hit in hits], np.float64)[order])
    return right / objects, right / np.arange(1, len(right) + 1)


def average_precision(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> float:
    """Area under the precision made monotonous: VOC 2010 to 2012."""
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * envelope).sum())


def eleven_points(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> float:
    """Mean of the best precision at a recall of 0, 0.1, … 1 or more: VOC 2007."""
    best = [precision[recall >= point].max(initial=0.0) for point in np.arange(0.0, 1.1, 0.1)]
    return float(np.mean(best))
