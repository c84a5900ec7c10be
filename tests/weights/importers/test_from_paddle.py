"""PaddleClas's files: the same outputs as a module written here after its layout; and what a file may not do."""

import builtins
import collections
import os
import pickle
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

import mnv2vision as mv
from mnv2vision.errors import ConfigError, WeightsError
from mnv2vision.weights.importers.from_paddle import convert

pytestmark = pytest.mark.slow

Arrays = dict[str, NDArray[np.float32]]

# ppcls/arch/backbone/model_zoo/mobilenet_v2.py: expansion, channels, repeats, stride; every channel is int(c * scale).
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def layout(scale: float) -> tuple[dict[str, tuple[int, ...]], list[tuple[str, int, bool]]]:
    """Shape of each convolution by name, and (name, stride, has a shortcut) of each block."""
    convs: dict[str, tuple[int, ...]] = {"conv1": (int(32 * scale), 3, 3, 3)}
    blocks = []
    current = int(32 * scale)
    for stage, (t, c, n, s) in enumerate(STAGES, start=2):
        out = int(c * scale)
        for i in range(n):
            block = f"conv{stage}." + (f"conv{stage}_{i + 1}" if i else "_first_block")
            convs[f"{block}._expand_conv"] = (t * current, current, 1, 1)
            convs[f"{block}._bottleneck_conv"] = (t * current, 1, 3, 3)
            convs[f"{block}._linear_conv"] = (out, t * current, 1, 1)
            blocks.append((block, 1 if i else s, i > 0))
            current = out
    convs["conv9"] = (int(1280 * scale) if scale > 1 else 1280, current, 1, 1)
    return convs, blocks


def random_arrays(scale: float, classes: int = 1000) -> Arrays:
    rng = np.random.default_rng(0)

    def uniform(low: float, high: float, *shape: int) -> NDArray[np.float32]:
        return rng.uniform(low, high, shape).astype(np.float32)

    arrays: Arrays = {}
    convs, _ = layout(scale)
    for name, shape in convs.items():
        bound = float(6 / np.prod(shape[1:])) ** 0.5
        arrays[f"{name}._conv.weight"] = uniform(-bound, bound, *shape)
        norm = {"weight": (0.5, 1.5), "bias": (-0.5, 0.5), "_mean": (-0.5, 0.5), "_variance": (0.5, 1.5)}
        arrays |= {f"{name}._batch_norm.{key}": uniform(*ends, shape[0]) for key, ends in norm.items()}
    arrays["out.weight"] = uniform(-0.1, 0.1, convs["conv9"][0], classes)
    arrays["out.bias"] = uniform(-0.5, 0.5, classes)
    return arrays


