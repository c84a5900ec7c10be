"""Layers in int8, as all formats have them: symmetric weights by channel, activations by tensor."""

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mnv2vision.deploy.graph import ExportGraph

Layer = nn.Conv2d | nn.Linear

_PIXELS, _LEAST, _MOST = 2**20, 4, 64


def layers_of(graph: ExportGraph) -> dict[str, Layer]:
    """Convolutions and linear layers by their paths in the graph."""
    return {name: layer for name, layer in graph.named_modules() if isinstance(layer, Layer)}


def sample(graph: ExportGraph, images: Sequence[NDArray[np.uint8]]) -> list[Tensor]:
    """Some prepared images (H, W, 3), evenly drawn, in batches for the graph: 20 of 224 x 224, 4 of 513 x 513."""
    height, width = graph.model.preprocessing.image_size
    count = min(len(images), _MOST, max(_LEAST, _PIXELS // (height * width)))
    chosen = [images[index] for index in np.linspace(0, len(images) - 1, count).round().astype(int)]
    size = max(1, _PIXELS // (4 * height * width))
    batches = [torch.from_numpy(np.stack(chosen[start : start + size])) for start in range(0, count, size)]
    return [batch if graph.layout == "NHWC" else batch.permute(0, 3, 1, 2) for batch in batches]


def quantised_weight(weight: Tensor, most: int = 127) -> Tensor:
    """Weights (output channels first) as whole numbers up to `most` hold them, in float."""
    scale = weight.flatten(1).abs().amax(1).clamp(min=1e-12) / most
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -most, most)


def quantised(x: Tensor, low: float, high: float) -> Tensor:
    """Activations as 8 bits of a range, in which 0 lies, hold them, in float."""
    scale = (high - low) / 255 or 1.0
    return torch.fake_quantize_per_tensor_affine(x, scale, round(-low / scale), 0, 255)


@contextmanager
def watching(layers: Mapping[str, nn.Module], change: Callable[[str, Tensor, Tensor], Tensor | None]) -> Iterator[None]:
    """Have layers' outputs looked at, or changed, by `change(path, input, output)`."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]:
        return lambda _, inputs, output: change(name, inputs[0], output)

    handles = [layer.register_forward_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def correct_biases(
    graph: ExportGraph, images: Sequence[NDArray[np.uint8]], keep_float: Collection[str] = (), most: int = 127
) -> ExportGraph:
    """A copy whose biases put right what rounded weights do to the means of layers' outputs (arXiv 1906.04721, 4.2).

    Of TensorFlow's classifier it takes three quarters of the error's power in int8, most of it in the first depthwise
    layer.

    Args:
        graph: Stays as it is.
        images: Prepared, (H, W, 3); some of them are looked at.
        keep_float: Paths of modules that stay in float, with all inside them.
        most: The largest whole number of a weight.
    """
    graph = copy.deepcopy(graph)
    kept = tuple(f"{path}." for path in keep_float)
    layers = {
        name: layer
        for name, layer in layers_of(graph).items()
        if layer.bias is not None and not f"{name}.".startswith(kept)
    }
    means: dict[str, list[Tensor]] = {name: [] for name in layers}

    def note(name: str, x: Tensor, y: Tensor) -> None:
        layer = layers[name]
        error = quantised_weight(layer.weight, most) - layer.weight
        mean = x.mean((0, 2, 3))[None, :, None, None] if x.ndim == 4 else x.mean(0, keepdim=True)
        if isinstance(layer, nn.Conv2d):
            moved = nn.functional.conv2d(mean, error.sum((2, 3), keepdim=True), groups=layer.groups)
        else:
            moved = nn.functional.linear(mean, error)
        means[name].append(moved.flatten() * len(x))

    batches = sample(graph, images)
    with watching(layers, note):
        for batch in batches:
            graph.raw(batch)
    for name, layer in layers.items():
        if means[name] and layer.bias is not None:
            layer.bias -= torch.stack(means[name]).sum(0) / sum(map(len, batches))
    return graph
