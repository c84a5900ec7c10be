"""Parameters, multiply-adds and memory of the tables' models, counted on the meta device."""

import math
from collections.abc import Callable, Mapping
from functools import cache
from itertools import groupby
from typing import cast

import torch
from torch import Tensor, nn

from mnv2vision.backbones import Backbone, create_backbone
from mnv2vision.backbones.blocks import InvertedResidual
from mnv2vision.backbones.layers import ConvNormAct
from mnv2vision.models.complexity import complexity
from mnv2vision.models.create import create_model
from mnv2vision.paper.published import Model
from mnv2vision.paper.structures import STRUCTURES, ShuffleNet

Value = int | str


def build(kind: str, **options: object) -> nn.Module:
    """Build a model of `create_model` ("head": a detector) or of `structures`, in inference mode."""
    if kind in STRUCTURES:
        return STRUCTURES[kind](**options).eval()
    create = cast(Callable[..., nn.Module], create_model)  # which checks its options
    return create("detection" if kind == "head" else kind, **options).eval()


@cache
def measure(model: Model) -> Mapping[str, Value]:
    """All figures of a model that a table may contain, by column.

    Returns:
        Of whole models: params, params_without_norm, params_and_statistics, madds (of one image; of all passes where
        there are several scales), madds_space_to_batch (as TensorFlow counts, whose dilated convolutions work on
        maps padded to a multiple of the rate), madds_and_norms (one more for each channel of a batch norm) and peak
        memory (bytes of the largest pass, as `costs.Complexity` has them).
        Of parts of a backbone: what tables 2 and 3 have.
    """
    options = dict(model.options)
    if model.kind == "stage":
        return _stage(cast(int | None, options["index"]), model.size)
    if model.kind == "map":
        return _largest_map(str(options["net"]), cast(int | None, options["side"]), model.size)
    if model.kind == "peak":
        with torch.device("meta"):
            return {"memory": complexity(build("classification", **options), model.size).peak_activation_bytes // 2}
    network = _skeleton(model.kind, model.options)
    passes = 1 if len(model.scales) == 1 else 2
    madds = padding = peak = 0
    for scale in model.scales:
        size = int((model.size[0] - 1) * scale + 1), int((model.size[1] - 1) * scale + 1)
        costs = complexity(network, size)
        madds += passes * costs.madds
        peak = max(peak, costs.peak_activation_bytes)
        padding += passes * _space_to_batch_padding(network, size)
    params, params_without_norm = costs.params, costs.params_without_norm
    if model.kind == "head":
        assert isinstance(network.backbone, Backbone)
        backbone = complexity(network.backbone, model.size)
        madds -= backbone.madds
        params -= backbone.params
        params_without_norm -= backbone.params_without_norm
    return {
        "params": params,
        "params_without_norm": params_without_norm,
        "params_and_statistics": params + costs.buffers,
        "madds": madds,
        "madds_space_to_batch": madds + padding,
        "madds_and_norms": madds + costs.buffers // 2,
        "peak memory": peak,
    }


@cache
def _skeleton(kind: str, options: tuple[tuple[str, object], ...]) -> nn.Module:
    """A model on the meta device without norms and activations, which take nearly all the time there."""
    with torch.device("meta"):
        network = build(kind, **dict(options))
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.ReLU | nn.ReLU6 | nn.Hardswish):
            layer.forward = _same  # type: ignore[method-assign, assignment]  # parameters are still counted
        if isinstance(layer, ConvNormAct):
            layer.norm = nn.Sequential(layer.norm)  # keeps `complexity` from folding it
    return network


def _same(x: Tensor) -> Tensor:
    return x


def _outputs(network: nn.Module, size: tuple[int, int], layers: Mapping[str, nn.Module]) -> dict[str, tuple[int, ...]]:
    """Output shapes (N, C, H, W) of the layers, for an image on the meta device."""
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda _module, _inputs, output: shapes.__setitem__(name, tuple(output.shape))

    handles = [layer.register_forward_hook(note(name)) for name, layer in layers.items()]
    with torch.no_grad():
        network(torch.empty(1, 3, *size, device="meta"))
    for handle in handles:
        handle.remove()
    return shapes


def _space_to_batch_padding(network: nn.Module, size: tuple[int, int]) -> int:
    """Multiply-adds on the padding that TensorFlow adds to the inputs of dilated convolutions."""
    dilated = {
        name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d) and layer.dilation[0] > 1
    }
    padding = 0
    if not dilated:
        return padding
    for name, (_, _, height, width) in _outputs(network, size, dilated).items():
        rate = dilated[name].dilation[0]
        padded = math.ceil(height / rate) * math.ceil(width / rate) * rate**2
        padding += dilated[name].weight.numel() * (padded - height * width)
    return padding


@cache
def _features(net: str, size: tuple[int, int]) -> tuple[Backbone, dict[str, tuple[int, ...]]]:
    """A backbone, and the output shapes (N, C, H, W) of its layers."""
    with torch.device("meta"):
        names = tuple(name for name, _ in create_backbone(net).layers())
        backbone = create_backbone(net, taps=names).eval()
        features = backbone(torch.empty(1, 3, *size))
    return backbone, {name: tuple(feature.shape) for name, feature in features.items()}


def _stage(index: int | None, size: tuple[int, int]) -> dict[str, Value]:
    """A row of table 2: stem, bottlenecks of equal channels, last convolution; or all bottlenecks."""
    backbone, shapes = _features("mobilenet_v2", size)
    if index is None:
        return {"n": sum(isinstance(layer, InvertedResidual) for _, layer in backbone.layers())}
    stages = [list(group) for _, group in groupby(backbone.layers(), key=lambda item: item[1].out_channels)]
    first = stages[index][0][1]
    _, channels, height, width = shapes[stages[index - 1][-1][0]] if index else (1, 3, *size)
    line: dict[str, Value] = {"input": f"{height}x{width}x{channels}"}
    if isinstance(first, InvertedResidual):
        line["t"] = first.hidden_channels // channels
    return line | {"c": first.out_channels, "n": len(stages[index]), "s": first.stride}


def _largest_map(net: str, side: int | None, size: tuple[int, int]) -> dict[str, Value]:
    """A row of table 3: the most channels between blocks at a size, and their memory at 16 bit; or the largest."""
    if net == "ShuffleNet 2x":
        with torch.device("meta"):
            network = ShuffleNet(scale=2.0, groups=2, stem=48).eval()
        layers = {"stem": network.stem, "pool": network.pool, **dict(network.units.named_children())}
        shapes = list(_outputs(network, size, layers).values())
        pooled = shapes[-1][1]
    else:  # the stem is computed together with the first block, the last convolution with the pooling
        _, by_name = _features(net.lower().replace("netv", "net_v"), size)
        shapes = [shape for name, shape in by_name.items() if name.startswith("block")]
        pooled = by_name[next(reversed(by_name))][1]
    shapes.append((1, pooled, 1, 1))
    if side is None:
        return {"memory": max(2 * channels * height * width for _, channels, height, width in shapes)}
    most = max(channels for _, channels, height, _ in shapes if height == side)
    return {"channels": most, "memory": 2 * most * side**2}