def forward(arrays: Arrays, scale: float, x: Tensor) -> Tensor:
    """What PaddleClas's forward computes."""
    w = {name: torch.from_numpy(array).double() for name, array in arrays.items()}

    def unit(name: str, x: Tensor, stride: int = 1, act: bool = True) -> Tensor:
        kernel = w[f"{name}._conv.weight"]
        groups = len(kernel) if kernel.shape[1] == 1 else 1
        x = F.conv2d(x, kernel, None, stride, kernel.shape[-1] // 2, groups=groups)
        mean, variance, weight, bias = (w[f"{name}._batch_norm.{k}"] for k in ("_mean", "_variance", "weight", "bias"))
        x = F.batch_norm(x, mean, variance, weight, bias, eps=1e-5)
        return F.relu6(x) if act else x

    x = unit("conv1", x, 2)
    for block, stride, shortcut in layout(scale)[1]:
        y = unit(f"{block}._bottleneck_conv", unit(f"{block}._expand_conv", x), stride)
        y = unit(f"{block}._linear_conv", y, act=False)
        x = x + y if shortcut else y
    return unit("conv9", x).mean((2, 3)) @ w["out.weight"] + w["out.bias"]


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("scale", [0.25, 1.0])
def test_outputs(scale: float, protocol: int, tmp_path: Path) -> None:
    arrays = random_arrays(scale)
    content: dict[str, Any] = collections.OrderedDict(arrays)
    if protocol > 2:  # the two forms in which paddle.save writes a parameter
        content["StructuredToParameterName@@"] = {name: f"p{i}" for i, name in enumerate(arrays)}
    else:
        content = {name: (f"p{i}", array) for i, (name, array) in enumerate(arrays.items())}
    path = tmp_path / "MobileNetV2_pretrained.pdparams"
    path.write_bytes(pickle.dumps(content, protocol))
    ours = convert("classification", path)
    # In double precision, as random weights amplify the rounding, which other kernels do otherwise.
    x = torch.randn(2, 3, 65, 82, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    with torch.no_grad():
        a, b = ours.double()(x), forward(arrays, scale, x)
    assert b.std() > 1e-3
    assert (a - b).abs().max() <= 1e-5 * b.abs().max()
    assert (ours.names[0], ours.training) == ("tench", False)


# PaddleClas counts the running statistics, too.
@pytest.mark.parametrize(
    ("scale", "millions"), [(0.25, 1.53), (0.5, 1.98), (0.75, 2.65), (1.0, 3.54), (1.5, 6.90), (2.0, 11.33)]
)
def test_all_scales_and_their_published_counts(scale: float, millions: float, tmp_path: Path) -> None:
    arrays = random_arrays(scale)
    path = tmp_path / "model.pdparams"
    path.write_bytes(pickle.dumps(arrays, 4))
    ours = convert("classification", path)
    assert ours.config.arguments["width"] == scale
    count = sum(value.numel() for key, value in ours.state_dict().items() if not key.endswith("num_batches_tracked"))
    assert count == sum(array.size for array in arrays.values())
    assert abs(count / 1e6 - millions) <= 0.006


def test_classes_and_preprocessing(tmp_path: Path) -> None:
    path = tmp_path / "model.pdparams"
    path.write_bytes(pickle.dumps(random_arrays(0.25, classes=5), 4))
    ours = convert("classification", path, preprocessing={"image_size": 192})
    assert (ours.num_classes, ours.names) == (5, ())
    # OpenCV's resize, as PaddleClas has it, does not average over the pixels it skips.
    assert ours.preprocessing == mv.Preprocessing(image_size=(192, 192), antialias=False)


# ---- what cannot be taken for weights ----


class Call:
    """Pickles to a call of a function with arguments."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def refusal(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        convert("classification", path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_pickles_that_would_run_code(protocol: int, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    calls = {
        "system": Call(os.system, f"touch {trace}"),
        "eval": Call(builtins.eval, f"open({str(trace)!r}, 'w')"),
        "exec": Call(builtins.exec, f"open({str(trace)!r}, 'w')"),
        "getattr": Call(getattr, Call(getattr, np.ndarray, "tofile"), "__call__"),
        "Popen": Call(subprocess.Popen, ["touch", str(trace)]),
        "fromfile": Call(np.fromfile, str(trace)),
        "save": Call(np.save, str(trace), np.zeros(1)),
        "memmap": Call(np.memmap, str(trace), "uint8", "w+", 0, (1,)),
        "OrderedDict": collections.OrderedDict({"key": Call(os.system, f"touch {trace}")}),
    }
    for function, value in calls.items():
        message = refusal(tmp_path / "model.pdparams", pickle.dumps({"conv1._conv.weight": value}, protocol))
        assert "not a readable .pdparams file (it refers to " in message, function
        assert not trace.exists()


@pytest.mark.parametrize(
    "code",
    [
        b"cos\nsystem\n(S'touch trace'\ntR.",
        b"cnumpy\nndarray.__class__\n.",  # a chain of attributes, by its dots
        b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",
        b"cnumpy.core.multiarray\nfromstring\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cmnv2vision.weights.paddle\nos\n.",
        b"c__builtin__\neval\n(S'1'\ntR.",
        b"(ios\nsystem\n",
    ],
)
def test_names_that_weights_do_not_need(code: bytes, tmp_path: Path) -> None:
    assert "not a readable .pdparams file (it refers to " in refusal(tmp_path / "model.pdparams", code)


def test_damaged_files_and_other_things(tmp_path: Path) -> None:
    path = tmp_path / "model.pdparams"
    whole = pickle.dumps(random_arrays(0.25, classes=5), 4)
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        assert "not a readable .pdparams file" in refusal(path, whole[:length])
    assert "not a readable .pdparams file" in refusal(path, b"PK\x03\x04 no pickle")
    assert "not a dictionary of parameters" in refusal(path, pickle.dumps([np.zeros(3)], 4))
    assert "'epoch' is not an array of floats" in refusal(path, pickle.dumps({"epoch": 3}, 4))
    assert "'x' is not an array of floats" in refusal(path, pickle.dumps({"x": np.array([{}, 1], object)}, 4))
    assert "5 is not an array of floats" in refusal(path, pickle.dumps({5: np.zeros(3)}, 4))
    assert "not a state of PaddleClas's MobileNetV2" in refusal(path, pickle.dumps({"x": np.zeros(3)}, 4))
    with pytest.raises(WeightsError, match=r"none\.pdparams: no such file"):
        convert("classification", tmp_path / "none.pdparams")
    with pytest.raises(ConfigError, match="source=paddle has no importer for task=detection; valid: classification"):
        convert("detection", path)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    arrays = random_arrays(0.5, classes=5)
    name = "conv4.conv4_2._linear_conv._batch_norm._mean"
    for changes, message in (
        ({name: None}, f"lacks {name} (16,)"),
        ({name: np.zeros(15)}, f"{name} is (15,), but the model has (16,)"),
        ({"conv10.weight": np.zeros(2)}, "conv10.weight (2,) has no place in the model"),
    ):
        content = {key: value for key, value in (arrays | changes).items() if value is not None}
        assert re.search(
            rf": {re.escape(message)}.*width=0\.5\)$", refusal(tmp_path / "x.pdparams", pickle.dumps(content, 4))
        )
