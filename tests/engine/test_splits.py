"""Data sets without a split: divided once for a run, in its folder, and the same again for eval and resume."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnv2vision.cli.main import main

pytestmark = pytest.mark.slow

Capture = pytest.CaptureFixture[str]
COMMON = ("loader.workers=0", "trainer.accelerator=cpu")


@pytest.fixture
def train_photos(tiny: tuple[str, ...]) -> Callable[..., int]:
    own = [item for item in tiny if not item.startswith(("dataset.", "loader.batch_size"))]

    def train(*arguments: str) -> int:
        given = () if any(item.startswith("resume=") for item in arguments) else (*own, "recipe=null")
        return main(["train", *given, "loader.batch_size=4", *arguments])

    return train


def test_class_folders_without_a_split(tmp_path: Path, train_photos: Callable[..., int], capsys: Capture) -> None:
    rng = np.random.default_rng(0)
    for number in range(20):
        path = tmp_path / f"photos/{'ants' if number % 2 else 'bees'}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(path)
    data = ("dataset=imagenet", f"dataset.root={tmp_path / 'photos'}", "dataset.split=0.2")
    run = tmp_path / "run"
    assert train_photos(*data, "seed=3", f"run_dir={run}") == 0
    assert "4 of 20 images are held out for validation (dataset.split=0.2, seed 3)" in capsys.readouterr().err
    held_out = json.loads((run / "split.json").read_text())["dataset"]
    assert sorted(name.partition("/")[0] for name in held_out) == ["ants", "ants", "bees", "bees"]
    assert train_photos(f"resume={run / 'checkpoints/last.ckpt'}", "trainer.max_epochs=3") == 0
    model = f"checkpoint={run / 'model.safetensors'}"
    assert main(["eval", model, *data, *COMMON, f"run_dir={tmp_path / 'eval'}"]) == 0
    assert "are held out" not in capsys.readouterr().err  # but read from the run's folder, whatever the seed
    assert (tmp_path / "eval/metrics.json").read_text() == (run / "metrics.json").read_text()

    (run / "split.json").write_text("{")
    assert main(["eval", model, *data, *COMMON, f"run_dir={tmp_path / 'no'}"]) == 2
    assert "split.json: is not the division of a run's data" in capsys.readouterr().err
    (tmp_path / "photos/val").mkdir()
    (run / "split.json").unlink()
    assert main(["eval", model, *data, *COMMON, f"run_dir={tmp_path / 'no'}"]) == 2
    assert "has val/ already: leave out dataset.split" in capsys.readouterr().err


@pytest.mark.parametrize("layout", ["coco", "voc", "yolo"])
def test_objects_without_a_split(
    layout: str, tmp_path: Path, train_photos: Callable[..., int], layouts: Callable[[Path, int], dict[str, list[str]]]
) -> None:
    given = layouts(tmp_path / "data", 20)[layout]
    (tmp_path / "data/yolo/data.yaml").write_text("names: [ant, bee]\n")
    shutil.rmtree(tmp_path / "data/voc/ImageSets")
    run = tmp_path / "run"
    assert train_photos("task=detection", *given, "dataset.split=0.3", "trainer.max_epochs=1", f"run_dir={run}") == 0
    held_out = json.loads((run / "split.json").read_text())["dataset"]
    assert 4 <= len(held_out) <= 8
    assert isinstance(held_out[0], int if layout == "coco" else str)
    checkpoint = f"checkpoint={run / 'model.safetensors'}"
    options = [*given, "dataset.split=0.3", *COMMON, "loader.batch_size=4", f"run_dir={tmp_path / 'eval'}"]
    assert main(["eval", checkpoint, *options]) == 0
    assert (tmp_path / "eval/metrics.json").read_text() == (run / "metrics.json").read_text()
