"""Training that feels what int8 costs: a model computed with the rounding of its int8 export.

The model's layers and names stay as they are, so that what is saved is an ordinary float model, which any exporter
takes; gradients reach its own weights.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mnv2vision.backbones.blocks import Add
from mnv2vision.backbones.layers import ConvNormAct

AVERAGING = 0.01
"""Share of a batch in the ranges of activations, as in PyTorch's own moving averages."""
_SMALLEST_SCALE = torch.finfo(torch.float32).eps


class _Point(NamedTuple):
    """A tensor that int8 rounds: what a layer reads or writes."""

    layer: str
    side: Literal["input", "output"]


class FakeQuantization(nn.Module):
    """Computes a model as int8 does, in float: weights and what flows between layers lie on grids of 8 bits.

    Weights are symmetric, -127..127 steps of a scale per output channel. Batch norm need not be folded for that, as
    folding multiplies a channel's weights and their scale alike. What layers read and write has a grid of 256 steps per
    tensor, over its moving range and 0. Rounding passes gradients on unchanged, within the range.

    Attributes:
        points: What is rounded, besides weights.
        ranges: Lowest and highest value of each point, (points, 2).
        seen: How many batches the ranges are of.
    """

    ranges: Tensor
    seen: Tensor

    def __init__(self, model: nn.Module, image_size: tuple[int, int]) -> None:
        """Find what int8 rounds.

        Args:
            model: Takes normalised images (N, 3, H, W); left as it is, and not kept.
            image_size: H and W.
        """
        super().__init__()
        self.points = _points(model, image_size)
        self.register_buffer("ranges", torch.zeros(len(self.points), 2))
        self.register_buffer("seen", torch.tensor(0))

    def forward(self, model: nn.Module, images: Tensor) -> object:
        """What the model returns, with int8's rounding; ranges follow in training, or where none is known yet.

        Args:
            model: That of the constructor, or a copy.
            images: Normalised, (N, 3, H, W).
        """
        observe = self.training or not bool(self.seen)
        with ExitStack() as hooks:
            for index, (name, side) in enumerate(self.points):
                layer = model.get_submodule(name)
                if side == "input":
                    hook = layer.register_forward_pre_hook(self._reading(index, observe))
                else:
                    hook = layer.register_forward_hook(self._writing(index, observe))
                hooks.callback(hook.remove)
            raw: object = functional_call(model, _rounded_weights(model), (images,))
        if observe:
            self.seen += 1
        return raw

    def _reading(self, index: int, observe: bool) -> Callable[[nn.Module, tuple[Tensor, ...]], Tensor]:
        return lambda _, inputs: self._round(inputs[0], index, observe)

    def _writing(self, index: int, observe: bool) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        return lambda _, inputs, output: self._round(output, index, observe)

    def _round(self, x: Tensor, index: int, observe: bool) -> Tensor:
        values = x.float()  # 16 bits are too few to lie on a grid of 8
        bounds = self.ranges[index]
        if observe:
            batch = torch.stack(values.detach().aminmax())
            bounds.copy_(torch.where(self.seen == 0, batch, bounds.lerp(batch, AVERAGING)))
        return fake_quantize(values, bounds).to(x.dtype)


def fake_quantize(x: Tensor, bounds: Tensor) -> Tensor:
    """Values on a grid of 256 steps; those outside it are clipped.

    Args:
        x: Of any shape, float32.
        bounds: The grid's lowest and highest value, (2,); it is widened to hold 0 exactly.
    """
    low, high = bounds[0].clamp(max=0), bounds[1].clamp(min=0)
    scale = ((high - low) / 255).clamp(min=_SMALLEST_SCALE)
    zero_point = (-low / scale).round().clamp(0, 255).int()
    return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, 0, 255)


def fake_quantize_weight(weight: Tensor) -> Tensor:
    """Weights (channels, …) on grids of 255 steps around 0, one for each channel."""
    scale = weight.detach().float().flatten(1).abs().amax(1).div(127).clamp(min=_SMALLEST_SCALE)
    zero_point = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight.float(), scale, zero_point, 0, -127, 127)


def _rounded_weights(model: nn.Module) -> dict[str, Tensor]:
    return {
        f"{name}.weight": fake_quantize_weight(layer.weight)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    }


@torch.no_grad()
def round_weights(model: nn.Module) -> None:
    """Put a trained model's weights on their grids, in place: what an exporter then rounds is rounded already.

    Otherwise the float model would not be the one that was trained, and an exporter that corrects the biases for the
    rounding (as ONNX's does here) would undo what training has adapted.
    """
    for name, weight in _rounded_weights(model).items():
        model.get_parameter(name).copy_(weight)


@torch.no_grad()
def _points(model: nn.Module, image_size: tuple[int, int]) -> Sequence[_Point]:
    """What layers and sums write, and what layers read that neither has written: images, means, products.

    A convolution with its norm and activation is one layer, as exporters fuse them. Seen in a run of the model, so that
    no head needs to list its tensors.
    """
    fused = {f"{name}.conv" for name, layer in model.named_modules() if isinstance(layer, ConvNormAct)}
    reading = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, ConvNormAct) or (isinstance(layer, nn.Conv2d | nn.Linear) and name not in fused)
    }
    sums = {name: layer for name, layer in model.named_modules() if isinstance(layer, Add)}
    points: list[_Point] = []
    written: dict[int, Tensor] = {}  # kept, so that no address is used twice

    def reads(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def see(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if inputs[0].data_ptr() not in written:
                points.append(_Point(name, "input"))

        return see

    def writes(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def see(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            written[output.data_ptr()] = output
            points.append(_Point(name, "output"))

        return see

    training = model.training
    hooks = [layer.register_forward_pre_hook(reads(name)) for name, layer in reading.items()]
    hooks += [layer.register_forward_hook(writes(name)) for name, layer in (reading | sums).items()]
    try:
        model.eval()(torch.zeros(1, 3, *image_size, device=next(model.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
        model.train(training)
    return tuple(dict.fromkeys(points))
