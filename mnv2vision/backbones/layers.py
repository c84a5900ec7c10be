"""Layers of backbones and heads, with the conventions of TensorFlow or PyTorch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mnv2vision.errors import ConfigError

Padding = Literal["symmetric", "tf"]
Activation = Literal["relu6", "relu", "hardswish", "none"]
Initialization = Literal["kaiming", "tf"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu6": nn.ReLU6, "relu": nn.ReLU, "hardswish": nn.Hardswish}


@dataclass(frozen=True)
class LayerOptions:
    """Options shared by all convolutions of a network.

    Attributes:
        padding: "symmetric" pads k // 2 on every side (PyTorch); "tf" is TensorFlow's SAME, which pads an even
            input only below and to the right at stride 2.
        norm_eps: Added to the variance by batch norm; TensorFlow's MobileNets use 1e-3.
        norm_momentum: Share of the new batch in the running statistics (TensorFlow's decay 0.997 is 0.003 here).
        activation: After every batch norm but those of linear bottlenecks.
    """

    padding: Padding = "symmetric"
    norm_eps: float = 1e-5
    norm_momentum: float = 0.1
    activation: Activation = "relu6"

    def __post_init__(self) -> None:
        check_choice("padding", self.padding, ("symmetric", "tf"))
        check_choice("activation", self.activation, (*_ACTIVATIONS, "none"))
        if not isinstance(self.norm_eps, int | float) or not 0 < self.norm_eps <= 1:
            raise ConfigError(f"norm_eps={self.norm_eps!r} must be above 0 and at most 1")
        if not isinstance(self.norm_momentum, int | float) or not 0 <= self.norm_momentum <= 1:
            raise ConfigError(f"norm_momentum={self.norm_momentum!r} must be in 0..1")


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Raise ConfigError, listing the valid values, unless `value` is one of `choices`."""
    if value not in choices:
        raise ConfigError(f"{name}={value!r} is unknown; valid: {', '.join(map(str, choices))}")


def make_divisible(value: float, divisor: int = 8) -> int:
    """Round a channel count to a multiple of `divisor`, never below `divisor` nor more than 10 % down.

    Source: TF-slim, research/slim/nets/mobilenet/mobilenet.py (`_make_divisible`).
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def tf_same_padding(size: Sequence[int], kernel: int, stride: int, dilation: int) -> list[int]:
    """TensorFlow's SAME padding for an input of (height, width), in F.pad's order: left, right, top, bottom."""
    padding: list[int] = []  # symbols under export
    for length in reversed(size):
        # (ceil(length / stride) - 1) * stride + extent of the kernel - length, in a form that exports symbolically.
        total = cast(int, torch.sym_max(0, dilation * (kernel - 1) + 1 - stride + (-length) % stride))
        padding += [total // 2, total - total // 2]
    return padding


class Conv2d(nn.Conv2d):
    """A convolution without bias that keeps the size at stride 1 and gives ceil(size / stride) otherwise."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        padding: Padding = "symmetric",
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, groups=groups, bias=False
        )
        self.tf_padding = padding == "tf"

    def set_stride(self, stride: int, dilation: int) -> None:
        """Change stride and dilation with the same weights (atrous convolution; DeepLab)."""
        self.stride = (stride, stride)
        kernel = self.kernel_size[0]
        dilation = dilation if kernel > 1 else 1
        self.dilation = (dilation, dilation)
        self.padding = (dilation * (kernel // 2),) * 2

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        # bfloat16 gradients of depthwise convolutions are slow on a CPU: four times as slow as float32 with a stride,
        # and four times as slow as space-to-batch with a dilation.
        slow = self.training and self.groups > 1 and x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        if slow and self.stride[0] > 1:
            with torch.autocast("cpu", enabled=False):
                return self._convolve(x.float()).to(x.dtype)
        if slow and self.dilation[0] > 1:
            return self._space_to_batch(x)
        return self._convolve(x)

    def _space_to_batch(self, x: Tensor) -> Tensor:
        """The dilated convolution as an ordinary one on rate x rate smaller images, as in TensorFlow."""
        rate, count, channels, (height, width) = self.dilation[0], *x.shape[:2], x.shape[2:]
        x = F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, -width % rate, 0, -height % rate))
        rows, columns = x.shape[1] // rate, x.shape[2] // rate
        x = x.reshape(count, rows, rate, columns, rate, channels).permute(0, 2, 4, 1, 3, 5)
        x = x.reshape(-1, rows, columns, channels).permute(0, 3, 1, 2)
        x = F.conv2d(x, self.weight, self.bias, 1, self.kernel_size[0] // 2, 1, self.groups).permute(0, 2, 3, 1)
        x = x.reshape(count, rate, rate, rows, columns, channels).permute(0, 3, 1, 4, 2, 5)
        return x.reshape(count, rows * rate, columns * rate, channels)[:, :height, :width].permute(0, 3, 1, 2)

    def _convolve(self, x: Tensor) -> Tensor:
        # At stride 1 both conventions pad the same way: avoid F.pad's copy.
        if self.tf_padding and self.stride[0] > 1:
            padding = tf_same_padding(x.shape[-2:], self.kernel_size[0], self.stride[0], self.dilation[0])
            return F.conv2d(F.pad(x, padding), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)
        return super().forward(x)


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm that uses its running statistics when there is a single value per channel.

    This happens with a batch of one after pooling, or for small images at the last stride.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, H, W)."""
        if self.training and x.numel() == x.shape[1]:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        return super().forward(x)


class ConvNormAct(nn.Module):
    """Convolution, batch norm and activation: the unit that `fold_batch_norm` turns into one convolution."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        *,
        options: LayerOptions,
        stride: int = 1,
        groups: int = 1,
        activation: Activation | None = None,
    ) -> None:
        """Build the three layers.

        Args:
            in_channels: Channels of the input.
            out_channels: Channels of the output.
            kernel_size: Side of the kernel, odd.
            options: Conventions shared by the network.
            stride: Stride of the convolution.
            groups: `in_channels` for a depthwise convolution.
            activation: Overrides the network's.
        """
        super().__init__()
        self.stride = stride
        self.out_channels = out_channels
        self.conv = Conv2d(
            in_channels, out_channels, kernel_size, stride=stride, groups=groups, padding=options.padding
        )
        self.norm: nn.Module = BatchNorm2d(out_channels, eps=options.norm_eps, momentum=options.norm_momentum)
        name = activation or options.activation
        self.act: nn.Module = nn.Identity() if name == "none" else _ACTIVATIONS[name](inplace=True)

    def set_stride(self, stride: int, dilation: int) -> None:
        """See Conv2d.set_stride; `self.stride` keeps the stride of the architecture."""
        self.conv.set_stride(stride, dilation)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        out: Tensor = self.act(self.norm(self.conv(x)))
        return out


class SqueezeExcite(nn.Module):
    """Channel gate of MobileNetV3: mean, 1x1 to a quarter, ReLU, 1x1 back, hard sigmoid (arXiv 1905.02244, 5.3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = make_divisible(channels / 4)
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scale each channel of (N, C, H, W) by a factor in 0..1."""
        gate = self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * F.hardsigmoid(gate)


def initialize(module: nn.Module, scheme: Initialization) -> None:
    """Set the weights of all convolutions, linear layers and norms.

    Args:
        module: Changed in place.
        scheme: "kaiming" is fan-out normal, as PyTorch's model zoo trains MobileNets; "tf" is the normal
            distribution of standard deviation 0.09 truncated at two deviations (TF-slim's training scope).
    """
    check_choice("initialization", scheme, ("kaiming", "tf"))
    if any(parameter.is_meta for parameter in module.parameters()):
        return  # nothing to set, and torch is slow at it
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            if scheme == "tf":
                nn.init.trunc_normal_(layer.weight, std=0.09, a=-0.18, b=0.18)
            elif isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out")
            else:
                nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()
