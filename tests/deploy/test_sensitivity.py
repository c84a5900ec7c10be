"""Costs of layers in int8 against quantising them one by one, the search, and corrected biases."""

import copy
from typing import Any

import numpy as np
import pytest
import torch

from mnv2vision.deploy.graph import ExportGraph
from mnv2vision.deploy.int8 import correct_biases, layers_of, quantised, quantised_weight
from mnv2vision.deploy.sensitivity import rank_layers, search


def cost_alone(graph: ExportGraph, name: str, images: torch.Tensor) -> float:
    graph = copy.deepcopy(graph)
    layer, ends = layers_of(graph)[name], [0.0, 0.0]
    (expected,) = graph(images)

    def note(_: Any, inputs: Any) -> None:
        ends[:] = min(ends[0], float(inputs[0].min())), max(ends[1], float(inputs[0].max()))

    handle = layer.register_forward_pre_hook(note)
    graph(images)
    handle.remove()
    layer.weight.data = quantised_weight(layer.weight.data)
    layer.register_forward_pre_hook(lambda _, inputs: (quantised(inputs[0], *ends),))
    (found,) = graph(images)
    return float((found - expected).square().mean() / expected.var())


@pytest.mark.slow
def test_costs_are_those_of_layers_alone(models: Any, pictures: Any) -> None:
    graph = ExportGraph(models["classification"])
    images = pictures(32, models["classification"])
    state = {name: value.clone() for name, value in graph.state_dict().items()}
    ranked = rank_layers(graph, images)
    assert all(torch.equal(value, state[name]) for name, value in graph.state_dict().items())
    assert {name for name, _ in ranked} == set(layers_of(graph))
    assert [cost for _, cost in ranked] == sorted((cost for _, cost in ranked), reverse=True)
    with torch.no_grad():
        alone = [cost_alone(graph, name, torch.from_numpy(images)) for name, _ in ranked[::6]]
    ratios = np.array([cost for _, cost in ranked[::6]]) / alone
    assert ratios.min() > 0.2  # noise takes random weights beyond what is linear
    assert ratios.max() < 5


def test_search_doubles_until_the_drop_is_allowed() -> None:
    ranked = [(f"layer{index}", 1.0 / (1 + index)) for index in range(40)]
    trials = search(lambda keep_float: 3.0 - len(keep_float) / 2, ranked, 0.5)
    assert [len(trial.keep_float) for trial in trials] == [0, 1, 2, 4, 8]
    assert trials[2].keep_float == {"layer0", "layer1"}
    assert trials[-1].drop <= 0.5
    assert [len(trial.keep_float) for trial in search(lambda _: 9.0, ranked, 0.5)] == [0, 1, 2, 4, 8, 16]
    assert [len(trial.keep_float) for trial in search(lambda _: 9.0, ranked[:3], 0.5)] == [0, 1, 2, 3]


@pytest.mark.slow
@torch.no_grad()
def test_corrected_biases_put_means_right(models: Any, pictures: Any) -> None:
    graph = ExportGraph(models["classification"])
    images = pictures(32, models["classification"])
    name, kept = "model.backbone.stem.conv", "model.backbone.block0"
    fixed = correct_biases(graph, images, {kept})
    changed = {key for key, value in fixed.state_dict().items() if not torch.equal(value, graph.state_dict()[key])}
    assert all(key.endswith("bias") and not key.startswith(f"{kept}.") for key in changed)
    seen: dict[str, torch.Tensor] = {}
    layers_of(graph)[name].register_forward_hook(lambda _, inputs, output: seen.update(x=inputs[0], y=output.clone()))
    graph(torch.from_numpy(images))
    means = []
    for layer in (layers_of(graph)[name], layers_of(fixed)[name]):
        weight, conv = quantised_weight(layer.weight), copy.deepcopy(layer)
        conv.weight.data = weight
        conv._forward_hooks.clear()
        means.append((conv(seen["x"]) - seen["y"]).mean((0, 2, 3)).abs().max().item())
    assert means[1] < 0.2 * means[0]
    assert np.isfinite(means).all()
