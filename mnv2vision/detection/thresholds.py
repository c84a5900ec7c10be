"""The score from which on a detector is best believed, class by class: where F1 at an IoU of 0.5 is highest."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnv2vision.detection.errors import Judged


class ScoreCurve(NamedTuple):
    """What is right from a score on, at each score that occurs, the highest first.

    Attributes:
        scores: (n,).
        precision: (n,) of the detections with so much or more.
        recall: (n,) of the objects.
        f1: (n,) the harmonic mean of both.
    """

    scores: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]


class ClassThreshold(NamedTuple):
    """The score with a class's best F1, and what is right there; None for a class without objects or none found."""

    name: str
    objects: int
    threshold: float | None
    F1: float | None
    precision: float | None
    recall: float | None


def score_curve(judged: Judged, label: int | None = None) -> ScoreCurve:
    """Precision, recall and F1 over the score.

    Args:
        judged: The detections.
        label: Of a class; of all together by default.
    """
    own = judged.counts if label is None else judged.counts & (judged.labels == label)
    objects = len(judged.truth_labels) if label is None else int((judged.truth_labels == label).sum())
    order = np.flatnonzero(own)[np.argsort(-judged.scores[own], kind="stable")]
    scores, hits = judged.scores[order], np.cumsum(judged.right[order])
    last = np.flatnonzero(np.append(np.diff(scores) < 0, True)[: len(scores)])  # equal scores come in together
    count, hits = last + 1, hits[last]
    return ScoreCurve(scores[last], hits / count, hits / max(objects, 1), 2 * hits / (count + objects))


def best_threshold(curve: ScoreCurve) -> tuple[int, float] | None:
    """Where a curve's F1 is highest, and a score halfway to the next lower one; None where nothing is right."""
    if not curve.f1.any():
        return None
    place = int(curve.f1.argmax())
    lower = curve.scores[place + 1] if place + 1 < len(curve.scores) else 0.0
    return place, float((curve.scores[place] + lower) / 2)


def class_thresholds(judged: Judged, names: Sequence[str]) -> list[ClassThreshold]:
    """A row per class."""
    rows = []
    for label, name in enumerate(names):
        curve, objects = score_curve(judged, label), int((judged.truth_labels == label).sum())
        best = best_threshold(curve)
        if best is None:
            rows.append(ClassThreshold(name, objects, None, 0.0 if objects else None, None, 0.0 if objects else None))
            continue
        place, threshold = best
        at = (float(values[place]) for values in (curve.f1, curve.precision, curve.recall))
        rows.append(ClassThreshold(name, objects, threshold, *at))
    return rows


def recommended(judged: Judged, names: Sequence[str]) -> tuple[float, ...]:
    """A score for each class: its own, or that of all classes together for one that was not found; () if none was."""
    overall = best_threshold(score_curve(judged))
    if overall is None:
        return ()
    rows = class_thresholds(judged, names)
    return tuple(overall[1] if row.threshold is None else row.threshold for row in rows)
