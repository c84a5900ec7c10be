"""What a folder is taken for, and what is said of it."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from mnv2vision.cli.folder import with_folder
from mnv2vision.engine.folder import folder_values
from mnv2vision.errors import ConfigError


@pytest.fixture(autouse=True)
def _log_is_heard(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(logging.getLogger("mnv2vision"), "propagate", True)  # the command line turns it off
    caplog.set_level(logging.INFO)


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            Image.new("RGB", (8, 8)).save(path)
        else:
            path.write_text("names: [ant]\n" if path.suffix == ".yaml" else "")
    return root


@pytest.mark.parametrize(
    ("names", "task", "dataset", "has_split"),
    [
        (["ants/1.png", "bees/2.png"], "classification", "imagenet", False),
        (["train/ants/1.png", "train/bees/2.png"], "classification", "imagenet", False),
        (["train/ants/1.png", "train/bees/2.png", "valid/ants/3.png"], "classification", "imagenet", True),
        (["annotations/instances_train2014.json", "train2014/1.png"], "detection", "coco", False),
        (["annotations/instances_train.json", "annotations/instances_val.json"], "detection", "coco", True),
        (["train/_annotations.coco.json", "valid/_annotations.coco.json"], "detection", "coco", True),
        (["labels.json", "1.png"], "detection", "coco", False),
        (["result.json", "images/1.png"], "detection", "coco", False),
        (
            ["VOC2007/Annotations/1.xml", "VOC2012/JPEGImages/1.png", "VOC2007/JPEGImages/1.png"],
            *("detection", "voc"),
            False,
        ),
        (["VOC2012/Annotations/1.xml", "VOC2012/ImageSets/Main/val.txt"], "detection", "voc", True),
        (
            ["JPEGImages/1.png", "SegmentationClass/1.png", "ImageSets/Segmentation/val.txt"],
            "segmentation",
            "voc",
            True,
        ),
        (["JPEGImages/1.png", "SegmentationClass/1.png"], "segmentation", "voc", False),
        (["train/1.xml", "train/1.png"], "detection", "voc", False),
        (["train/1.xml", "valid/1.xml"], "detection", "voc", True),
        (["1.xml", "1.png"], "detection", "voc", False),
        (["annotations/1.xml", "images/1.png"], "detection", "voc", False),
        (["data.yaml", "images/1.png", "labels/1.txt"], "detection", "yolo", False),
        (["data.yaml", "train/images/1.png", "valid/images/2.png"], "detection", "yolo", True),
        (["classes.txt", "1.png"], "detection", "yolo", False),
    ],
)
def test_layouts(
    tmp_path: Path, names: list[str], task: str, dataset: str, has_split: bool, caplog: pytest.LogCaptureFixture
) -> None:
    root = touch(tmp_path / "photos", *names)
    if "classes.txt" in names:
        (root / "classes.txt").write_text("ant\n")
    found = {
        "task": task,
        "dataset": dataset,
        "dataset.root": str(root),
        **({} if has_split else {"dataset.split": 0.2}),
    }
    assert folder_values(root) == found
    assert f"the same as {' '.join(f'{key}={value}' for key, value in found.items())}" in caplog.text
    assert with_folder(["seed=1", str(root)]) == [*(f"{key}={value}" for key, value in found.items()), "seed=1"]


def test_what_is_given_stays(tmp_path: Path) -> None:
    root = touch(tmp_path / "photos", "ants/1.png", "bees/2.png")
    data = ["dataset=imagenet", f"dataset.root={root}"]
    assert with_folder([str(root), "dataset.split=0.3"], needs_task=False) == [*data, "dataset.split=0.3"]
    assert with_folder([str(root), "dataset.val_split=ants"], needs_task=False) == [*data, "dataset.val_split=ants"]
    assert with_folder(["seed=1"]) == ["seed=1"]
    assert folder_values(root, "classification")["dataset"] == "imagenet"


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    touch(Path("photos"), "ants/1.png", "bees/2.png")
    touch(Path("two"), "annotations/instances_val.json", "data.yaml")
    touch(Path("splits"), "train/1.png", "val/2.png")
    refused: dict[str, Callable[[], object]] = {
        r"photos: found no COCO's layout \(annotations/.*\), no VOC's layout": lambda: folder_values(
            "photos", "detection"
        ),
        r"splits: found no .* no class folders": lambda: folder_values("splits"),
        r"two: has COCO's .* and YOLO's layout .*: say which, such as dataset=coco": lambda: folder_values("two"),
        r"data=none: no such folder": lambda: folder_values("none"),
        r"fotos/: no such folder": lambda: with_folder(["fotos/"]),
        r"photos and two: give one folder": lambda: with_folder(["photos", "two"]),
        r"photos and dataset\.root=x: give one folder": lambda: with_folder(["photos", "dataset.root=x"]),
    }
    for message, call in refused.items():
        with pytest.raises(ConfigError, match=message):
            call()
    assert folder_values("two", given={"dataset": "yolo"})["dataset"] == "yolo"
