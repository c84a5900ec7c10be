"""CoreML packages: what their specification says; they run on Apple's systems alone."""

import sys
from pathlib import Path
from typing import Any

import pytest

from mnv2vision.deploy.formats import coreml as coreml_format
from mnv2vision.deploy.graph import ExportGraph
from mnv2vision.deploy.written import ExportOptions
from mnv2vision.errors import ConfigError

pytest.importorskip("coremltools")

NAME = "model.mlpackage"


def specification(path: Path) -> Any:
    import coremltools

    return coremltools.models.MLModel(str(path), skip_model_load=True).get_spec()


def dtypes(path: Path) -> set[int]:
    """Of what the convolutions of a package compute."""
    (function,) = specification(path).mlProgram.functions.values()
    (block,) = function.block_specializations.values()
    return {operation.outputs[0].type.tensorType.dataType for operation in block.operations if operation.type == "conv"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "post"),
    [
        ("classification", "raw"),
        ("classification", "fixed"),
        ("detection", "raw"),
        ("segmentation", "raw"),
        ("segmentation", "fixed"),
    ],
)
def test_image_of_every_task(task: str, post: Any, models: Any, tmp_path: Path, capfd: Any) -> None:
    graph, path = ExportGraph(models[task], post=post), tmp_path / "名 前" / NAME
    written = coreml_format.export(graph, path, ExportOptions())
    assert capfd.readouterr() == ("", "")
    assert [item.name for item in path.parent.iterdir()] == [NAME]
    height, width = models[task].preprocessing.image_size
    assert (written.input.name, written.input.dtype, written.input.shape) == ("images", "uint8", (1, height, width, 3))
    (given,) = specification(path).description.input
    assert (given.name, given.type.imageType.height, given.type.imageType.width) == ("images", height, width)
    assert given.type.imageType.ColorSpace.Name(given.type.imageType.colorSpace) == "RGB"
    expected = graph(graph.example(1))
    assert tuple(output.name for output in written.outputs) == graph.output_names
    for output, tensor in zip(written.outputs, expected, strict=True):
        assert output.shape == tensor.shape
        assert output.dtype == ("float32" if tensor.dtype.is_floating_point else "int32")
    assert dtypes(path) == {11}  # FLOAT32 in MIL.proto


@pytest.mark.slow
def test_fp16_batch_of_floats(models: Any, tmp_path: Path) -> None:
    graph, path = ExportGraph(models["classification"], layout="NCHW"), tmp_path / NAME
    for _ in range(2):  # the second replaces the first
        written = coreml_format.export(graph, path, ExportOptions(precision="fp16", dtype="float32", batch=2))
    assert [item.name for item in tmp_path.iterdir()] == [NAME]
    assert (written.input.dtype, written.input.shape) == ("float32", (2, 3, 64, 64))
    assert (written.outputs[0].dtype, written.outputs[0].shape) == ("float32", (2, 10))
    assert dtypes(path) == {10}  # FLOAT16


@pytest.mark.slow
def test_suppression_of_boxes_is_refused(models: Any, tmp_path: Path, capfd: Any) -> None:
    with pytest.raises(ConfigError, match=r"cannot convert this graph .*; try post=raw$") as caught:
        coreml_format.export(ExportGraph(models["detection"], post="fixed"), tmp_path / NAME, ExportOptions())
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


def test_one_image_at_a_time(models: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one at a time"):
        coreml_format.export(ExportGraph(models["classification"]), tmp_path / NAME, ExportOptions(batch=2))


def test_missing_library(models: Any, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(ConfigError, match=r"pip install 'mnv2vision\[coreml\]'"):
        coreml_format.export(ExportGraph(models["classification"]), tmp_path / NAME, ExportOptions())
    assert not list(tmp_path.iterdir())
