"""Files that TensorFlow 2.21 wrote (fixtures/make.py), read without it."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.util.tensor_util import make_tensor_proto

from mnv2vision.errors import WeightsError
from mnv2vision.weights.importers.from_tensorflow import convert
from mnv2vision.weights.importers.tf_checkpoint import read_checkpoint
from mnv2vision.weights.importers.tf_files import read_variables
from mnv2vision.weights.importers.tf_graph import read_graph, read_saved_model

FIXTURES = Path(__file__).parents[1] / "fixtures"
Arrays = dict[str, NDArray[Any]]
STEM, DEPTHWISE = "MobilenetV1/Conv2d_0", "MobilenetV1/Conv2d_1_depthwise"


def load(name: str) -> Arrays:
    with np.load(FIXTURES / name) as file:
        return dict(file)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy to spoil."""
    for file in FIXTURES.glob("model.ckpt-7.*"):
        shutil.copy(file, tmp_path)
    return tmp_path / "model.ckpt-7"


def assert_equal(ours: Arrays, wanted: Arrays) -> None:
    assert set(ours) == set(wanted)
    for name, array in wanted.items():
        assert ours[name].dtype == array.dtype
        np.testing.assert_array_equal(ours[name], array)


# ---- checkpoints ----


def test_checkpoint() -> None:
    wanted = {name: array for name, array in load("arrays.npz").items() if "_1_" in name or "_2_" in name}
    assert len(wanted) == 8
    wanted["half"] = np.array([0.5, -2.0], np.float16)
    wanted["brain"] = np.array([[0.5, -2.0]], np.float32)
    wanted["global_step"] = np.array(700000)
    assert_equal(read_checkpoint(FIXTURES / "model.ckpt-7"), wanted)


@pytest.mark.parametrize("suffix", ["", ".index"])
def test_prefix_and_index(suffix: str) -> None:
    variables = read_variables(FIXTURES / f"model.ckpt-7{suffix}")
    name = "MobilenetV1/Conv2d_2_pointwise/weights"
    taken = variables.take(name, torch.empty(6, 6, 1, 1), (3, 2, 0, 1))
    np.testing.assert_array_equal(taken[:, :, 0, 0].numpy(), load("arrays.npz")[name][0, 0].T)
    assert "global_step" not in variables


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("objects", r"an object-based checkpoint \(.*v/.ATTRIBUTES/VARIABLE_VALUE\).* \.npz file"),
        ("slices", "w is saved in slices"),
        ("model.ckpt-8", r"and no checkpoint model\.ckpt-8\.index"),
        ("absent.npz", "no such file"),
        (".", r"a folder without saved_model\.pb"),
    ],
)
def test_what_cannot_be_read(name: str, message: str) -> None:
    with pytest.raises(WeightsError, match=f"^{re.escape(str(FIXTURES / name))}.*{message}"):
        read_variables(FIXTURES / name)


def cut(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda prefix: cut(Path(f"{prefix}.data-00001-of-00002"), 100),
            r"00001-of-00002: .* has \d+ bytes, but \d+",
        ),
        (lambda prefix: Path(f"{prefix}.data-00000-of-00002").unlink(), "00000-of-00002: no such file"),
        (lambda prefix: cut(Path(f"{prefix}.index"), 300), r"index: not the index .* truncated"),
        (lambda prefix: cut(Path(f"{prefix}.index"), 0), r"index: not the index"),
    ],
)
def test_spoilt_checkpoints(spoil: Callable[[Path], None], message: str, checkpoint: Path) -> None:
    assert len(read_checkpoint(checkpoint)) == 11
    spoil(checkpoint)
    with pytest.raises(WeightsError, match=f"^{re.escape(str(checkpoint))}.*{message}"):
        read_variables(checkpoint)


def test_garbage_within_an_index(checkpoint: Path) -> None:
    index = checkpoint.with_name("model.ckpt-7.index")
    data = index.read_bytes()
    index.write_bytes(b"\xff" * (len(data) - 48) + data[-48:])
    with pytest.raises(WeightsError, match=f"^{re.escape(str(checkpoint))}"):
        read_variables(checkpoint)


# ---- graphs ----


