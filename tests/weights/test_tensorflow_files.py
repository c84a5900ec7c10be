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

from mnv2vision.errors import WeightsError
from mnv2vision.weights.tensorflow_checkpoint import read_checkpoint
from mnv2vision.weights.tensorflow_files import read_variables
from mnv2vision.weights.tensorflow_graph import read_graph, read_saved_model

FIXTURES = Path(__file__).parent / "fixtures"
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
        ("objects", r"checkpoint of objects \(.*v/.ATTRIBUTES/VARIABLE_VALUE\).* \.npz file"),
        ("slices", "w is saved in slices"),
        ("model.ckpt-8", r"nor a checkpoint model\.ckpt-8\.index"),
        ("absent.npz", "no such file"),
        (".", r"is a folder, but holds no saved_model\.pb"),
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
            r"00001-of-00002: .* has \d+ bytes .* but \d+",
        ),
        (lambda prefix: Path(f"{prefix}.data-00000-of-00002").unlink(), "00000-of-00002: no such file"),
        (lambda prefix: cut(Path(f"{prefix}.index"), 300), r"index: is no index .* truncated"),
        (lambda prefix: cut(Path(f"{prefix}.index"), 0), r"index: is no index"),
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


def test_a_spoilt_graph(tmp_path: Path) -> None:
    path = tmp_path / "x.pb"
    path.write_bytes((FIXTURES / "frozen.pb").read_bytes()[:1000])
    with pytest.raises(WeightsError, match=f"^{re.escape(str(path))}: cannot be read"):
        read_variables(path)
