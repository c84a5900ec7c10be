"""What a report tells of a classifier; a section more is a function more in SECTIONS."""

from pathlib import Path

from markupsafe import Markup

from mnv2vision.classification.evaluator import FEWEST_IMAGES, ClassificationEvaluator
from mnv2vision.common import charts
from mnv2vision.common.html import Section, picture, table, text
from mnv2vision.common.text import few

TOO_SURE = 0.05
"""An expected calibration error from which on something is said."""


def _classes(evaluator: ClassificationEvaluator, folder: Path) -> Section:
    return Section("Classes", table(evaluator.per_class()))


def _confusion(evaluator: ClassificationEvaluator, folder: Path) -> Section:
    return Section("Confusion", picture(folder / "confusion.png") + table(evaluator.most_confused()))


def _mistakes(evaluator: ClassificationEvaluator, folder: Path) -> Section:
    worst = picture(folder / "mistakes.png")
    return Section("The most confident mistakes", text("What was predicted, how surely, and what it is.") + worst)


def _calibration(evaluator: ClassificationEvaluator, folder: Path) -> Section:
    if not evaluator.images:
        return Section("Calibration", Markup())
    before, after = evaluator.bins(), evaluator.calibrated()
    path = folder / "calibration.png"
    charts.reliability({"as it is": before, f"temperature {evaluator.temperature:.2f}": after}, path)
    images = len(evaluator.fitted[1])
    told = (
        f"Expected calibration error {before.error:.4f} in 15 bins; {after.error:.4f} where logits are divided by"
        f" {evaluator.temperature:.3f}, the temperature fitted to {images} of the {evaluator.images} images."
    )
    return Section("Calibration", text(told) + picture(path))


def _photos(evaluator: ClassificationEvaluator, folder: Path) -> Section:
    return Section("Some photos", picture(folder / "predictions.png"))


SECTIONS = (_classes, _confusion, _mistakes, _calibration, _photos)


def advice(evaluator: ClassificationEvaluator) -> list[str]:
    """What to try next, of classes that are not recognised, and confidence."""
    told = []
    if nothing := [row.name for row in evaluator.per_class() if row.recall == 0]:
        told.append(f"no image of {few(nothing)} is recognised: look at the labels, and add photos of them")
    if evaluator.images and (error := evaluator.bins().error) > TOO_SURE:
        kind = "too sure" if evaluator.temperature > 1 else "not sure enough"
        told.append(
            f"the probabilities are {kind}, by {100 * error:.0f} points on average: logits divided by"
            f" {evaluator.temperature:.2f} would mend it; train keeps this, of {FEWEST_IMAGES} images or more"
        )
    return told
