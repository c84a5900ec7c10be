"""The command `benchmark` refuses what it cannot measure before it measures anything."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mnv2vision as mv
from mnv2vision.cli.main import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "train"),
        (["task=detection"], "data= goes with task=classification, or with all tasks"),
        (["task=threads"], "data= goes with task=classification, or with all tasks"),
    ],
)
def test_photos_are_checked_first(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmark", f"data={tmp_path}", *arguments]) == 2
    said = capsys.readouterr()
    assert not said.out
    assert said.err.startswith("error: ")
    assert message in said.err
    assert said.err.count("\n") == 1


def test_too_few_photos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / f"train/{name}/a.jpg")
    assert main(["benchmark", f"data={tmp_path}"]) == 2
    said = capsys.readouterr()
    assert not said.out
    assert "train/ has 2 images; at least one batch of 32 is needed" in said.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["formats=[onnx]"], "formats=[onnx]: goes with checkpoint=<model.safetensors>"),
        (["dataset=shapes"], "dataset=shapes: goes with checkpoint=<model.safetensors>"),
        (["checkpoint=a.safetensors", "task=detection"], "checkpoint= goes without task= and data="),
        (["checkpoint=a.safetensors", "formats=[coral]"], "formats=[coral]: unknown; valid: onnx, openvino"),
        (["checkpoint=a.safetensors", "formats=[onnx]"], "a.safetensors: no such model file"),
    ],
)
def test_exported_files(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["benchmark", *arguments]) == 2
    said = capsys.readouterr()
    assert not said.out
    assert message in said.err.splitlines()[-1]
    assert not list(tmp_path.glob("benchmark*"))


@pytest.mark.slow
def test_the_table_of_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mnv2vision.benchmarks import formats
    from mnv2vision.deploy.sensitivity import Trial

    monkeypatch.setattr(formats, "ROUNDS", 1)
    monkeypatch.setattr("mnv2vision.engine.export.search", lambda *_: [Trial(frozenset(), 0.0)])  # minutes
    mv.save(mv.create_model("classification", width=0.35, num_classes=6, image_size=32), tmp_path / "m.safetensors")
    arguments = ["dataset=shapes", "dataset.val_size=20", "dataset.train_size=20", f"output={tmp_path / 'out'}"]
    assert main(["benchmark", f"checkpoint={tmp_path / 'm.safetensors'}", "formats=[onnx]", *arguments]) == 0
    rows = json.loads((tmp_path / "out/table.json").read_text())
    assert [(row["format"], row["precision"]) for row in rows] == [
        ("torch", "float"),
        ("onnx", "float"),
        ("onnx", "fp16"),
        ("onnx", "int8"),
    ]
    assert rows[0]["ratio_1"] == 1
    for row in rows[1:]:
        assert row["metric"] == "top1"
        assert row["batch_1_ms"] > 0
        assert row["low"] <= row["high"]
        assert row["peak_memory_mb"] < rows[0]["peak_memory_mb"]
    assert (tmp_path / "out/table.md").read_text().count("\n| ") == 4
    assert (tmp_path / "out/table.csv").read_text().startswith("format,precision,metric")
