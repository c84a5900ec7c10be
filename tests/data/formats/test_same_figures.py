"""One data set laid out as COCO, VOC and YOLO gives the same figures, to the last digit."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mnv2vision.cli.main import main
from mnv2vision.data.formats.coco import Coco
from mnv2vision.data.formats.voc import Voc
from mnv2vision.data.formats.yolo import Yolo
from mnv2vision.data.sample import SampleSource
from mnv2vision.detection.coco_evaluator import METRICS, CocoEvaluator
from mnv2vision.predictions.detection import Detection

Layouts = Callable[[Path, int], dict[str, list[str]]]
TINY = ("loader.workers=0", "trainer.accelerator=cpu", "trainer.precision=32", "loader.batch_size=8")


def figures(source: SampleSource) -> dict[str, float]:
    """Of a detector that finds every object a little beside its place, and some that are not there."""
    evaluator = CocoEvaluator(source.names)
    for index in range(len(source)):
        sample, rng = source[index], np.random.default_rng(index)
        assert sample.boxes is not None
        truth = sample.boxes
        shift = rng.integers(-4, 5, (len(truth), 4)).astype(np.float32)
        extra = np.array([[1, 1, 30, 30]], np.float32)
        boxes = np.concatenate([truth.boxes + shift, extra])
        labels = np.concatenate([truth.labels, [0]])
        evaluator.update([Detection(boxes, rng.random(len(labels)).astype(np.float32), labels)], [sample])
    return evaluator.compute()


def test_of_what_a_detector_finds(tmp_path: Path, layouts: Layouts) -> None:
    layouts(tmp_path, 40)
    found = [
        figures(source)
        for source in (
            Coco(tmp_path / "coco", "val", year=None),
            Voc(tmp_path / "voc", "val"),
            Yolo(tmp_path / "yolo", "val"),
        )
    ]
    assert found[0] == found[1] == found[2]
    assert set(found[0]) == set(METRICS)
    assert 0.2 < found[0]["AP"] < 0.9
    assert found[0]["APs"] > 0 < found[0]["APm"]


def test_of_masks(tmp_path: Path, layouts: Layouts) -> None:
    """Every second object of the YOLO files is a box, which is painted as COCO's rectangle is."""
    layouts(tmp_path, 10)
    coco, yolo = (
        Coco(tmp_path / "coco", "val", year=None, targets=("mask",)),
        Yolo(tmp_path / "yolo", "val", targets=("mask",)),
    )
    assert coco.names == yolo.names == ("background", "ant", "bee")
    painted = 0
    for index in range(10):
        first, second = coco[index].mask, yolo[index].mask
        assert first is not None
        assert second is not None
        assert (first == second).all()
        painted += int(first.any())
    assert painted >= 5


@pytest.mark.slow
@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_by_command(task: str, tmp_path: Path, layouts: Layouts) -> None:
    """A model trained on the YOLO folder, measured on each layout."""
    given = layouts(tmp_path / "data", 16)
    run = tmp_path / "run"
    options = ["recipe=null", "backbone.width=0.35", "model.image_size=96", "trainer.max_epochs=3", "loggers=[]"]
    options += ["optimizer.name=adamw", "optimizer.lr=0.003", "trainer.check_val_every_n_epoch=3"]
    assert main(["train", f"task={task}", *given["yolo"], *TINY, *options, f"run_dir={run}"]) == 0
    names = ["coco", "yolo"] if task == "segmentation" else list(given)
    for name in names:
        arguments = [f"checkpoint={run / 'model.safetensors'}", *given[name], *TINY, f"run_dir={tmp_path / name}"]
        assert main(["eval", *arguments]) == 0
    first, *others = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in names)
    assert all(first == other for other in others)
    assert first["AR100" if task == "detection" else "mIoU"] > 0
