"""Data sets without a split: divided once for a run, in its folder, and the same again for eval and resume."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnv2vision.cli.main import main
from mnv2vision.config.compose import load_config
from mnv2vision.config.schema import Train
from mnv2vision.engine.parts import create_parts
from mnv2vision.engine.splits import divided, write_splits

Capture = pytest.CaptureFixture[str]
COMMON = ("loader.workers=0", "trainer.accelerator=cpu")


@pytest.fixture
def train_photos(tiny: tuple[str, ...]) -> Callable[..., int]:
    own = [item for item in tiny if not item.startswith(("dataset.", "loader.batch_size"))]

    def train(*arguments: str) -> int:
        given = () if any(item.startswith("resume=") for item in arguments) else (*own, "recipe=null")
        return main(["train", *given, "loader.batch_size=4", *arguments])

    return train


@pytest.mark.slow
def test_class_folders_without_a_split(tmp_path: Path, train_photos: Callable[..., int], capsys: Capture) -> None:
    rng = np.random.default_rng(0)
    for number in range(20):
        path = tmp_path / f"photos/{'ants' if number % 2 else 'bees'}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(path)
    data = ("dataset=imagenet", f"dataset.root={tmp_path / 'photos'}", "dataset.split=0.2")
    run = tmp_path / "run"
    assert train_photos(*data, "seed=3", f"run_dir={run}") == 0
    assert "4 of 20 images are held out for validation (seed 3)" in capsys.readouterr().err
    kept = json.loads((run / "split.json").read_text())["dataset"]
    assert kept["split"] == 0.2
    held_out = kept["held_out"]
    assert sorted(name.partition("/")[0] for name in held_out) == ["ants", "ants", "bees", "bees"]
    assert train_photos(f"resume={run / 'checkpoints/last.ckpt'}", "trainer.max_epochs=3") == 0
    model = f"checkpoint={run / 'model.safetensors'}"
    assert main(["eval", f"checkpoint={run}", *data, *COMMON, f"run_dir={tmp_path / 'eval'}"]) == 0
    assert "are held out" not in capsys.readouterr().err  # but read from the run's folder, whatever the seed
    assert (tmp_path / "eval/metrics.json").read_text() == (run / "metrics.json").read_text()

    other = [item.replace("0.2", "0.3") for item in data]
    assert main(["eval", model, *other, *COMMON, f"run_dir={tmp_path / 'no'}"]) == 2
    assert "dataset.split=0.3, but" in capsys.readouterr().err
    (run / "split.json").write_text("{")
    assert main(["eval", model, *data, *COMMON, f"run_dir={tmp_path / 'no'}"]) == 2
    assert "split.json: is not the division of a run's data" in capsys.readouterr().err
    (run / "split.json").unlink()
    assert main(["eval", model, *data, *COMMON, "seed=3", f"run_dir={tmp_path / 'anew'}"]) == 0
    assert f"there is no split.json beside {run / 'model.safetensors'}: divided anew" in capsys.readouterr().err
    assert (tmp_path / "anew/metrics.json").read_text() == (run / "metrics.json").read_text()
    (tmp_path / "photos/val").mkdir()
    assert main(["eval", model, *data, *COMMON, f"run_dir={tmp_path / 'no'}"]) == 2
    assert "has a split 'val' already: leave out dataset.split" in capsys.readouterr().err


def test_data_sets_by_name(tmp_path: Path) -> None:
    """Each is divided by itself; a checkpoint's run says how, whatever the seed."""
    for number in range(20):
        path = tmp_path / f"photos/{'ants' if number % 2 else 'bees'}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (20, 20, 3), np.uint8)).save(path)
    data = ["data.insects.dataset=imagenet", f"data.insects.root={tmp_path / 'photos'}", "data.insects.split=0.3"]
    kept = []
    for more in ([], ["seed=1"]):
        (part,) = create_parts(
            load_config(Train, ["init_from=none", *data, *more]), {"classification": "classification"}
        )
        assert part.train is not None
        assert (len(part.train), len(part.val)) == (14, 6)
        kept.append(part.dataset)
    write_splits({"insects": kept[0], "others": {"name": "shapes"}}, tmp_path)
    assert json.loads((tmp_path / "split.json").read_text()).keys() == {"insects"}
    assert kept[0]["held_out"] != kept[1]["held_out"]
    checkpoint = str(tmp_path / "checkpoints/last.ckpt")
    own = {key: value for key, value in kept[1].items() if key != "held_out"}
    assert divided(own, "insects", ["label"], 1, checkpoint, "raise")["held_out"] == kept[0]["held_out"]
    assert divided(own, "others", ["label"], 1, checkpoint, "raise")["held_out"] == kept[1]["held_out"]


def test_a_reader_warns_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Though it is made to divide the data, for training and for validation."""
    for number in range(20):
        path = tmp_path / f"photos/{'ants' if number % 2 else 'bees'}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (20, 20, 3), np.uint8)).save(path)
    (tmp_path / "photos/ants/notes.txt").touch()
    config = load_config(Train, ["dataset=imagenet", f"dataset.root={tmp_path / 'photos'}", "dataset.split=0.3"])
    for _ in range(2):  # runs, each of which says it
        caplog.clear()
        said: list[str] = []
        with caplog.at_level("INFO", "mnv2vision"):
            create_parts(config, {"classification": "classification"}, said=said)
        (line,) = said
        assert "1 file is ignored, without an image extension (.txt 1)" in line
        assert caplog.messages.count(line) == 1
        assert any("are held out for validation" in message for message in caplog.messages)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["coco", "voc", "yolo"])
def test_objects_without_a_split(
    layout: str, tmp_path: Path, train_photos: Callable[..., int], layouts: Callable[..., dict[str, list[str]]]
) -> None:
    given = layouts(tmp_path / "data", 20, "train")[layout]
    shutil.rmtree(tmp_path / "data/voc/ImageSets")
    run = tmp_path / "run"
    assert train_photos("task=detection", *given, "dataset.split=0.3", "trainer.max_epochs=1", f"run_dir={run}") == 0
    held_out = json.loads((run / "split.json").read_text())["dataset"]["held_out"]
    assert 4 <= len(held_out) <= 8
    assert isinstance(held_out[0], int if layout == "coco" else str)
    checkpoint = f"checkpoint={run / 'model.safetensors'}"
    options = [*given, "dataset.split=0.3", *COMMON, "loader.batch_size=4", f"run_dir={tmp_path / 'eval'}"]
    assert main(["eval", checkpoint, *options]) == 0
    assert (tmp_path / "eval/metrics.json").read_text() == (run / "metrics.json").read_text()