def graph_arrays() -> Arrays:
    """What the graph holds: a stem with its norm, and a depthwise layer whose norm is folded."""
    arrays = load("arrays.npz")
    names = (f"{STEM}/weights", f"{DEPTHWISE}/depthwise_weights", f"{DEPTHWISE}/biases")
    norm = {f"{STEM}/BatchNorm/{key}": array for key, array in load("norm.npz").items()}
    return {name: arrays[name] for name in names} | norm


def test_frozen_graph() -> None:
    assert_equal(read_graph(FIXTURES / "frozen.pb"), graph_arrays())


def test_folded_graph() -> None:
    """TensorFlow's optimize_for_inference folds the stem's norm, too."""
    wanted = graph_arrays()
    gamma, beta, mean, variance = (
        wanted.pop(f"{STEM}/BatchNorm/{key}") for key in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    scale = gamma / np.sqrt(variance + 1e-3)
    wanted[f"{STEM}/weights"] = wanted[f"{STEM}/weights"] * scale
    wanted[f"{STEM}/biases"] = beta - mean * scale
    ours = read_graph(FIXTURES / "folded.pb")
    assert set(ours) == set(wanted)
    for name, array in wanted.items():
        np.testing.assert_allclose(ours[name], array, rtol=1e-5, atol=1e-6)


def test_saved_models() -> None:
    wanted = graph_arrays()
    assert_equal(read_saved_model(FIXTURES / "saved_model_frozen"), wanted)
    del wanted[f"{DEPTHWISE}/biases"]  # no variable, but a constant of the graph
    assert_equal(read_saved_model(FIXTURES / "saved_model"), wanted)
    assert f"{STEM}/weights" in read_variables(FIXTURES / "saved_model")


def test_constants_are_those_of_tensorflows_own_messages(tmp_path: Path) -> None:
    """Values as bytes, one by one, and a single one for all; written by another reader of the format."""
    wanted = {
        "weights": np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4),
        "biases": np.full(4, 0.5, np.float32),
        "BatchNorm/beta": np.array([1, 2, 2, 2], np.float64),
        "BatchNorm/gamma": np.array([1.5], np.float16),
    }
    graph = GraphDef()
    for name, array in wanted.items():
        node = graph.node.add(name=f"layer/{name}", op="Const")
        value = node.attr["value"].tensor
        value.CopyFrom(make_tensor_proto(array))
        if name == "biases":
            value.ClearField("tensor_content")
            value.float_val[:] = [0.5]
        elif name == "BatchNorm/beta":
            value.ClearField("tensor_content")
            value.double_val[:] = [1, 2]
        elif name == "BatchNorm/gamma":
            value.ClearField("half_val")
            value.tensor_content = array.tobytes()
        graph.node.add(name=f"use/{name}", op="Mul", input=[f"layer/{name}"])
    (tmp_path / "x.pb").write_bytes(graph.SerializeToString())
    for name, array in read_graph(tmp_path / "x.pb").items():
        assert array.dtype == wanted[name.removeprefix("layer/")].dtype
        np.testing.assert_array_equal(array, wanted[name.removeprefix("layer/")])
    assert set(read_graph(tmp_path / "x.pb")) == {f"layer/{name}" for name in wanted}
    graph.node.add(name="layer/depthwise_weights", op="Const").attr["value"].tensor.CopyFrom(make_tensor_proto("text"))
    graph.node.add(name="use/text", op="Mul", input=["layer/depthwise_weights"])
    (tmp_path / "x.pb").write_bytes(graph.SerializeToString())
    with pytest.raises(WeightsError, match="layer/depthwise_weights has TensorFlow's data type 7, which is not supp"):
        read_graph(tmp_path / "x.pb")


def test_a_spoilt_graph(tmp_path: Path) -> None:
    path = tmp_path / "x.pb"
    path.write_bytes((FIXTURES / "frozen.pb").read_bytes()[:1000])
    with pytest.raises(WeightsError, match=f"^{re.escape(str(path))}: cannot be read"):
        read_variables(path)


def test_variables_that_are_no_numbers(shared: Path, tmp_path: Path) -> None:
    arrays = load_file(shared / "weights/tf_mobilenet_v2_1.0_224.safetensors")
    arrays["MobilenetV2/Conv/weights"][0, 0] = np.nan
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(
        WeightsError, match=r"x\.npz: 96 of the 864 values of backbone\.stem\.conv\.weight are nan or inf"
    ):
        convert("classification", tmp_path / "x.npz")
