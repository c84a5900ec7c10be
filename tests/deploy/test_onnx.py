"""ONNX files against the models they were made of."""

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import mnv2vision as mv
from mnv2vision.deploy.formats import onnx as onnx_format
from mnv2vision.deploy.formats import openvino as openvino_format
from mnv2vision.deploy.graph import ExportGraph
from mnv2vision.deploy.int8 import layers_of
from mnv2vision.deploy.written import ExportOptions, Written
from mnv2vision.errors import ConfigError, WeightsError
from mnv2vision.inference.runtimes import graph as runtimes
from mnv2vision.inference.runtimes import onnx as onnx_runtime
from mnv2vision.inference.runtimes import openvino as openvino_runtime
from mnv2vision.inference.runtimes.base import Runtime

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.slow

FORMATS = {
    "onnx": (onnx_format, onnx_runtime, "model.onnx"),
    "openvino": (openvino_format, openvino_runtime, "model"),
}


@pytest.fixture(autouse=True)
def _convert_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both formats are made of the same ONNX graph, which takes torch some seconds."""
    convert = onnx_format.convert

    def cached(graph: ExportGraph, options: ExportOptions, *, half_range: bool = False) -> Any:
        half = half_range and options.precision == "int8"
        own = (options.precision, options.dtype, options.batch, options.keep_float, len(options.calibration))
        key = (graph, half, *own)
        if key not in MADE:
            MADE[key] = convert(graph, options, half_range=half)
        return copy.deepcopy(MADE[key])

    monkeypatch.setattr(onnx_format, "convert", cached)


MADE: dict[Any, Any] = {}
GRAPHS: dict[tuple[str, str], ExportGraph] = {}


def graph_of(models: Any, task: str, post: Any = "raw") -> ExportGraph:
    if (task, post) not in GRAPHS:
        GRAPHS[task, post] = ExportGraph(models[task], post=post)
    return GRAPHS[task, post]


def open_exported(
    kind: str, graph: ExportGraph, options: ExportOptions, folder: Path, describe: Any
) -> tuple[Runtime, Written]:
    if kind == "openvino":
        pytest.importorskip("openvino")
    exporter, runtime, name = FORMATS[kind]
    written = exporter.export(graph, folder / name, options)
    assert [item.name for item in folder.iterdir()] == [name]
    return runtime.open_model(folder / name, describe(kind, written, graph, options), threads=1), written


def check_parity(
    kind: str, graph: ExportGraph, options: ExportOptions, folder: Path, images: NDArray[np.uint8], describe: Any
) -> None:
    opened, written = open_exported(kind, graph, options, folder / "名 前", describe)
    assert tuple(output.name for output in written.outputs) == graph.output_names
    assert written.input.name == "images"
    assert written.input.dtype == options.dtype
    assert written.input.shape[0] == options.batch
    given = torch.from_numpy(images)
    with torch.no_grad():
        expected = graph(given if graph.layout == "NHWC" else given.permute(0, 3, 1, 2))
    found = opened.run(images)
    if "counts" in found:
        check_detections(found, dict(zip(graph.output_names, expected, strict=True)))
        return
    for output, tensor in zip(graph.output_names, expected, strict=True):
        assert found[output].shape == tensor.shape
        values = tensor.float().numpy()
        atol = 1e-4 * (values.max() - values.min()) + 1e-6
        if tensor.dtype.is_floating_point:
            np.testing.assert_allclose(found[output], values, rtol=0, atol=atol)
        else:  # where two classes are within rounding, either may win
            assert (found[output] == values).mean() > 0.995


def check_detections(found: dict[str, NDArray[np.float32]], expected: dict[str, torch.Tensor]) -> None:
    """Equal but for the order of those whose scores are within rounding."""
    np.testing.assert_allclose(found["scores"], expected["scores"], rtol=0, atol=1e-4)
    np.testing.assert_array_equal(found["counts"], expected["counts"])
    both = [np.concatenate([part["boxes"], part["labels"][..., None]], 2) for part in (found, expected)]
    distances = np.abs(both[0][:, :, None] - both[1][:, None]).max(-1)
    assert (distances.min(2) < 1e-4).mean() > 0.99


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("post", ["raw", "fixed"])
@pytest.mark.parametrize("task", ["classification", "detection", "segmentation"])
def test_every_task(task: str, post: Any, kind: str, models: Any, pictures: Any, describe: Any, tmp_path: Path) -> None:
    graph = graph_of(models, task, post)
    check_parity(kind, graph, ExportOptions(), tmp_path, pictures(3, models[task]), describe)


@pytest.mark.parametrize("kind", FORMATS)
def test_fixed_batch_of_floats(kind: str, models: Any, pictures: Any, describe: Any, tmp_path: Path) -> None:
    graph = ExportGraph(models["classification"], layout="NCHW")
    options = ExportOptions(dtype="float32", batch=2)
    check_parity(kind, graph, options, tmp_path, pictures(3, models["classification"]), describe)


def test_file_is_one_and_tells_nothing_of_the_machine(models: Any, tmp_path: Path, capfd: Any) -> None:
    path = tmp_path / "model.onnx"
    onnx_format.export(graph_of(models, "classification"), path, ExportOptions())
    assert capfd.readouterr() == ("", "")
    content = path.read_bytes()
    assert not re.search(rb"/\w{3,}\.py", content)
    onnx_format.embed(path, '{"names": ["Ωμέγα"]}')
    model = onnx.load(path)
    assert {prop.key: prop.value for prop in model.metadata_props}["mnv2vision"] == '{"names": ["Ωμέγα"]}'
    assert [item.name for item in tmp_path.iterdir()] == ["model.onnx"]
    assert model.opset_import[0].version >= 20


@pytest.mark.parametrize("kind", FORMATS)
def test_damaged(kind: str, models: Any, describe: Any, tmp_path: Path) -> None:
    if kind == "openvino":
        pytest.importorskip("openvino")
    exporter, runtime, name = FORMATS[kind]
    graph, options = graph_of(models, "classification"), ExportOptions()
    written = exporter.export(graph, tmp_path / name, options)
    for file in [tmp_path / name, *(tmp_path / name).glob("*")]:
        if file.is_file():
            file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="cannot read it") as caught:
        runtime.open_model(tmp_path / name, describe(kind, written, graph, options))
    assert "\n" not in str(caught.value)


def snr(found: dict[str, NDArray[np.float32]], graph: ExportGraph, images: NDArray[np.uint8]) -> float:
    """Signal to noise in dB, of the worst output."""
    with torch.no_grad():
        expected = dict(zip(graph.output_names, graph(torch.from_numpy(images)), strict=True))
    return min(
        10 * np.log10(tensor.var().item() / np.square(found[name] - tensor.numpy()).mean())
        for name, tensor in expected.items()
    )


@pytest.mark.parametrize("kind", FORMATS)
def test_denormal_numbers_stay(kind: str, models: Any, pictures: Any, describe: Any, tmp_path: Path) -> None:
    """A session may make its thread take them for zero, for good: box arithmetic beside it would lose the smallest."""
    graph = graph_of(models, "classification")
    opened, _ = open_exported(kind, graph, ExportOptions(), tmp_path, describe)
    opened.run(pictures(1, models["classification"]))
    assert np.float32(1e-40) * np.float32(1) > 0


@pytest.mark.parametrize("kind", FORMATS)
def test_fp16(kind: str, models: Any, pictures: Any, describe: Any, tmp_path: Path) -> None:
    graph, images = graph_of(models, "classification"), pictures(3, models["classification"])
    opened, written = open_exported(kind, graph, ExportOptions("fp16"), tmp_path, describe)
    assert {spec.dtype for spec in written.outputs} == {"float32"}
    assert snr(opened.run(images), graph, images) > 25
    size = sum(file.stat().st_size for file in tmp_path.rglob("*.*") if file.is_file())
    assert size < 2.6 * sum(parameter.numel() for parameter in graph.parameters())


TASKS = ("classification", "detection", "segmentation")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("task", TASKS)
def test_int8(
    task: str, kind: str, models: Any, pictures: Any, describe: Any, int8_noise_ratio: Any, tmp_path: Path
) -> None:
    graph, images = graph_of(models, task), pictures(16, models[task])
    options = ExportOptions("int8", calibration=tuple(images))
    opened, written = open_exported(kind, graph, options, tmp_path, describe)
    assert written.quantisation["images"] == 16
    wanted = int8_noise_ratio(models[task], images)
    assert wanted - 3 < snr(opened.run(images), graph, images) < wanted + 12  # dB


def test_int8_scales_of_several_heads_are_their_own(randomize: Any, pictures: Any, tmp_path: Path) -> None:
    """Of weights by channel, of activations by tensor: a head of far larger values changes none of another's."""
    heads = {name: {"task": "classification", "num_classes": 4} for name in ("small", "large")}
    model = mv.create_model({**heads, "segmentation": {"num_classes": 3}}, width=0.35, depth=0.5, image_size=64).eval()
    randomize(model)
    with torch.no_grad():
        for parameter in model.heads["large"].parameters():
            parameter *= 1000
    graph, images = ExportGraph(model), tuple(pictures(16, model))
    onnx_format.export(graph, tmp_path / "model.onnx", ExportOptions("int8", calibration=images))
    written = onnx.load(tmp_path / "model.onnx").graph
    values = {item.name: onnx.numpy_helper.to_array(item) for item in written.initializer}
    layers = {name: layer for name, layer in layers_of(graph).items() if name.startswith("model.heads.")}
    assert {name.split(".")[2] for name in layers} == {"small", "large", "segmentation"}
    for name, layer in layers.items():
        wanted = layer.weight.detach().flatten(1).abs().amax(1).numpy() / 127
        np.testing.assert_allclose(values[f"{name}.weight_scale"], wanted, rtol=1e-5)
    pairs = [node for node in written.node if node.op_type == "QuantizeLinear"]
    assert len({node.input[1] for node in pairs}) == len(pairs)  # no two activations share a scale


