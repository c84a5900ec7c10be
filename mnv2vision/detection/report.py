"""What a report tells of a detector; a section more is a function more in SECTIONS."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from mnv2vision.common import charts, draw, fonts
from mnv2vision.common.html import Section, picture, table, text
from mnv2vision.common.text import few
from mnv2vision.detection.coco_evaluator import ClassAp
from mnv2vision.detection.errors import ERRORS, FOREGROUND, Judged, Verdict, error_kinds
from mnv2vision.detection.mistakes import SHOWN_SCORE
from mnv2vision.detection.thresholds import ClassThreshold, class_thresholds, score_curve
from mnv2vision.detection.voc_evaluator import VocClassAp

_CURVES = 10
"""Classes whose curves are drawn, those with the most objects."""
_CONFUSION = (
    "Of detections from the recommended scores on, in percent of the objects of a class. The last column is of objects"
    " that were missed; the last row of detections where nothing is, in percent of these."
)
_HINTS = {
    "class": "look at the confusion table for labels that are mixed up, or classes that need more photos",
    "localisation": "give boxes more pixels, by a larger model.image_size, and look whether the labels are tight",
    "both": "train longer, or on more photos",
    "duplicate": "lower the head's nms_iou",
    "background": "add photos without objects that look like these, and look for objects that are not annotated",
    "missed": "train longer, on more photos, or at a larger model.image_size",
}


class Evaluated(NamedTuple):
    """What is told of.

    Attributes:
        names: Class names by label.
        judged: All detections.
        kept: Those from the recommended scores on; None where none is recommended.
        rows: The evaluator's table of classes.
        thresholds: The recommended scores by class; () where none is.
    """

    names: Sequence[str]
    judged: Judged
    kept: Judged | None
    rows: Sequence[ClassAp] | Sequence[VocClassAp]
    thresholds: tuple[float, ...] = ()


def _classes(of: Evaluated, folder: Path) -> Section:
    thresholds = class_thresholds(of.judged, of.names)
    found = sorted((row for row in thresholds if row.threshold is not None), key=lambda row: -row.objects)[:_CURVES]
    labels = {row.name: of.names.index(row.name) for row in found}
    path = folder / "thresholds.png"
    charts.over_scores(
        {name: tuple(score_curve(of.judged, label)) for name, label in labels.items()},  # type: ignore[misc]
        {row.name: row.threshold for row in found if row.threshold is not None},
        {row.name: row.AP50 for row in of.rows if row.AP50 is not None},
        path,
    )
    told = "The score with the best F1 at an IoU of 0.5 is recommended: predict … threshold=auto."
    return Section("Classes", table(of.rows) + text(told) + table(_known(thresholds)) + picture(path))


def _known(rows: Sequence[ClassThreshold]) -> Sequence[ClassThreshold]:
    return [row for row in rows if row.objects or row.threshold is not None]


def _confusion(of: Evaluated, folder: Path) -> Section:
    path = folder / "confusion.png"
    if of.kept is None:
        return Section("Confusion", Markup())
    draw_confusion(of.kept, of.names, path)
    return Section("Confusion", text(_CONFUSION) + picture(path))


def _errors(of: Evaluated, folder: Path) -> Section:
    rows, path = error_kinds(of.judged, len(of.names)), folder / "errors.png"
    charts.bars({row.kind: 100 * row.dAP for row in rows}, "points of AP at an IoU of 0.5 that it costs", path)
    told = "Kinds by TIDE's definitions (arXiv 2008.08115); dAP is what mending all errors of a kind would add."
    return Section("Kinds of errors", text(told) + table(rows) + picture(path))


def _pictures(of: Evaluated, folder: Path) -> Section:
    told = f"The photos with the most objects missed or invented; annotated on the left, found on the right{_from(of)}."
    worst = picture(folder / "mistakes.png")
    return Section("The worst mistakes", text(told) + worst if worst else Markup())


def _confident(of: Evaluated, folder: Path) -> Section:
    told = "Of the photos with the surest wrong detections that one on the right; annotated on the left."
    sure = picture(folder / "confident.png")
    return Section("The most confident mistakes", text(told) + sure if sure else Markup())


def _curves(of: Evaluated, folder: Path) -> Section:
    told = text(f"Some photos: annotated on the left, found on the right{_from(of)}.")
    photos = picture(folder / "predictions.png")
    curves = picture(folder / "precision_recall.png")
    return Section("Precision and recall, and some photos", curves + told + photos if photos else curves)


def _from(of: Evaluated) -> str:
    return ", from the recommended scores on" if of.thresholds else f", from a score of {SHOWN_SCORE} on"


SECTIONS = (_classes, _confusion, _errors, _pictures, _confident, _curves)


def confusion(judged: Judged, num_classes: int) -> NDArray[np.int64]:
    """(C + 1, C + 1) counts by actual and found class; the last row is of what was invented, the last column missed.

    Args:
        judged: The detections that count as found.
        num_classes: C.
    """
    counts = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    taken = judged.found.copy()
    right = judged.right
    np.add.at(counts, (judged.truth_labels[judged.objects[right]], judged.labels[right]), 1)
    for place in np.flatnonzero(judged.counts & ~right):
        target = judged.objects[place]
        actual = num_classes
        if judged.verdicts[place] == Verdict.CLASS and not taken[target]:
            taken[target], actual = True, judged.truth_labels[target]
        counts[actual, judged.labels[place]] += 1
    counts[:-1, -1] = np.bincount(judged.truth_labels[~taken], minlength=num_classes)
    return counts


def draw_confusion(judged: Judged, names: Sequence[str], path: Path) -> None:
    """Draw the confusion of the classes that occur or were found, if any."""
    counts = confusion(judged, len(names))
    seen = np.flatnonzero(counts.sum(0)[:-1] + counts.sum(1)[:-1])
    if len(seen):
        kept = [*seen, len(names)]
        shown = fonts.legible(names)
        labels = [shown[label] for label in seen]
        draw.confusion_matrix(counts[np.ix_(kept, kept)], [*labels, "(nothing)"], path, found=[*labels, "(missed)"])


def advice(of: Evaluated) -> list[str]:
    """What to try next, of kinds of errors and classes that are not found."""
    told = []
    thresholds = class_thresholds(of.judged, of.names)
    if nothing := [row.name for row in thresholds if row.objects and row.threshold is None]:
        told.append(f"no object of {few(nothing)} is found: look at the labels, and add photos of them")
    costs = {row.kind: row.dAP for row in error_kinds(of.judged, len(of.names))}
    assert costs.keys() == set(ERRORS.values())
    worst = max(costs, key=lambda kind: costs[kind])
    if costs[worst] >= 0.02:
        told.append(f"errors of the kind “{worst}” cost most, {100 * costs[worst]:.1f} points: {_HINTS[worst]}")
    return told


def anchor_advice(
    sides: NDArray[np.float64], photos: NDArray[np.float64], shorter: NDArray[np.float64], anchors: NDArray[np.float64]
) -> list[str]:
    """Whether many objects are smaller than any anchor.

    Args:
        sides: (n, 2) widths and heights of objects in 0..1 of the network's input.
        photos: (n,) the roots of their areas in pixels of their photos.
        shorter: (n,) the shorter sides of their photos, in pixels.
        anchors: (A, 2) widths and heights in 0..1.
    """
    if not len(sides):
        return []
    shapes = np.unique(anchors.round(4), axis=0)
    common = np.minimum(sides[:, None], shapes[None]).prod(2)
    overlap = common / (sides.prod(1)[:, None] + shapes.prod(1)[None] - common)
    least = shapes.prod(1).min()
    small = (overlap.max(1) < FOREGROUND) & (sides.prod(1) < least)
    if small.mean() < 0.05:
        return []
    # In a tile an object's share grows as the tile shrinks: half of the smallest anchor is what is reached.
    reached = np.sqrt(FOREGROUND * least)
    tile = int(np.median(np.minimum(photos[small] / reached, shorter[small])))
    return [
        f"{100 * small.mean():.0f} % of the objects are smaller than any anchor (an overlap of {FOREGROUND} with none);"
        f" anchors grow with model.image_size: photos cut into tiles of {tile} pixels would reach half of them"
    ]
