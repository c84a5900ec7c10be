"""A photo's objects."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2vision.errors import ConfigError
from mnv2vision.predictions.base import Exported, finite, softmax

AUTO = "auto"
"""Of a threshold: what the model recommends for each class."""
MATCHED = 0.9
"""From which overlap on two objects are taken for the same, where models are compared."""

_MAX_LOG_SIZE = np.float32(math.log(1000.0))  # as `detection.box_coder` has it
_CANDIDATES = 400  # looked at first; more only where too many of them suppress one another


@dataclass(frozen=True)
class Detection:
    """A photo's objects, best first.

    Attributes:
        boxes: (n, 4) float (x1, y1, x2, y2) in the photo's pixels.
        scores: (n,) float in 0..1.
        labels: (n,) int64 in 0..C-1.
        names: Class names by label; empty in evaluation, whose data set has them.
        tracks: (n,) int64, of a video that is tracked: which object it is, from 1 on; 0 where it is not yet known.
    """

    boxes: NDArray[np.floating]
    scores: NDArray[np.floating]
    labels: NDArray[np.int64]
    names: tuple[str, ...] = ()
    tracks: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, kept: NDArray[np.bool_] | NDArray[np.int64]) -> "Detection":
        """The kept objects: (n,) bool, or their places."""
        tracks = None if self.tracks is None else self.tracks[kept]
        return Detection(self.boxes[kept], self.scores[kept], self.labels[kept], self.names, tracks)

    def counts(self) -> dict[str, int]:
        """How many objects there are of each class that there is, by its name."""
        labels, counts = np.unique(self.labels, return_counts=True)
        return {self.names[label]: count for label, count in zip(labels.tolist(), counts.tolist(), strict=True)}


def check_max_detections(value: int) -> int:
    """The number of detections an image, if it is one; else ConfigError."""
    if type(value) is not int or value < 1:
        raise ConfigError(f"max_detections={value!r} must be an integer of at least 1")
    return value


def check_threshold(value: float | str) -> None:
    """Raise ConfigError for a threshold that is neither in 0..1 nor "auto"."""
    if value == AUTO:
        return
    if isinstance(value, str) or not 0 <= value <= 1:
        raise ConfigError(f"threshold={value} is not in 0..1, nor {AUTO}")


def least_scores(threshold: float | str, recommended: Sequence[float]) -> float | NDArray[np.float32]:
    """The score below which objects are dropped: one, or (C,) of each class.

    Args:
        threshold: In 0..1, or "auto" for those that the model recommends.
        recommended: By class; empty where it recommends none.

    Raises:
        ConfigError: For "auto" where it recommends none.
    """
    if not isinstance(threshold, str):
        return float(threshold)
    if not recommended:
        raise ConfigError(
            f"threshold={AUTO}: the model recommends none: it was not evaluated where it was trained, or found nothing"
            " there; give a number in 0..1"
        )
    return np.array(recommended, np.float32)


def crowded_remarks(photos: int, limit: int) -> list[str]:
    """How many photos had more objects than are found at most."""
    if not photos:
        return []
    have = "1 photo has" if photos == 1 else f"{photos} photos have"
    return [f"{have} more than max_detections={limit} objects: the best are kept"]


class DetectionArrays:
    """See `predictions.base.ArrayDecoder`; the same objects as `detection.postprocess.detect` finds."""

    def __init__(
        self, head: Exported, *, score_threshold: float | str = 0.3, max_detections: int | None = None
    ) -> None:
        """Set it up.

        Args:
            head: A detector's.
            score_threshold: Objects with less are dropped, 0..1; "auto": as the model recommends for each class.
            max_detections: How many objects are found on a photo at most, the best ones; None: as the model says.
        """
        rule: Mapping[str, Any] = head.parameters
        self._names, self._preprocessing = head.names, head.preprocessing
        self._scores, self._nms_iou = rule["scores"], float(rule["nms_iou"])
        self._anchors = np.array(rule["anchors"], np.float32)
        self._box_scales = np.array(rule["box_scales"], np.float32)
        least = least_scores(score_threshold, rule.get("thresholds", ()))
        self._least = np.broadcast_to(np.asarray(least, np.float32), len(head.names))  # ValueError for another number
        self._most = int(rule["max_detections"])
        self._limit = self._most if max_detections is None else check_max_detections(max_detections)
        self._crowded = 0

    def __call__(self, outputs: Mapping[str, NDArray[Any]], sizes: Sequence[tuple[int, int]]) -> list[Detection]:
        """The objects of each image."""
        found = []
        for i, size in enumerate(sizes):
            if "boxes" in outputs:
                if self._limit > self._most:
                    raise ConfigError(f"max_detections={self._limit}: the exported file finds {self._most} at most")
                shown = outputs["scores"][i] > self._least[outputs["labels"][i].astype(np.int64)]
                boxes, scores, labels = (outputs[name][i][shown] for name in ("boxes", "scores", "labels"))
            else:
                boxes, scores, labels = self._objects(outputs["box_codes"][i], outputs["class_logits"][i])
            self._crowded += len(scores) > self._limit
            best = slice(self._limit)
            on_photo = self._preprocessing.to_photo(boxes[best], *size)
            found.append(Detection(on_photo, scores[best], labels[best].astype(np.int64), self._names))
        return found

    def remarks(self) -> list[str]:
        """How many photos had more objects than are found at most."""
        return crowded_remarks(self._crowded, self._limit)

    def _objects(
        self, codes: NDArray[np.float32], logits: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
        """Boxes (n, 4) in 0..1 of the network's input, scores and labels, best first; one more than the limit."""
        finite(codes)
        finite(logits)
        is_sigmoid, columns, wanted = self._scores == "sigmoid", logits.shape[1] - 1, self._limit + 1
        # By logits, of which fewer are equal than of their sigmoids.
        ranked = (logits if is_sigmoid else softmax(logits, 1))[:, 1:].ravel()
        count = min(max(_CANDIDATES, 2 * wanted), ranked.size)
        while True:
            worst = np.partition(ranked, ranked.size - count)[ranked.size - count]
            best = np.flatnonzero(ranked >= worst)  # equal scores, which int8 has many of, stay in their order
            best = best[np.argsort(-ranked[best], kind="stable")]
            scores: NDArray[np.floating] = _sigmoid(ranked[best]) if is_sigmoid else ranked[best]
            anchor, label = best // columns, best % columns
            boxes = _decode(codes[anchor] / self._box_scales, self._anchors[anchor])
            kept = _suppress(boxes, label, scores > self._least[label], self._nms_iou, wanted)
            # Only a better box can suppress: the best candidates decide among themselves.
            if len(kept) == wanted or scores[-1] <= self._least.min() or len(best) == ranked.size:
                return boxes[kept], scores[kept], label[kept]
            count = min(4 * len(best), ranked.size)


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.floating]:
    with np.errstate(over="ignore"):  # 1 / (1 + inf) is the 0 that is meant
        scores: NDArray[np.floating] = 1 / (1 + np.exp(-logits))
    return scores


