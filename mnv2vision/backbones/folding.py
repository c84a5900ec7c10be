"""Batch norm folded into convolutions for inference, and recovered from them for training."""

import copy
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from mnv2vision.backbones.layers import ConvNormAct

Model = TypeVar("Model", bound=nn.Module)


def fold_batch_norm(model: Model) -> Model:
    """A copy for inference whose batch norms are folded into the convolutions before them.

    Args:
        model: Any module built from this package's layers; it stays unchanged.

    Returns:
        A copy in inference mode, without gradients; its outputs equal the model's up to rounding (1e-4).
    """
    folded = copy.deepcopy(model).eval().requires_grad_(False)
    for layer in folded.modules():
        if isinstance(layer, ConvNormAct) and isinstance(norm := layer.norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            layer.conv.weight, layer.conv.bias = fuse_conv_bn_weights(
                layer.conv.weight,
                layer.conv.bias,
                norm.running_mean,
                norm.running_var,
                norm.eps,
                norm.weight,
                norm.bias,
            )
            layer.norm = nn.Identity()
    return folded.requires_grad_(False)


def _norms(model: nn.Module) -> Iterator[nn.BatchNorm2d]:
    return (module for module in model.modules() if isinstance(module, nn.BatchNorm2d))


@torch.no_grad()
def carry_bias(norm: nn.BatchNorm2d, bias: Tensor) -> None:
    """Make a norm only add `bias`, to hold weights published with folded batch norm."""
    norm.reset_running_stats()
    norm.weight.fill_((1.0 + norm.eps) ** 0.5)
    norm.bias.copy_(bias)


@torch.no_grad()
def has_folded_batch_norm(model: nn.Module) -> bool:
    """Whether any batch norm carries a folded bias (see `carry_bias`), on which training would collapse."""
    for norm in _norms(model):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        identity = not norm.running_mean.any() and bool((norm.running_var == 1).all())
        if identity and norm.bias.any():
            return True
    return False


@torch.no_grad()
def recover_batch_norm(model: nn.Module, images: Tensor) -> None:
    """Give folded batch norms the statistics of real images: outputs stay the same, and fine-tuning works.

    The norms are set one after another in a single pass: each takes the mean and variance of its input as its running
    statistics, and a scale and bias that undo them.

    Args:
        model: A model with folded weights, changed in place; norms without a folded bias stay unchanged.
        images: (N, 3, H, W), normalised; about 80 natural images are enough.
    """

    def recover(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        variance, mean = torch.var_mean(inputs[0].float(), dim=(0, 2, 3), correction=0)
        norm.bias.add_(mean)
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)

    training = model.training
    hooks = [norm.register_forward_pre_hook(recover) for norm in _norms(model) if has_folded_batch_norm(norm)]
    try:
        model.eval()(images)
    finally:
        for hook in hooks:
            hook.remove()
        model.train(training)
