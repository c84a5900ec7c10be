"""The data set says whose evaluation its boxes are for, and `dataset.protocol` overrides it."""

from typing import Any

import pytest

import mnv2vision as mv
from mnv2vision.contracts import HeadSettings
from mnv2vision.data.formats.shapes import Shapes
from mnv2vision.detection.coco_evaluator import CocoEvaluator
from mnv2vision.detection.voc_evaluator import VocEvaluator
from mnv2vision.models.tasks import TASKS
from mnv2vision.tasks.base import Task


class VocShapes(Shapes):
    protocol = "voc"


@pytest.mark.parametrize(
    ("source", "protocol", "evaluator"),
    [
        (Shapes, None, CocoEvaluator),
        (VocShapes, None, VocEvaluator),
        (Shapes, "voc", VocEvaluator),
        (VocShapes, "coco", CocoEvaluator),
    ],
)
def test_the_evaluator(source: type[Shapes], protocol: str | None, evaluator: Any) -> None:
    model = mv.create_model("detection", width=0.35, names=Shapes.names, image_size=64)
    ((name, head),) = model.heads_in_use()
    training = TASKS["detection"].training().create(head, source("val", 1), HeadSettings(protocol=protocol))
    task = Task(model, {name: training})
    assert isinstance(training.evaluator, evaluator)
    assert task.monitor == ("mAP" if evaluator is VocEvaluator else "AP")
