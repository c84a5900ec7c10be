"""Training with int8's rounding: the arithmetic, what is rounded, and that the model stays as it is."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import nn

import mnv2vision as mv
from mnv2vision.backbones import fold_batch_norm
from mnv2vision.backbones.layers import ConvNormAct, LayerOptions
from mnv2vision.errors import ConfigError
from mnv2vision.models.vision_model import VisionModel
from mnv2vision.tasks.base import TrainingOptions
from mnv2vision.tasks.classification import ClassificationTask
from mnv2vision.training.quantization import FakeQuantization, round_weights


def small(task: str = "classification", **options: Any) -> VisionModel:
    return mv.create_model(task, width=0.35, num_classes=3, image_size=64, **options)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def grid(values: NDArray[np.float32]) -> tuple[float, int]:
    """Scale and zero point of unsigned 8 bits."""
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    scale = (high - low) / 255
    return scale, round(-low / scale)


@torch.no_grad()
def test_a_layer_is_what_integers_give(randomize: Any) -> None:
    """Batch norm folded, int8 weights per channel, uint8 inputs and outputs, sums and biases in 32 bits."""
    layer = ConvNormAct(3, 6, 3, options=LayerOptions())
    randomize(layer)
    layer.norm.weight[0] *= -1  # folding turns the signs of a channel
    model = nn.Sequential(layer).eval()
    quantization = FakeQuantization(model, (9, 9))
    assert [tuple(point) for point in quantization.points] == [("0", "input"), ("0", "output")]
    x = noise(2, 3, 9, 9)
    ours = quantization(model, x).numpy()

    norm = layer.norm
    factor = (norm.weight / (norm.running_var + norm.eps).sqrt()).numpy()
    folded = layer.conv.weight.numpy() * factor[:, None, None, None]
    bias = norm.bias.numpy() - norm.running_mean.numpy() * factor
    weight_scale = np.abs(folded).max(axis=(1, 2, 3)) / 127
    weight = np.round(folded / weight_scale[:, None, None, None]).astype(np.int32)
    scale, zero = grid(x.numpy())
    image = np.clip(np.round(x.numpy() / scale) + zero, 0, 255).astype(np.int32) - zero
    padded = np.pad(image, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = sliding_window_view(padded, (3, 3), axis=(2, 3))
    sums = np.einsum("nchwyx,ocyx->nohw", windows, weight)
    sums += np.round(bias / (scale * weight_scale)).astype(np.int64)[None, :, None, None]
    out = np.clip(sums * (scale * weight_scale)[None, :, None, None], 0, 6)
    out_scale, out_zero = grid(out)
    theirs = (np.clip(np.round(out / out_scale) + out_zero, 0, 255) - out_zero) * out_scale

    off = np.abs(ours - theirs) / out_scale
    assert off.max() < 1.5  # one step, where a value lies between two
    assert (off < 0.5).mean() > 0.98
    assert not np.allclose(ours, model(x).numpy(), atol=out_scale / 4)


@pytest.mark.parametrize("task", ["classification", "detection", "segmentation"])
def test_what_is_rounded(task: str) -> None:
    model = small(task)
    points = {tuple(point) for point in FakeQuantization(model, (64, 64)).points}
    assert ("backbone.stem", "input") in points  # the image
    assert ("backbone.block2.add", "output") in points
    assert ("backbone.block1.expand", "input") not in points  # written by block 0, and rounded there
    written = {layer for layer, side in points if side == "output"}
    layers = {name for name, layer in model.named_modules() if isinstance(layer, ConvNormAct)}
    assert layers <= written
    if task == "classification":
        assert {("heads.classification.classifier", side) for side in ("input", "output")} <= points


def test_the_model_stays_as_it_is() -> None:
    model = small().train()
    names, hooks = list(model.state_dict()), sum(len(layer._forward_hooks) for layer in model.modules())
    weight = model.backbone.stem.conv.weight.clone()
    quantization = FakeQuantization(model, (64, 64))
    assert model.training
    quantization(model, noise(4, 3, 64, 64))
    assert list(model.state_dict()) == names
    assert sum(len(layer._forward_hooks) + len(layer._forward_pre_hooks) for layer in model.modules()) == hooks == 0
    assert torch.equal(model.backbone.stem.conv.weight, weight)


def test_gradients_reach_the_weights() -> None:
    model = small().train()
    quantization = FakeQuantization(model, (64, 64))
    raw = quantization(model, noise(4, 3, 64, 64))
    raw.square().sum().backward()
    without = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert without == []


@torch.no_grad()
def test_ranges_follow_in_training_alone() -> None:
    model = small().eval()
    quantization = FakeQuantization(model, (64, 64)).eval()
    x = noise(4, 3, 64, 64)
    quantization(model, x)  # none is known yet
    assert quantization.ranges[0].tolist() == [x.min(), x.max()]
    first = quantization.ranges.clone()
    quantization(model, 10 * x)
    assert torch.equal(quantization.ranges, first)
    quantization.train()(model, 10 * x)
    assert quantization.ranges[0].tolist() == pytest.approx([1.09 * float(x.min()), 1.09 * float(x.max())])
    assert int(quantization.seen) == 2


@torch.no_grad()
def test_mixed_precision_rounds_in_32_bits() -> None:
    model = small().eval()
    quantization = FakeQuantization(model, (64, 64))
    x = noise(4, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = quantization(model, x)
    assert mixed.dtype == torch.bfloat16
    assert quantization.ranges.dtype == torch.float32
    assert quantization.ranges[0].tolist() == [x.min(), x.max()]


@torch.no_grad()
def test_rounded_weights_are_rounded_by_folding_no_more(randomize: Any) -> None:
    model = small()
    randomize(model)
    round_weights(model)
    for layer in fold_batch_norm(model).modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            weight = layer.weight.flatten(1)
            steps = weight / (weight.abs().amax(1, keepdim=True) / 127)
            assert (steps - steps.round()).abs().max() < 1e-3
    once = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    round_weights(model)
    for name, tensor in model.state_dict().items():
        assert torch.allclose(tensor, once[name], rtol=1e-6), name


def test_compiling_is_refused() -> None:
    options = TrainingOptions(optimizer={"name": "sgd", "lr": 0.1}, quantize=True, compile=True)
    with pytest.raises(ConfigError, match=r"quantize=true: cannot be compiled; give compile=false"):
        ClassificationTask(small(), options).check_options()
