"""The number of detections an image: in VOC's figures, in an evaluation from the command line."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.ops import box_iou

import mnv2vision as mv
from mnv2vision.cli.main import main
from mnv2vision.contracts import RawDetections
from mnv2vision.data.batch import Batch
from mnv2vision.data.sample import Boxes, Sample
from mnv2vision.detection.box_coder import to_corners
from mnv2vision.detection.voc_evaluator import VocEvaluator
from mnv2vision.tasks.detection import DetectionTask

SIZE = (320, 320)


def apart(boxes: torch.Tensor, count: int) -> list[int]:
    """Boxes within the image that overlap one another by less than 0.4, the smallest first."""
    chosen: list[int] = []
    for i in ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).argsort().tolist():
        within = bool(((boxes[i] >= 0) & (boxes[i] <= 1)).all())
        if within and (not chosen or bool((box_iou(boxes[i][None], boxes[chosen]) < 0.4).all())):
            chosen.append(i)
        if len(chosen) == count:
            break
    return chosen


@pytest.mark.parametrize(("limit", "mean_precision"), [(100, 0.5), (200, 1.0), (300, 1.0)])
def test_two_hundred_objects_that_are_all_found(
    limit: int, mean_precision: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each is found exactly: by VOC's definition the precision is 1 up to the recall that the limit allows."""
    model: Any = mv.create_model("detection", width=0.35, names=("egg",), image_size=SIZE, max_detections=limit)
    with torch.no_grad():
        anchors = model(torch.zeros(1, 3, *SIZE)).anchors
    corners = to_corners(anchors)
    chosen = apart(corners, 200)
    logits = torch.full((1, len(corners), 2), -12.0)
    logits[0, chosen, 1] = torch.linspace(8, 9, 200)
    boxes = (corners[chosen] * 320).numpy()
    truth = Sample(np.empty((0, 0, 3), np.uint8), 1, "", boxes=Boxes.of(boxes, np.zeros(200, np.int64)), size=SIZE)
    evaluator = VocEvaluator(("egg",))
    task = DetectionTask(model, evaluator)
    raw = RawDetections(torch.zeros(1, len(corners), 4), logits, anchors)
    images = torch.zeros(1, 3, *SIZE, dtype=torch.uint8)
    task.heads["detection"].evaluate(lambda _: raw, images, Batch(images, [1], truth=[truth]))
    assert evaluator.compute()["mAP"] == pytest.approx(mean_precision, abs=1e-6)
    task.write_report(tmp_path)
    (result,) = evaluator.results
    assert len(result.found.labels) >= min(limit, 200)
    told = [] if limit >= 200 else ["1 of 1 images have more than model.max_detections=100 objects: no more are found"]
    assert [message.removesuffix(" on an image") for message in caplog.messages] == told


@pytest.mark.slow
def test_evaluation_from_the_command_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    randomize: Callable[[nn.Module], None],
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("circle", "square", "triangle", "ring", "cross", "star")
    model = mv.create_model("detection", width=0.35, names=names, image_size=64)
    randomize(model)
    mv.save(model, "model.safetensors")
    other = mv.create_model("classification", width=0.35, num_classes=6, image_size=64)
    mv.save(other, "other.safetensors")
    common = ["dataset.val_size=6", "loader.workers=0", "trainer.accelerator=cpu"]
    arguments = ["eval", "checkpoint=model.safetensors", *common]
    assert main([*arguments, "run_dir=a", "model.max_detections=1"]) == 0
    found = json.loads(Path("a/predictions.json").read_text())
    assert set(Counter(item["image_id"] for item in found).values()) == {1}
    captured = capsys.readouterr()
    assert "images have more than model.max_detections=1 objects" in captured.out + captured.err
    assert main([*arguments, "run_dir=b"]) == 0
    assert max(Counter(item["image_id"] for item in json.loads(Path("b/predictions.json").read_text())).values()) == 100
    captured = capsys.readouterr()
    assert "max_detections" not in captured.out + captured.err
    for wrong, message in (
        (
            ["checkpoint=model.safetensors", "model.max_detections=0"],
            "model.max_detections takes a whole number in 1..100000, or null, not 0",
        ),
        (["checkpoint=other.safetensors", "model.max_detections=5"], "is for detection, not for a model of classific"),
    ):
        assert main(["eval", *common, "run_dir=c", *wrong]) == 2
        assert message in capsys.readouterr().err
