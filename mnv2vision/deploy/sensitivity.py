"""Which layers lose most in int8, and how many of them to leave in float; nothing here knows a format."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mnv2vision.deploy.graph import ExportGraph
from mnv2vision.deploy.int8 import Layer, layers_of, quantised, quantised_weight, sample, watching
from mnv2vision.models.tasks import TASKS

MOST_FLOAT = 16
"""Layers that `search` leaves in float at most."""

_DRAWS = 4  # of directions of the outputs, for each image


class Trial(NamedTuple):
    """What `search` tried.

    Attributes:
        keep_float: Paths of the layers left in float.
        drop: What was measured, in points of the metric.
    """

    keep_float: frozenset[str]
    drop: float


def rank_layers(graph: ExportGraph, images: Sequence[NDArray[np.uint8]]) -> list[tuple[str, float]]:
    """What int8 costs in each convolution and linear layer, all others being in float.

    The error of a layer is small, so that what it does to the outputs is linear in it: a random direction of the
    outputs, followed back through the network once, meets the errors of all layers at a time.

    Args:
        graph: The model; it stays as it is.
        images: Prepared, (H, W, 3), as for calibration; some of them, evenly drawn, are looked at: 20 of 224 x 224.

    Returns:
        Paths of the layers in the graph with their costs, the worst first. A cost is the mean, over the heads' outputs,
        of the error's power over the variance of what float gives.
    """
    parts, layers = sample(graph, images), layers_of(graph)
    ranges: dict[str, tuple[float, float]] = {}
    with torch.no_grad(), watching(layers, lambda name, x, _: _note(ranges, name, x)):
        answers = [_outputs(graph, part) for part in parts]
    variances = [torch.cat(outputs).var().clamp(min=1e-12) for outputs in zip(*answers, strict=True)]
    weights = {name: quantised_weight(layers[name].weight.data) for name in ranges}
    generator = torch.Generator().manual_seed(0)
    costs = torch.zeros(len(ranges))
    for part in parts:
        shares = {name: torch.zeros(len(part), requires_grad=True) for name in ranges}

        def add_error(name: str, x: Tensor, y: Tensor, shares: dict[str, Tensor] = shares) -> Tensor:
            with torch.no_grad():
                error = _forward(layers[name], quantised(x, *ranges[name]), weights[name]) - y
            return y + shares[name].view(-1, *[1] * (y.ndim - 1)) * error

        with torch.enable_grad(), watching(layers, add_error):
            outputs = _outputs(graph, part)
            for _ in range(_DRAWS):
                for output, variance in zip(outputs, variances, strict=True):
                    direction = torch.randn(output.shape, generator=generator)
                    slopes = torch.autograd.grad(
                        (direction * output).sum(), list(shares.values()), retain_graph=True, materialize_grads=True
                    )
                    power = torch.stack([slope.square().sum() for slope in slopes]) / (output[0].numel() * variance)
                    costs += power / (_DRAWS * len(outputs) * sum(map(len, parts)))
    return sorted(zip(ranges, costs.tolist(), strict=True), key=lambda item: -item[1])


def search(
    measure: Callable[[frozenset[str]], float], ranked: Sequence[tuple[str, float]], allow_drop: float
) -> list[Trial]:
    """Leave more and more of the worst layers in float: none, 1, 2, 4, 8, 16.

    Args:
        measure: Points of the metric that int8 with these layers in float loses.
        ranked: Of `rank_layers`.
        allow_drop: At this drop, or less, the search ends.

    Returns:
        What was tried; the last is within `allow_drop`, unless none is.
    """
    trials: list[Trial] = []
    count, most = 0, min(MOST_FLOAT, len(ranked))
    while True:
        keep_float = frozenset(name for name, _ in ranked[:count])
        trials.append(Trial(keep_float, measure(keep_float)))
        if trials[-1].drop <= allow_drop or count == most:
            return trials
        count = min(2 * count or 1, most)


def _outputs(graph: ExportGraph, images: Tensor) -> list[Tensor]:
    heads = graph.model.config.heads
    raw = graph.raw(images)
    return [tensor for name in raw for tensor in TASKS[heads[name].task].export.outputs(raw[name]).values()]


def _forward(layer: Layer, x: Tensor, weight: Tensor) -> Tensor:
    kept = layer.weight.data
    layer.weight.data = weight
    try:
        out: Tensor = layer.forward(x)  # without hooks
        return out
    finally:
        layer.weight.data = kept


def _note(ranges: dict[str, tuple[float, float]], name: str, x: Tensor) -> None:
    low, high = x.aminmax()
    before = ranges.get(name, (0.0, 0.0))  # zero is always exact
    ranges[name] = min(before[0], float(low)), max(before[1], float(high))
