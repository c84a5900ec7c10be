"""The line about a run's data: counts, files, and a command that can be typed."""

import shlex
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnv2vision.cli.main import main
from mnv2vision.config.datasets import DATASETS, ImageNet
from mnv2vision.config.options import values
from mnv2vision.data import sources
from mnv2vision.data.formats.shapes import Shapes
from mnv2vision.data.split import Subset
from mnv2vision.engine import remarks
from mnv2vision.engine.parts import DataPart
from mnv2vision.engine.remarks import in_both, tell_remarks

SOON = 1e9


@pytest.fixture(autouse=True)
def _time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is."""
    monkeypatch.setattr(remarks, "_SECONDS", SOON)


def photo(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "BMP")  # all of one size


@pytest.fixture
def part(tmp_path: Path) -> DataPart:
    """Two classes; train/ants/1.bmp is val/bees/7.bmp."""
    root = tmp_path / "my photos"
    for seed, name in enumerate(["train/ants/0", "train/ants/1", "train/bees/2", "val/ants/3", "val/bees/4"]):
        photo(root / f"{name}.bmp", seed)
    photo(root / "val/bees/7.bmp", 1)
    config = {**values(ImageNet()), "root": str(root)}
    train, val = (sources.create_source(config, split, "label") for split in ("train", "val"))
    return DataPart("", config, {"classification": "label"}, val, train)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.endswith("remarks")]


def test_in_both(part: DataPart) -> None:
    until = time.monotonic() + SOON
    assert part.train is not None
    (found,) = in_both(part.train, part.val, until)
    assert found.endswith("train/ants/1.bmp")
    assert in_both(part.train, part.val, time.monotonic() - 1) == []
    assert in_both(part.val, part.val, until) == []
    shapes = Shapes("train", 4, 64, 0, ("label",))
    assert in_both(shapes, part.val, until) == []
    assert in_both(Subset(part.train, [1]), Subset(part.val, [2]), until) == []


def test_files_that_are_missing_or_empty(part: DataPart, tmp_path: Path) -> None:
    assert part.train is not None
    Path(str(tmp_path / "my photos/val/ants/3.bmp")).unlink()
    for name in ("train/ants/0", "val/bees/4"):
        (tmp_path / f"my photos/{name}.bmp").write_bytes(b"")
    (found,) = in_both(part.train, part.val, time.monotonic() + SOON)
    assert found.endswith("train/ants/1.bmp")


def test_line(part: DataPart, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    tell_remarks([part], ["one", "another"])
    (line,) = told(caplog)
    assert line.startswith("data: 3 remarks (2 above; 1 training image is in validation, too: 1.bmp); see mnv2vision ")
    # The command works as it stands.
    program, *arguments = shlex.split(line.partition("; see ")[2])
    assert program == "mnv2vision"
    assert arguments == ["check", "task=classification", "dataset=imagenet", f"dataset.root={tmp_path}/my photos"]


def test_nothing_to_say(part: DataPart, caplog: pytest.LogCaptureFixture) -> None:
    same = DataPart("", part.dataset, part.targets, part.val, None)
    tell_remarks([same], [])
    shapes = Shapes("val", 4, 64, 0, ("label",))
    tell_remarks([DataPart("", values(DATASETS["shapes"]()), part.targets, shapes, shapes)], ["a warning"])
    assert told(caplog) == []


def test_command_has_the_keys_that_are_given(part: DataPart, caplog: pytest.LogCaptureFixture) -> None:
    config = {**values(DATASETS["voc"]()), "root": "/data/VOC", "year": 2007, "classes": ["a cup", "fork"]}
    given = {"protocol": "coco", "split": 0.2, "held_out": ["a"], "colors": None, "train_split": "trainval"}
    tell_remarks([DataPart("", {**config, **given}, {"cars": "boxes"}, part.val)], ["a warning"])
    (line,) = told(caplog)
    assert shlex.split(line.partition("; see ")[2])[2:] == [
        *("task=detection", "dataset=voc", "dataset.root=/data/VOC", "dataset.year=2007"),
        *("dataset.train_split=trainval", "dataset.split=0.2", 'dataset.classes=["a cup", "fork"]'),
    ]


@pytest.mark.slow
def test_train_says_it(part: DataPart, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["model.image_size=32", "trainer.max_steps=1", "loader.batch_size=2", "loader.workers=0", "init_from=null"]
    root = f"dataset.root={part.dataset['root']}"
    run = [f"run_dir={tmp_path / 'run'}", "backbone.width=0.35"]
    assert main(["train", "task=classification", "dataset=imagenet", root, *small, *run]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("data: ")]
    (line,) = lines
    # What it says to type is understood, and finds it.
    arguments = shlex.split(line.partition("; see ")[2])[1:]
    assert main([*arguments, f"output={tmp_path / 'check'}"]) == 1
    assert "leak" in (tmp_path / "check/check.json").read_text()