def _decode(offsets: NDArray[np.float32], anchors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Boxes (n, 4) clipped to 0..1."""
    centre = offsets[:, :2] * anchors[:, 2:] + anchors[:, :2]
    half = np.exp(np.minimum(offsets[:, 2:], _MAX_LOG_SIZE)) * anchors[:, 2:] / 2
    boxes = np.concatenate([centre - half, centre + half], 1).astype(np.float32)
    np.clip(boxes, 0, 1, out=boxes)
    return boxes


def _suppress(
    boxes: NDArray[np.float32], labels: NDArray[np.int64], valid: NDArray[np.bool_], nms_iou: float, wanted: int
) -> list[int]:
    """The first `wanted` that greedy class-wise suppression leaves, of the valid ones that have an area."""
    valid = valid & ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) > 0)
    # In double precision and classes apart, as `detection.postprocess` has it: then not even roundings differ.
    apart = boxes.astype(np.float64) + 2 * labels[:, None]
    areas = (apart[:, 2:] - apart[:, :2]).prod(1)
    kept: list[int] = []
    while len(kept) < wanted and valid.any():
        i = int(valid.argmax())
        kept.append(i)
        sides = np.minimum(apart[i, 2:], apart[:, 2:]) - np.maximum(apart[i, :2], apart[:, :2])
        common = sides.clip(0).prod(1)
        valid &= common <= nms_iou * (areas[i] + areas - common)
        valid[i] = False
    return kept


def agreement(a: Detection, b: Detection) -> tuple[int, int]:
    """See `PredictionKind.agreement`: each object of `a`, best first, with the one of `b` that it overlaps most."""
    ours, theirs = a.boxes.astype(np.float64), b.boxes.astype(np.float64)
    low = np.maximum(ours[:, None, :2], theirs[None, :, :2])
    common = (np.minimum(ours[:, None, 2:], theirs[None, :, 2:]) - low).clip(0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (ours, theirs)]
    overlaps = common / (areas[0][:, None] + areas[1][None] - common).clip(1e-12)
    overlaps[a.labels[:, None] != b.labels[None]] = 0
    matched = 0
    for row in overlaps:
        if row.size and row.max() >= MATCHED:
            overlaps[:, row.argmax()] = 0
            matched += 2
    return matched, len(a) + len(b)
