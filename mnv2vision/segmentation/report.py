"""What a report tells of a segmentation model; a section more is a function more in SECTIONS."""

from pathlib import Path

from markupsafe import Markup

from mnv2vision.common.html import Section, picture, table, text
from mnv2vision.common.text import few
from mnv2vision.segmentation.evaluator import SegmentationEvaluator


def _classes(evaluator: SegmentationEvaluator, folder: Path) -> Section:
    return Section("Classes", table(evaluator.per_class()))


def _confusion(evaluator: SegmentationEvaluator, folder: Path) -> Section:
    return Section("Confusion", picture(folder / "confusion.png"))


def _mistakes(evaluator: SegmentationEvaluator, folder: Path) -> Section:
    told = text("Photos with the lowest mean IoU; annotated on the left, predicted on the right.")
    worst = picture(folder / "mistakes.png")
    return Section("The worst photos", (told + worst if worst else Markup()) + table(evaluator.worst()))


def _photos(evaluator: SegmentationEvaluator, folder: Path) -> Section:
    told = text("Annotated on the left, predicted on the right.")
    photos = picture(folder / "predictions.png")
    return Section("Some photos", told + photos if photos else Markup())


SECTIONS = (_classes, _confusion, _mistakes, _photos)


def advice(evaluator: SegmentationEvaluator) -> list[str]:
    """What to try next, of classes that are not found."""
    if nothing := [row.name for row in evaluator.per_class() if row.pixels and not row.recall]:
        return [f"no pixel of {few(nothing)} is found: loss.class_weights=auto, or more photos of them"]
    return []