def test_layers_kept_in_float(models: Any, pictures: Any, describe: Any, int8_noise_ratio: Any, tmp_path: Path) -> None:
    graph, images = graph_of(models, "classification"), pictures(16, models["classification"])
    kept = frozenset({"model.backbone.block0", "model.backbone.block3.project.conv", "model.heads"})
    options = ExportOptions("int8", calibration=tuple(images), keep_float=kept)
    opened, _ = open_exported("onnx", graph, options, tmp_path, describe)
    floats = {item.name for item in onnx.load(tmp_path / "model.onnx").graph.initializer if item.data_type == 1}
    weights = {name for name in floats if name.endswith("weight")}
    assert weights == {
        "model.backbone.block0.depthwise.conv.weight",
        "model.backbone.block0.project.conv.weight",
        "model.backbone.block3.project.conv.weight",
        "model.heads.classification.classifier.weight",
    }
    wanted = int8_noise_ratio(models["classification"], images)
    assert snr(opened.run(images), graph, images) > wanted - 1  # onnxruntime's optimiser would quantise them after all


def test_unusable_options(models: Any, pictures: Any, tmp_path: Path) -> None:
    graph, images = graph_of(models, "classification"), tuple(pictures(2, models["classification"]))
    with pytest.raises(ConfigError, match="int8 needs images"):
        onnx_format.export(graph, tmp_path / "model.onnx", ExportOptions("int8"))
    options = ExportOptions("int8", calibration=images, keep_float=frozenset({"model.backbone.block99"}))
    with pytest.raises(ConfigError, match=r"block99.*no such layers"):
        onnx_format.export(graph, tmp_path / "model.onnx", options)
    assert not list(tmp_path.iterdir())


def test_missing_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(runtimes.importlib, "import_module", fail)
    with pytest.raises(ConfigError, match=r"onnxruntime.*pip install 'mnv2vision\[onnx\]'"):
        runtimes.import_runtime("onnx")
