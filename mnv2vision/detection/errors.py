"""Kinds of errors of detections, and what each costs in average precision, by TIDE's definitions.

Source: Bolya et al., TIDE: A General Toolbox for Identifying Object Detection Errors, arXiv 2008.08115, sections 2 and
3. What the paper leaves open (ties, crowds, classes that are found but do not occur) is as its tool, tidecv 1.0.1, has
it, whose figures these are.
"""

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnv2vision.detection.results import ImageResult, xywh

FOREGROUND, BACKGROUND = 0.5, 0.1
"""From which overlap on an object is found, and up to which there is nothing."""
_MOST = 100  # detections of an image, as COCO counts them
_RECALLS = np.arange(101) / 100


class Verdict(IntEnum):
    """What a detection is; only MISSED is of objects."""

    RIGHT = 0
    CLASS = 1
    PLACE = 2
    BOTH = 3
    DUPLICATE = 4
    BACKGROUND = 5
    MISSED = 6


ERRORS = {
    Verdict.CLASS: "class",
    Verdict.PLACE: "localisation",
    Verdict.BOTH: "both",
    Verdict.DUPLICATE: "duplicate",
    Verdict.BACKGROUND: "background",
    Verdict.MISSED: "missed",
}
"""Names of the kinds of errors."""


class Judged(NamedTuple):
    """All detections of some images, in their order and the best of each first, and all objects that count.

    Attributes:
        images: (n,) places of the detections' images.
        places: (n,) their places in the images' `found`.
        labels: (n,) their classes.
        scores: (n,) their scores.
        verdicts: (n,) `Verdict`s.
        counts: (n,) bool; False for wrong ones that lie in a crowd or an object that does not count.
        objects: (n,) the objects that they found, or would have found; -1 for none.
        truth_images: (m,) places of the objects' images.
        truth_places: (m,) their places in the images' `truth`.
        truth_labels: (m,) their classes.
        found: (m,) bool.
        repaired: (m,) the best detection that would have found an object but for its class or place; -1 for none.
    """

    images: NDArray[np.int64]
    places: NDArray[np.int64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    verdicts: NDArray[np.int64]
    counts: NDArray[np.bool_]
    objects: NDArray[np.int64]
    truth_images: NDArray[np.int64]
    truth_places: NDArray[np.int64]
    truth_labels: NDArray[np.int64]
    found: NDArray[np.bool_]
    repaired: NDArray[np.int64]

    @property
    def right(self) -> NDArray[np.bool_]:
        """(n,) whether each found an object."""
        return np.asarray(self.verdicts == Verdict.RIGHT)

    @property
    def missed(self) -> NDArray[np.bool_]:
        """(m,) whether no detection found an object, nor would have but for its class or place."""
        return ~self.found & (self.repaired < 0)


class ErrorKind(NamedTuple):
    """A kind of errors: how many there are, and by how much AP at an IoU of 0.5 would be higher without (0..1)."""

    kind: str
    number: int
    dAP: float


def judge(
    results: Sequence[ImageResult], ignored: Sequence[NDArray[np.bool_]], least: NDArray[np.float64] | None = None
) -> Judged:
    """Tell of each detection what it is.

    Args:
        results: Of the images.
        ignored: Of each image (objects,) which of its objects do not count.
        least: (C,) scores below which detections are left out, by class; all are judged by default.
    """
    return join(_judge(result, outside, least) for result, outside in zip(results, ignored, strict=True))


def join(judged: Iterable[Judged]) -> Judged:
    """Those of an image each as one."""
    empty: Any = np.empty(0, np.int64)
    parts = [Judged(*[empty] * 12)]
    detections = objects = 0
    for image, own in enumerate(judged):
        parts.append(
            own._replace(
                images=own.images + image,
                truth_images=own.truth_images + image,
                objects=np.where(own.objects < 0, -1, own.objects + objects),
                repaired=np.where(own.repaired < 0, -1, own.repaired + detections),
            )
        )
        detections, objects = detections + len(own.labels), objects + len(own.truth_labels)
    columns = Judged(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    return columns._replace(counts=columns.counts.astype(bool), found=columns.found.astype(bool))


def _judge(result: ImageResult, outside: NDArray[np.bool_], least: NDArray[np.float64] | None) -> Judged:
    """See `judge`: of one image."""
    found, truth = result.found, result.truth
    order = np.argsort(-found.scores, kind="stable")[:_MOST]
    if least is not None:
        order = order[found.scores[order] >= least[found.labels[order]]]
    there = np.flatnonzero(~outside)
    labels, boxes = found.labels[order], xywh(found.boxes[order])
    truth_labels, truth_boxes = truth.labels[there], xywh(truth.boxes)
    count, objects = len(order), len(there)

    overlap, in_crowd = _overlaps(boxes, truth_boxes[there]), _overlaps(boxes, truth_boxes[outside], crowds=True)
    same = labels[:, None] == truth_labels[None]
    own, other = overlap * same, overlap * ~same
    taken = _match(own)
    is_found = np.isin(np.arange(objects), taken)
    at = np.flatnonzero(taken < 0)
    counts = np.ones(count, bool)
    counts[at] = ~((in_crowd[at] > FOREGROUND) & (labels[at, None] == truth.labels[outside][None])).any(1)

    nearest, nearest_other = _best(own), _best(other)
    tests = (
        (taken >= 0, Verdict.RIGHT, taken),
        ((nearest.overlap >= BACKGROUND) & (nearest.overlap <= FOREGROUND), Verdict.PLACE, nearest.place),
        (nearest_other.overlap >= FOREGROUND, Verdict.CLASS, nearest_other.place),
        (_best(own * is_found).overlap >= FOREGROUND, Verdict.DUPLICATE, nearest.place),
        (_best(overlap).overlap <= BACKGROUND, Verdict.BACKGROUND, np.full(count, -1)),
    )
    conditions = [test[0] for test in tests]
    verdicts = np.select(conditions, [int(test[1]) for test in tests], int(Verdict.BOTH))
    places = np.select(conditions, [test[2] for test in tests], -1)

    repaired = np.full(objects, -1)
    near = np.flatnonzero((verdicts == Verdict.PLACE) | (verdicts == Verdict.CLASS))[::-1]
    near = near[~is_found[places[near]]]
    repaired[places[near]] = near  # the last written is the best
    zeros = np.zeros
    return Judged(
        *(zeros(count, np.int64), order, labels, found.scores[order].astype(np.float64), verdicts, counts, places),
        *(zeros(objects, np.int64), there, truth_labels, is_found, repaired),
    )


class _Best(NamedTuple):
    overlap: NDArray[np.float64]
    place: NDArray[np.int64]


def _best(overlap: NDArray[np.float64]) -> _Best:
    """Of each row the largest overlap, and where it is; 0 and -1 without columns."""
    if not overlap.shape[1]:
        return _Best(np.zeros(len(overlap)), np.full(len(overlap), -1))
    place = overlap.argmax(1)
    return _Best(overlap[np.arange(len(overlap)), place], place)


def _match(own: NDArray[np.float64]) -> NDArray[np.int64]:
    """(n,) the object that each detection finds: of those that are left the one that it overlaps most; -1 for none."""
    free = own.copy()
    taken = np.full(len(own), -1)
    for row in np.flatnonzero(own.max(1, initial=0.0) >= FOREGROUND):
        place = int(free[row].argmax())
        if free[row, place] >= FOREGROUND:
            taken[row] = place
            free[:, place] = 0
    return taken


def _overlaps(boxes: NDArray[np.float64], others: NDArray[np.float64], *, crowds: bool = False) -> NDArray[np.float64]:
    """(n, m) intersection over union of boxes (n, 4) and (m, 4) xywh; over the first's area for crowds."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum((boxes[:, :2] + boxes[:, 2:])[:, None], (others[:, :2] + others[:, 2:])[None])
    sides = high - low
    common = np.where((sides > 0).all(2), sides.prod(2), 0.0)
    areas = boxes[:, 2:].prod(1)[:, None]
    union = areas if crowds else areas + others[:, 2:].prod(1)[None] - common
    return np.asarray(common / np.where(union > 0, union, 1.0))


def error_kinds(judged: Judged, num_classes: int) -> list[ErrorKind]:
    """Each kind of errors, with what mending all of its errors would add to AP at an IoU of 0.5.

    As in TIDE, the mean is over the classes that occur or are found, a class that only is found with an AP of 0.

    Args:
        judged: Of `judge`.
        num_classes: How many classes there are.
    """
    objects = np.bincount(judged.truth_labels, minlength=num_classes)
    counted = np.flatnonzero(judged.counts)
    before = _mean_ap(judged.labels[counted], judged.scores[counted], judged.right[counted], objects)
    wrong, right = np.flatnonzero(~judged.right), np.flatnonzero(judged.right)
    mends = np.zeros(len(judged.labels), bool)
    mends[judged.repaired[judged.repaired >= 0]] = True
    rows = []
    for verdict, name in ERRORS.items():
        of_kind = judged.verdicts == verdict
        is_mended = of_kind & mends  # never for kinds that are mended by leaving them out
        left = objects
        count = int(of_kind.sum())
        if verdict == Verdict.MISSED:
            left = objects - np.bincount(judged.truth_labels[judged.missed], minlength=num_classes)
            count = int(judged.missed.sum())
        # Wrong ones first: of equal scores they come before the right ones here.
        rest = wrong[np.where(of_kind[wrong], is_mended[wrong], judged.counts[wrong])]
        order = np.concatenate([rest, right])
        labels = judged.labels.copy()
        labels[is_mended] = judged.truth_labels[judged.objects[is_mended]]
        after = _mean_ap(labels[order], judged.scores[order], (judged.right | is_mended)[order], left)
        rows.append(ErrorKind(name, count, max(after - before, 0.0)))
    return rows


def _mean_ap(
    labels: NDArray[np.int64], scores: NDArray[np.float64], right: NDArray[np.bool_], objects: NDArray[np.int64]
) -> float:
    """Average precision at 101 recalls, the mean over the classes with objects or detections; 0 without any."""
    order = np.argsort(-scores, kind="stable")
    labels, right = labels[order], right[order]
    found: list[float] = []
    for label in np.flatnonzero((objects > 0) | (np.bincount(labels, minlength=len(objects)) > 0)):
        hits = right[labels == label]
        if not objects[label] or not len(hits):
            found.append(0.0)
            continue
        rights = np.cumsum(hits)
        precision = np.maximum.accumulate((rights / np.arange(1, len(hits) + 1))[::-1])[::-1]
        at = np.searchsorted(rights / objects[label], _RECALLS)
        found.append(float(np.append(precision, 0.0)[at].mean()))
    return float(np.mean(found)) if found else 0.0
