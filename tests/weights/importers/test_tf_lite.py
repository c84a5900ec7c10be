"""TensorFlow Lite models that TensorFlow 2.21 wrote (fixtures/make.py)."""

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mnv2vision.errors import WeightsError
from mnv2vision.weights.importers.tf_files import read_variables

FIXTURES = Path(__file__).parents[1] / "fixtures"
Arrays = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def wanted() -> Arrays:
    with np.load(FIXTURES / "arrays.npz") as file:
        return dict(file)


def read(path: Path) -> Arrays:
    pytest.importorskip("tflite", reason="the tflite extra is not installed")
    from mnv2vision.weights.importers.tf_lite import read_tflite

    return read_tflite(path)


def scales(name: str, wanted: Arrays) -> NDArray[Any]:
    """Steps of int8 by output channel: the largest weight is 127 of them (TF's quantisation specification)."""
    weights = np.abs(wanted[name])
    return weights.max(axis=(0, 1, 3) if "depthwise" in name else (0, 1, 2)) / 127


@pytest.mark.parametrize("kind", ["float", "half", "int8"])
def test_arrays(kind: str, wanted: Arrays) -> None:
    ours = read(FIXTURES / f"{kind}.tflite")
    assert set(ours) == set(wanted)
    for name, array in wanted.items():
        assert ours[name].shape == array.shape, name
        assert ours[name].dtype == np.float32
        if kind == "float":
            np.testing.assert_array_equal(ours[name], array)
        elif kind == "half":
            np.testing.assert_array_equal(ours[name], array.astype(np.float16))
        elif name.endswith("weights"):
            axis = 2 if "depthwise" in name else 3
            error = np.abs(np.moveaxis(ours[name] - array, axis, -1)) / scales(name, wanted)
            assert 0.1 < error.max() <= 0.5001, name
        else:
            np.testing.assert_allclose(ours[name], array, atol=1e-3)


def test_gates() -> None:
    """TensorFlow's converter adds the 3 of relu6(x + 3) / 6 to the biases before it."""
    with np.load(FIXTURES / "gates.npz") as file:
        wanted = dict(file)
    ours = read(FIXTURES / "gates.tflite")
    assert set(ours) == set(wanted)
    assert sum("squeeze_excite/Conv_1/" in name for name in wanted) == 18
    for name, array in wanted.items():
        np.testing.assert_allclose(ours[name], array, rtol=0, atol=1e-6)


def test_zero_points(tmp_path: Path, wanted: Arrays) -> None:
    """A real value is (integer - zero point) * scale; TensorFlow's zero points of weights are 0 unless set here."""
    tflite: Any = pytest.importorskip("tflite", reason="the tflite extra is not installed")
    before = read(FIXTURES / "int8.tflite")
    data = bytearray((FIXTURES / "int8.tflite").read_bytes())
    graph = tflite.Model.GetRootAs(data).Subgraphs(0)
    tensors = [graph.Tensors(index) for index in range(graph.TensorsLength())]
    weights = [tensor for tensor in tensors if tensor.Type() == tflite.TensorType.INT8 and tensor.ShapeLength() == 4]
    for tensor in weights:
        if tensor.Quantization().ZeroPointLength() == 6:  # by channel; activations have one
            tensor.Quantization().ZeroPointAsNumpy()[:] = 3
    path = tmp_path / "x.tflite"
    path.write_bytes(data)
    after = read(path)
    for name in wanted:
        if name.endswith("weights"):
            axis = 2 if "depthwise" in name else 3
            shift = np.moveaxis(before[name] - after[name], axis, -1)
            np.testing.assert_allclose(shift, np.broadcast_to(3 * scales(name, wanted), shift.shape), rtol=1e-4)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    pytest.importorskip("tflite", reason="the tflite extra is not installed")
    path = tmp_path / "x.tflite"
    for content, message in ((b"", "not a TensorFlow Lite model"), (b"x" * 100, "not a TensorFlow Lite model")):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=f"^{re.escape(str(path))}: {message}"):
            read_variables(path)
    path.write_bytes((FIXTURES / "float.tflite").read_bytes()[:2000])
    with pytest.raises(WeightsError, match=f"^{re.escape(str(path))}: cannot be read"):
        read_variables(path)


def test_other_networks_and_missing_biases(tmp_path: Path) -> None:
    tflite: Any = pytest.importorskip("tflite", reason="the tflite extra is not installed")
    path = tmp_path / "x.tflite"
    data = bytearray((FIXTURES / "float.tflite").read_bytes())
    model = tflite.Model.GetRootAs(data)
    graph = model.Subgraphs(0)
    steps = [graph.Operators(i) for i in range(graph.OperatorsLength())]
    bias = graph.Tensors(steps[3].Inputs(2))
    model.Buffers(bias.Buffer()).DataAsNumpy()[:] = 0
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=f"^{re.escape(str(path))}: .* has no bias, so its batch norm is not folded"):
        read_variables(path)
    data = bytearray((FIXTURES / "float.tflite").read_bytes())
    graph = tflite.Model.GetRootAs(data).Subgraphs(0)
    # The 1x1 weights behind it for the depthwise layer's own.
    graph.Operators(1).InputsAsNumpy()[1:] = graph.Operators(2).InputsAsNumpy()[1:]
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"28 convolutions are not in the order of a MobileNet"):
        read_variables(path)


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tflite", None)
    with pytest.raises(WeightsError, match=r"float\.tflite: .*pip install 'mnv2vision\[tflite\]'"):
        read_variables(FIXTURES / "float.tflite")
