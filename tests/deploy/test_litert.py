"""LiteRT files against the models they were made of."""

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mnv2vision.deploy.formats import litert as litert_format
from mnv2vision.deploy.graph import ExportGraph
from mnv2vision.deploy.written import ExportOptions
from mnv2vision.errors import ConfigError, WeightsError
from mnv2vision.inference.runtimes import litert as litert_runtime

pytest.importorskip("ai_edge_litert")
pytest.importorskip("litert_torch")
pytest.importorskip("ai_edge_quantizer")

Arrays = dict[str, NDArray[np.float32]]


def exported(
    graph: ExportGraph, options: ExportOptions, path: Path, images: NDArray[np.uint8], describe: Any
) -> tuple[Arrays, Arrays]:
    """What the file gives, and what torch does."""
    written = litert_format.export(graph, path, options)
    assert [item.name for item in path.parent.iterdir()] == [path.name]
    assert tuple(output.name for output in written.outputs) == graph.output_names
    assert written.input.name == "images"
    assert written.input.dtype == options.dtype
    assert written.input.shape[0] == (options.batch or 1)
    opened = litert_runtime.open_model(path, describe("litert", written, graph, options), threads=1)
    given = torch.from_numpy(images)
    with torch.no_grad():
        expected = graph(given if graph.layout == "NHWC" else given.permute(0, 3, 1, 2))
    return opened.run(images), {
        name: tensor.float().numpy() for name, tensor in zip(graph.output_names, expected, strict=True)
    }


def check_close(found: Arrays, expected: Arrays, part_of_range: float) -> None:
    for name, values in expected.items():
        assert found[name].shape == values.shape
        np.testing.assert_allclose(found[name], values, rtol=0, atol=part_of_range * np.ptp(values) + 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["classification", "detection", "segmentation"])
def test_raw_outputs(task: str, models: Any, pictures: Any, describe: Any, tmp_path: Path, capfd: Any) -> None:
    graph, path = ExportGraph(models[task]), tmp_path / "名 前" / "model.tflite"
    found, expected = exported(graph, ExportOptions(), path, pictures(3, models[task]), describe)
    check_close(found, expected, 1e-4)
    assert capfd.readouterr() == ("", "")
    assert str(Path(__file__).parents[2]).encode() not in path.read_bytes()


@pytest.mark.slow
def test_fixed_batch_of_floats(models: Any, pictures: Any, describe: Any, tmp_path: Path) -> None:
    model = models["classification"]
    graph = ExportGraph(model, layout="NCHW", post="fixed")
    options = ExportOptions(dtype="float32", batch=2)
    check_close(*exported(graph, options, tmp_path / "model.tflite", pictures(3, model), describe), 1e-4)


@pytest.mark.slow
def test_labels_by_pixel(models: Any, pictures: Any, describe: Any, tmp_path: Path) -> None:
    model = models["segmentation"]
    graph = ExportGraph(model, post="fixed")
    found, expected = exported(graph, ExportOptions(), tmp_path / "model.tflite", pictures(2, model), describe)
    assert (found["labels"] == expected["labels"]).mean() > 0.995  # of classes within rounding, either may win


@pytest.mark.slow
def test_refused_suppression(models: Any, tmp_path: Path) -> None:
    graph = ExportGraph(models["detection"], post="fixed")
    with pytest.raises(ConfigError, match="cannot convert post=fixed") as caught:
        litert_format.export(graph, tmp_path / "model.tflite", ExportOptions())
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("task", ["classification", "detection", "segmentation"])
def test_fp16(task: str, models: Any, pictures: Any, describe: Any, tmp_path: Path) -> None:
    options, path = ExportOptions(precision="fp16"), tmp_path / "model.tflite"
    found, expected = exported(ExportGraph(models[task]), options, path, pictures(2, models[task]), describe)
    check_close(found, expected, 0.02)
    weights = sum(parameter.numel() for parameter in models[task].parameters())
    assert path.stat().st_size < 3 * weights


@pytest.mark.slow
@pytest.mark.parametrize("task", ["classification", "detection", "segmentation"])
def test_int8(
    task: str,
    models: Any,
    pictures: Any,
    describe: Any,
    noise_ratio: Any,
    int8_noise_ratio: Any,
    tmp_path: Path,
    capfd: Any,
) -> None:
    images = pictures(16, models[task])
    options, path = ExportOptions(precision="int8", calibration=tuple(images)), tmp_path / "model.tflite"
    found, expected = exported(ExportGraph(models[task]), options, path, images, describe)
    wanted = int8_noise_ratio(models[task], images)
    assert (
        wanted - 3 < noise_ratio(found, expected) < wanted + 12
    )  # dB; biases are corrected, but maps are rounded, too
    assert capfd.readouterr() == ("", "")
    assert path.stat().st_size < 2.5 * sum(parameter.numel() for parameter in models[task].parameters())


@pytest.mark.parametrize("content", [b"", b"no model", b"\x1c\0\0\0TFL3" + bytes(992)])
def test_damaged(content: bytes, models: Any, describe: Any, tmp_path: Path) -> None:
    from mnv2vision.deploy.written import Written
    from mnv2vision.inference.bundle import TensorSpec

    edge = TensorSpec("images", "uint8", (1, 64, 64, 3))
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    bundle = describe("litert", Written(edge, (edge,)), ExportGraph(models["classification"]), ExportOptions())
    with pytest.raises(WeightsError, match="cannot read it") as caught:
        litert_runtime.open_model(path, bundle)
    assert "\n" not in str(caught.value)


def test_missing_converter(models: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    importing = builtins.__import__

    def fail(name: str, *rest: Any) -> Any:
        if name == "litert_torch":
            raise ModuleNotFoundError(f"No module named {name!r}")
        return importing(name, *rest)

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(ConfigError, match=r"pip install 'mnv2vision\[litert\]'"):
        litert_format.export(ExportGraph(models["classification"]), tmp_path / "model.tflite", ExportOptions())
