"""Convolutions prepared for inference on a CPU: weights in oneDNN's own layout, activation fused."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mnv2vision.backbones.layers import Conv2d, ConvNormAct, tf_same_padding

_FUSED: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.Identity: ("none", []),
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.Hardswish: ("hardswish", []),
}


class _PackedConv(nn.Module):
    def __init__(self, conv: Conv2d, activation: nn.Module) -> None:
        super().__init__()
        self.bias = conv.bias
        # At stride 1 TensorFlow's padding is symmetric; at stride 2 it depends on the input's size.
        self.pads_itself = conv.tf_padding and conv.stride[0] > 1
        self.geometry = (conv.kernel_size[0], conv.stride[0], conv.dilation[0])
        padding = [0, 0] if self.pads_itself else list(conv.padding)
        self.arguments = (padding, list(conv.stride), list(conv.dilation), conv.groups)
        self.activation = _FUSED[type(activation)]
        self.weight = conv.weight
        # Not a buffer: oneDNN's tensors can be neither copied nor saved.
        self.packed: tuple[torch.Size, Tensor] | None = None

    def _pack(self, size: torch.Size) -> Tensor:
        # oneDNN chooses the layout by the input's size; the wrong layout can be fifty times as slow.
        if self.packed is None or self.packed[0] != size:
            reorder = _operator("_reorder_convolution_weight")
            self.packed = (size, reorder(self.weight.detach(), *self.arguments, list(size)))
        return self.packed[1]

    def forward(self, x: Tensor) -> Tensor:
        if self.pads_itself:
            x = F.pad(x, tf_same_padding(x.shape[-2:], *self.geometry))
        name, scalars = self.activation
        convolve = _operator("_convolution_pointwise")
        return convolve(x, self._pack(x.shape), self.bias, *self.arguments, name, scalars, "")


def _operator(name: str) -> Callable[..., Tensor]:
    return cast(Callable[..., Tensor], getattr(torch.ops.mkldnn, name))


def can_pack() -> bool:
    """Whether this PyTorch has oneDNN and the private operators used here, with the arguments they have today."""
    is_available = cast(Callable[[], bool], torch.backends.mkldnn.is_available)
    if not is_available():
        return False
    try:
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            _PackedConv(Conv2d(1, 1), nn.ReLU6())(torch.ones(1, 1, 2, 2))
    except (AttributeError, TypeError, RuntimeError):  # removed, or with another signature
        return False
    return True


def pack_convolutions(model: nn.Module) -> None:
    """Speed up a model with folded batch norm, in place, for float32 inference on the CPU.

    Eager PyTorch reorders the weights into oneDNN's layout at every call, and makes a second pass for ReLU6.
    The operators used here are those that PyTorch's compiler emits. They are private: where PyTorch lacks them
    (see `can_pack`), the model stays unchanged.
    """
    if not can_pack():
        return
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, ConvNormAct) and isinstance(layer.norm, nn.Identity) and type(layer.act) in _FUSED:
                setattr(parent, name, _PackedConv(layer.conv, layer.act))
            elif isinstance(layer, Conv2d) and not isinstance(parent, ConvNormAct):
                setattr(parent, name, _PackedConv(layer, nn.Identity()))
