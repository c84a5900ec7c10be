"""Lines of YOLO's label files that a mended copy keeps, and paths that would lead back to the original."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnv2vision.cli.main import main

pytestmark = pytest.mark.slow


def make(root: Path, labels: str) -> Path:
    for number, split in enumerate(("train", "val")):
        for folder in ("images", "labels"):
            (root / folder / split).mkdir(parents=True)
        pixels = np.random.default_rng(number).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"images/{split}/a.png")
        (root / f"labels/{split}/a.txt").write_text(labels)
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cup, fork]\n")
    return root


def mended(root: Path, output: Path, task: str) -> tuple[str, set[str]]:
    arguments = ["dataset=yolo", f"dataset.root={root}", f"task={task}", "fix=copy", f"output={output}"]
    assert main(["check", *arguments]) == 1
    left = {finding["kind"] for finding in json.loads((output / "check.json").read_text())["fixed"]["left"]}
    return (output / "fixed/labels/train/a.txt").read_text(), left


BOX = "0 0.5 0.5 0.2 0.2\n"
BEYOND = "1 0.1 0.1 0.4 0.1\n"
OUTLINE = "1 0.2 0.2 1.2 0.2 0.5 0.6\n"
FLAT_OUTLINE = "1 0.2 0.2 0.2 0.4 0.2 0.6\n"


def test_outlines_are_not_clipped(tmp_path: Path) -> None:
    root = make(tmp_path / "coins", BOX + "\n" + OUTLINE + FLAT_OUTLINE + BEYOND + BOX)
    text, left = mended(root, tmp_path / "out", "detection")
    # From -0.1 to 0.3: then from 0.
    assert text == BOX + "\n" + OUTLINE + "1 0.15000000 0.10000000 0.30000000 0.10000000\n"
    assert left == {"box reaching beyond the image"}


def test_lines_that_cannot_be_read_stay(tmp_path: Path) -> None:
    root = make(tmp_path / "coins", BOX + "0 0.5 half 0.2 0.2\n7 0.5 0.5 0.1 0.1\n" + BEYOND + BEYOND)
    text, left = mended(root, tmp_path / "out", "detection")
    assert text.splitlines()[1:3] == ["0 0.5 half 0.2 0.2", "7 0.5 0.5 0.1 0.1"]
    assert len(text.splitlines()) == 4
    assert left == {"annotation unreadable", "unknown class"}


def test_paths_of_the_original_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make(tmp_path / "coins", BOX + BEYOND)
    text = (root / "data.yaml").read_text().replace("images/train", f"{root}/images/train")
    (root / "data.yaml").write_text(text)
    out = tmp_path / "out"
    assert main(["check", "dataset=yolo", f"dataset.root={root}", "fix=copy", f"output={out}"]) == 2
    assert f"the copy would read {root}/images/train/a.png" in capsys.readouterr().err
    assert not (out / "fixed").exists()
    assert (out / "check.html").exists()
