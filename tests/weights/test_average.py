"""Averages of weights by independent arithmetic, and models that have none."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import mnv2vision as mv
from mnv2vision.backbones.folding import carry_bias
from mnv2vision.errors import WeightsError
from mnv2vision.weights.average import check_alike, mean_state

Randomize = Callable[[nn.Module], None]


def make(task: str = "classification", **options: Any) -> Any:
    return mv.create_model(task, **({"width": 0.35, "num_classes": 3, "image_size": 32} | options))


def test_the_mean_is_numpys(randomize: Randomize) -> None:
    models = [make() for _ in range(3)]
    for index, model in enumerate(models):
        randomize(model)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + 0.37 * index)
        for name, buffer in model.named_buffers():
            if name.endswith("num_batches_tracked"):
                buffer.fill_(10 * index)
    states = [model.state_dict() for model in models]
    mean = mean_state(states)
    assert mean.keys() == states[0].keys()
    for name, tensor in mean.items():
        assert tensor.dtype == states[0][name].dtype
        if tensor.is_floating_point():
            wanted = np.mean([state[name].numpy().astype(np.float64) for state in states], axis=0).astype(np.float32)
            np.testing.assert_array_equal(tensor.numpy(), wanted)
        else:
            assert tensor == 20  # the last model's
    same = mean_state([states[1]] * 3)
    assert all(torch.equal(same[name], tensor) for name, tensor in states[1].items())  # to the bit
    assert mean_state([states[0]])["backbone.stem.conv.weight"] is not states[0]["backbone.stem.conv.weight"]


def test_models_alike_are_taken() -> None:
    """Options of training do not count, and an option at its default is one left out."""
    plain = make()
    others = [make(dropout=0.5), make(norm_momentum=0.1), make(padding="symmetric"), make(activation="relu6")]
    check_alike({"plain": plain} | {str(index): other for index, other in enumerate(others)})


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ({"width": 0.5}, "backbone.width is 0.35 in one, 0.5 in the other"),
        ({"backbone": "mobilenet_v1"}, "backbone is mobilenet_v2 in one, mobilenet_v1 in the other"),
        ({"padding": "tf"}, "backbone.padding is symmetric in one, tf in the other"),
        ({"num_classes": 4}, "classes is 3 in one, 4 in the other"),
        ({"num_classes": 3, "names": ("a", "b", "c")}, "classes is 3 in one, a, b, c in the other"),
        ({"image_size": 64}, r"preprocessing.image_size is 32, 32 in one, 64, 64 in the other"),
        ({"task": "segmentation"}, "heads is classification in one, segmentation in the other"),
    ],
)
def test_other_models_are_refused(other: dict[str, Any], difference: str) -> None:
    with pytest.raises(WeightsError) as caught:
        check_alike({"a.safetensors": make(), "b.safetensors": make(**other)})
    assert difference in str(caught.value)
    assert str(caught.value).startswith("models: a.safetensors and b.safetensors differ, and have no average: ")


def test_folded_and_live_batch_norm_have_no_average(randomize: Randomize) -> None:
    live, folded = make(), make()
    randomize(live)
    for norm in folded.modules():
        if isinstance(norm, nn.BatchNorm2d):
            carry_bias(norm, torch.ones_like(norm.bias))
    check_alike({"a": folded, "b": folded})
    for models in ({"a": live, "b": folded}, {"b": folded, "a": live}):
        with pytest.raises(WeightsError, match="the batch norm of b is folded into its weights, that of a is not"):
            check_alike(models)
