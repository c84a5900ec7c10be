"""Weights shared between two implementations of one network."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

ShareWeights = Callable[[nn.Module, nn.Module], None]


@torch.no_grad()
def _share_weights(source: nn.Module, target: nn.Module) -> None:
    # The names differ, the order of the layers does not; what the source has behind them is its classifier.
    names = target.state_dict()
    weights = list(source.state_dict().values())[: len(names)]
    for (name, old), new in zip(names.items(), weights, strict=True):
        assert old.shape == new.shape, f"{name}: {tuple(old.shape)} here, {tuple(new.shape)} there"
    target.load_state_dict(dict(zip(names, weights, strict=True)))


@pytest.fixture
def share_weights() -> ShareWeights:
    """Copy weights from one module to another by order, checking every shape."""
    return _share_weights
