"""ExecuTorch files against the models they were made of."""

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mnv2vision.deploy.formats import executorch as executorch_format
from mnv2vision.deploy.graph import ExportGraph
from mnv2vision.deploy.written import ExportOptions
from mnv2vision.errors import ConfigError, WeightsError
from mnv2vision.inference.runtimes import executorch as executorch_runtime

pytest.importorskip("executorch")

NAME = "model.pte"
TASKS = ["classification", "detection", "segmentation"]
Outputs = dict[str, NDArray[Any]]


def both(
    graph: ExportGraph, options: ExportOptions, folder: Path, images: NDArray[np.uint8], describe: Any
) -> tuple[Outputs, Outputs]:
    """What the file gives, and what the graph gives."""
    path = folder / "名 前" / NAME
    written = executorch_format.export(graph, path, options)
    assert [item.name for item in path.parent.iterdir()] == [NAME]
    assert tuple(output.name for output in written.outputs) == graph.output_names
    assert (written.input.name, written.input.dtype) == ("images", options.dtype)
    assert written.input.shape[0] == (options.batch or 1)
    assert not re.search(rb"/\w{3,}\.py", path.read_bytes())  # names of files; weights hold any few bytes by chance
    found = executorch_runtime.open_model(path, describe("executorch", written, graph, options), threads=1).run(images)
    given = torch.from_numpy(images)
    with torch.no_grad():
        tensors = graph(given if graph.layout == "NHWC" else given.permute(0, 3, 1, 2))
    expected = {name: tensor.numpy() for name, tensor in zip(graph.output_names, tensors, strict=True)}
    assert {name: value.shape for name, value in found.items()} == {
        name: value.shape for name, value in expected.items()
    }
    return found, expected


def difference(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """The largest one, as a share of the output's range."""
    return float(np.abs(found - expected).max() / np.ptp(expected))


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_raw(task: str, models: Any, pictures: Any, describe: Any, tmp_path: Path, capfd: Any) -> None:
    found, expected = both(ExportGraph(models[task]), ExportOptions(), tmp_path, pictures(2, models[task]), describe)
    assert capfd.readouterr() == ("", "")
    for name in expected:
        assert difference(found[name], expected[name]) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_fixed(task: str, models: Any, pictures: Any, describe: Any, tmp_path: Path) -> None:
    graph = ExportGraph(models[task], post="fixed")
    found, expected = both(graph, ExportOptions(), tmp_path, pictures(2, models[task]), describe)
    if task == "classification":
        np.testing.assert_allclose(found["probabilities"], expected["probabilities"], rtol=0, atol=1e-4)
    elif task == "segmentation":  # where two classes are within rounding, either may win
        assert (found["labels"] == expected["labels"]).mean() > 0.995
    else:
        np.testing.assert_allclose(found["scores"], expected["scores"], rtol=0, atol=1e-4)
        np.testing.assert_array_equal(found["counts"], expected["counts"])
        boxes, others = (np.concatenate([part["boxes"], part["labels"][..., None]], 2) for part in (found, expected))
        distances = np.abs(boxes[:, :, None] - others[:, None]).max(-1)  # in any order: scores may be within rounding
        assert (distances.min(2) < 1e-4).mean() > 0.99


@pytest.mark.slow
def test_fixed_batch_of_floats(models: Any, pictures: Any, describe: Any, tmp_path: Path) -> None:
    graph = ExportGraph(models["classification"], layout="NCHW")
    options = ExportOptions(dtype="float32", batch=2)
    found, expected = both(graph, options, tmp_path, pictures(3, models["classification"]), describe)
    assert difference(found["logits"], expected["logits"]) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_int8(
    task: str, models: Any, pictures: Any, describe: Any, noise_ratio: Any, int8_noise_ratio: Any, tmp_path: Path
) -> None:
    images = pictures(16, models[task])
    options = ExportOptions(precision="int8", calibration=tuple(images))
    found, expected = both(ExportGraph(models[task]), options, tmp_path, images, describe)
    wanted = int8_noise_ratio(models[task], images)
    assert (
        wanted - 3 < noise_ratio(found, expected) < wanted + 12
    )  # dB; biases are corrected, but maps are rounded, too
    parameters = sum(parameter.numel() for parameter in models[task].parameters())
    assert (tmp_path / "名 前" / NAME).stat().st_size < 2 * parameters  # bytes; it would be 4 in float


@pytest.mark.slow
def test_int8_keeps_layers_in_float(models: Any, pictures: Any, describe: Any, tmp_path: Path) -> None:
    images = pictures(3, models["classification"])
    options = ExportOptions(precision="int8", calibration=images, batch=2, keep_float=frozenset({"model"}))
    found, expected = both(ExportGraph(models["classification"]), options, tmp_path, images, describe)
    assert difference(found["logits"], expected["logits"]) <= 1e-4


def test_int8_needs_images(models: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs calibration images"):
        executorch_format.export(
            ExportGraph(models["classification"]), tmp_path / NAME, ExportOptions(precision="int8")
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_damaged(models: Any, describe: Any, tmp_path: Path, capfd: Any) -> None:
    graph, options, path = ExportGraph(models["classification"]), ExportOptions(), tmp_path / NAME
    written = executorch_format.export(graph, path, options)
    content, bundle = path.read_bytes(), describe("executorch", written, graph, options)
    for bad in (b"", content[:20], content[:1000], content[: len(content) // 2], content[:-1000], b"x" * 4096):
        path.write_bytes(bad)
        with pytest.raises(WeightsError, match="cannot read it") as caught:
            executorch_runtime.open_model(path, bundle)
        assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("missing", ["executorch.exir", "torchao.quantization.pt2e.quantize_pt2e"])
def test_missing_library(missing: str, models: Any, pictures: Any, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    precision: Any = "float" if missing.startswith("executorch") else "int8"
    options = ExportOptions(precision=precision, calibration=pictures(1, models["classification"]))
    with pytest.raises(ConfigError, match=r"pip install 'mnv2vision\[executorch\]'") as caught:
        executorch_format.export(ExportGraph(models["classification"]), tmp_path / NAME, options)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
