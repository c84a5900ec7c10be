"""Random weights that let signals through, and weights shared between two implementations of one network."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

Randomize = Callable[[nn.Module], None]
ShareWeights = Callable[[nn.Module, nn.Module], None]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    # On tensors this small, threads spend their time waiting for one another: minutes, on a machine with other work.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@torch.no_grad()
def _randomize(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)

    def uniform(tensor: torch.Tensor, low: float, high: float) -> None:
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            uniform(layer.weight, 0.5, 1.5)
            uniform(layer.running_var, 0.5, 1.5)
            uniform(layer.bias, -0.5, 0.5)
            uniform(layer.running_mean, -0.5, 0.5)
        elif isinstance(layer, nn.Conv2d):
            # Uniform in +-sqrt(6 / fan_in) keeps the signal's scale through ReLU, depthwise layers included.
            bound = (6 / layer.weight[0].numel()) ** 0.5
            uniform(layer.weight, -bound, bound)
            if layer.bias is not None:
                uniform(layer.bias, -0.5, 0.5)


@torch.no_grad()
def _share_weights(source: nn.Module, target: nn.Module) -> None:
    # The names differ, the order of the layers does not; what the source has behind them is its classifier.
    names = target.state_dict()
    weights = list(source.state_dict().values())[: len(names)]
    for (name, old), new in zip(names.items(), weights, strict=True):
        assert old.shape == new.shape, f"{name}: {tuple(old.shape)} here, {tuple(new.shape)} there"
    target.load_state_dict(dict(zip(names, weights, strict=True)))


@pytest.fixture
def randomize() -> Randomize:
    """Give a module random weights and random running statistics, the same ones every time."""
    return _randomize


@pytest.fixture
def share_weights() -> ShareWeights:
    """Copy weights from one module to another by order, checking every shape."""
    return _share_weights
