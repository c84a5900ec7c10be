"""Inference in less memory: inverted residuals split by hidden channels (arXiv 1801.04381, section 5.1)."""

import copy
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from mnv2vision.backbones.backbone import Backbone
from mnv2vision.backbones.blocks import InvertedResidual
from mnv2vision.backbones.folding import fold_batch_norm
from mnv2vision.backbones.layers import ConvNormAct
from mnv2vision.errors import ConfigError

Model = TypeVar("Model", bound=nn.Module)


def split_inference(model: Model, *, splits: int = 4) -> Model:
    """A copy for inference that never holds its widest tensors as a whole.

    Nothing mixes the hidden channels of an inverted residual before its projection adds them up. So a block is a sum
    of narrower blocks, computed one after another, with only one of them in memory at a time. If the first block has
    no expansion, the stem takes its place. The blocks with the widest tensors are split into `splits` parts, the
    others into as few as fit in the same memory.

    Some blocks stay whole: those whose expansion is a tap or has a shortcut to other expansions, and those with
    squeeze-and-excitation, whose gate needs all channels at once.

    Args:
        model: A model or backbone with inverted residuals; it stays unchanged.
        splits: Maximum parts of a block, 1 or more, and at most its hidden channels. The paper finds 2 to 5 most
            useful. Parts are chosen for the model's current output stride: set it first.

    Returns:
        A copy with batch norm folded (see `fold_batch_norm`), without gradients; its outputs equal the folded
        model's up to rounding (1e-5). Its weights are in pieces: save the original model.

    Raises:
        ConfigError: If `splits` is not a positive integer, the model has no block that can be split, or the model
            has already been split.
    """
    if isinstance(splits, bool) or not isinstance(splits, int) or splits < 1:
        raise ConfigError(f"splits={splits!r} must be an integer of 1 or more; the paper finds 2 to 5 to help most")
    if any(isinstance(module, _SplitResidual) for module in model.modules()):
        raise ConfigError("the model has already been split; split the original model")
    prepared = fold_batch_norm(model)
    backbones = [module for module in prepared.modules() if isinstance(module, Backbone)]
    found = [_split_backbone(backbone, splits) for backbone in backbones]
    if not any(found):
        kind = type(backbones[0] if backbones else model).__name__
        raise ConfigError(
            f"{kind} has no inverted residual that can be split before its deepest tap; MobileNetV2 has, from block0 on"
        )
    return prepared


class _Candidate(NamedTuple):
    """A block, the layer that acts as its expansion, and the sizes of its tensors per image pixel."""

    name: str
    block: InvertedResidual
    expand: ConvNormAct | None  # None: the block must stay whole
    inputs: float
    outputs: float
    before: float  # of a hidden channel before the depthwise convolution
    after: float

    def values(self, parts: int) -> float:
        """Peak number of values: around the depthwise convolution, or while projections are summed."""
        hidden = -(-self.block.hidden_channels // parts)
        total = self.outputs if parts > 1 else 0.0
        added = self.outputs if parts > 1 or self.block.adds_input else 0.0
        filtering = total + hidden * (self.before + self.after)
        return self.inputs + max(filtering, added + self.outputs + hidden * self.after)


def _split_backbone(backbone: Backbone, splits: int) -> bool:
    """Replace the blocks that need splitting; return whether any block can be split."""
    candidates = list(_candidates(backbone))
    peak = max((item.values(1 if item.expand is None else splits) for item in candidates), default=0.0)
    for item in candidates:
        parts = next((count for count in range(1, splits) if item.values(count) <= peak), splits)
        if item.expand is None or parts == 1:
            continue
        setattr(backbone, item.name, _SplitResidual(item.block, item.expand, parts))
        if item.block.expand is None:
            del backbone.stem
    return any(item.expand is not None for item in candidates)


def _candidates(backbone: Backbone) -> Iterator[_Candidate]:
    stem: ConvNormAct | None = None
    area = 1.0  # cells of the feature map per image pixel
    fed = False
    for name, layer in backbone.layers():
        if isinstance(layer, ConvNormAct):
            stem = None if name in backbone.taps else layer
            area /= layer.conv.stride[0] ** 2
        elif isinstance(layer, InvertedResidual) and not layer.expansion_only:
            expand, inputs, before = layer.expand, 0.0, area
            if expand is not None:
                inputs = area * expand.conv.in_channels
            elif stem is not None and not layer.adds_input:
                expand = stem  # its input, the image, stays in memory anyway
            else:
                inputs, before = area * layer.hidden_channels, 0.0
            area /= layer.depthwise.conv.stride[0] ** 2
            whole = fed or layer.feeds_next_expansion or layer.squeeze_excite is not None
            if whole or f"{name}.expand" in backbone.taps:
                expand = None
            yield _Candidate(name, layer, expand, inputs, area * layer.out_channels, before, area)
            stem = None
            fed = layer.feeds_next_expansion


class _SplitResidual(InvertedResidual):
    """An inverted residual as a sum of narrower ones; the first block's expansion may be the stem."""

    def __init__(self, block: InvertedResidual, expand: ConvNormAct, splits: int) -> None:
        nn.Module.__init__(self)  # its layers are parts of those of `block`
        self.expand_stride = expand.stride
        self.stride = expand.stride * block.stride
        self.hidden_channels = block.hidden_channels
        self.out_channels = block.out_channels
        self.expansion_only = self.feeds_next_expansion = False
        self.adds_input = block.adds_input
        channels = torch.arange(block.hidden_channels).tensor_split(min(splits, block.hidden_channels))
        self.parts = nn.ModuleList(_Part(block, expand, some) for some in channels)
        self.act = block.project.act
        # The first part adds the bias, once.
        for part in list(self.parts)[1:]:
            assert isinstance(part, _Part)
            part.project.conv.bias = None

    def set_stride(self, stride: int, dilation: int) -> None:
        for part in self.parts:
            assert isinstance(part, _Part)
            part.depthwise.set_stride(stride // self.expand_stride, dilation)

    # The three steps that a backbone calls: the whole sum is in the second one.
    def expansion(self, x: Tensor) -> Tensor:
        return x

    def filtered(self, expanded: Tensor) -> Tensor:
        total: Tensor | None = None
        for part in self.parts:
            total = part(expanded) if total is None else total.add_(part(expanded))
        assert total is not None
        return total

    def bottleneck(self, filtered: Tensor, x: Tensor) -> Tensor:
        out: Tensor = self.act(filtered)
        return out.add_(x) if self.adds_input else out


class _Part(nn.Module):
    def __init__(self, block: InvertedResidual, expand: ConvNormAct, channels: Tensor) -> None:
        super().__init__()
        self.expand = _outputs(expand, channels)
        self.depthwise = _outputs(block.depthwise, channels)
        self.project = copy.deepcopy(block.project)
        self.project.act = nn.Identity()  # applied to the sum instead
        self.project.conv.in_channels = len(channels)
        self.project.conv.weight = nn.Parameter(block.project.conv.weight[:, channels], requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(self.depthwise(self.expand(x)))
        return out


def _outputs(layer: ConvNormAct, channels: Tensor) -> ConvNormAct:
    """A layer restricted to some output channels, and for a depthwise one, the same input channels."""
    part = copy.deepcopy(layer)
    conv = part.conv
    assert conv.bias is not None
    conv.weight = nn.Parameter(conv.weight[channels], requires_grad=False)
    conv.bias = nn.Parameter(conv.bias[channels], requires_grad=False)
    part.out_channels = conv.out_channels = len(channels)
    if conv.groups > 1:
        conv.groups = conv.in_channels = len(channels)
    return part
