"""The blocks of the three MobileNet generations."""

from typing import Literal

from torch import Tensor, nn

from mnv2vision.backbones.layers import Activation, ConvNormAct, LayerOptions, SqueezeExcite

Shortcut = Literal["bottleneck", "expansion", "none"]


class DepthwiseSeparable(nn.Module):
    """MobileNetV1's block: depthwise 3x3, then 1x1, each with batch norm and ReLU6 (arXiv 1704.04861, section 3)."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, options: LayerOptions) -> None:
        super().__init__()
        self.stride = stride
        self.out_channels = out_channels
        self.depthwise = ConvNormAct(in_channels, in_channels, 3, stride=stride, groups=in_channels, options=options)
        self.pointwise = ConvNormAct(in_channels, out_channels, options=options)

    def set_stride(self, stride: int, dilation: int) -> None:
        """Change the depthwise convolution's stride and dilation."""
        self.depthwise.set_stride(stride, dilation)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        out: Tensor = self.pointwise(self.depthwise(x))
        return out


class Add(nn.Module):
    """A sum as a module, which hooks find: its inputs and its result are rounded in int8."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Add two tensors of one shape."""
        return x + y


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, 1x1 linear projection (arXiv 1801.04381, section 3.3 and table 1).

    MobileNetV3 adds a squeeze-and-excitation gate before the projection.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        *,
        stride: int,
        options: LayerOptions,
        kernel_size: int = 3,
        expand: bool = True,
        bottleneck_activation: Activation = "none",
        shortcut: Shortcut = "bottleneck",
        squeeze_excite: bool = False,
    ) -> None:
        """Build the block.

        Args:
            in_channels: Channels of the narrow input.
            hidden_channels: Channels between expansion and projection.
            out_channels: Channels of the narrow output.
            stride: Of the depthwise convolution.
            options: Conventions shared by the network.
            kernel_size: Of the depthwise convolution.
            expand: Whether there is an expansion; without it `hidden_channels` equals `in_channels`.
            bottleneck_activation: After the projection; "none" is the paper's linear bottleneck.
            shortcut: Where residuals run: between bottlenecks (the paper's choice), between the expansions of
                consecutive blocks, or nowhere (figure 6b).
            squeeze_excite: Whether to gate the channels before the projection.
        """
        super().__init__()
        self.stride = stride
        self.hidden_channels = hidden_channels
        self.out_channels = out_channels
        self.expansion_only = False
        keeps_shape = stride == 1 and in_channels == out_channels
        self.adds_input = keeps_shape and shortcut == "bottleneck"
        self.add = Add()
        # Equal bottlenecks on both sides mean equal expansions here and in the next block: the number of shortcuts
        # is the same as between bottlenecks, which keeps the comparison of figure 6b fair.
        self.feeds_next_expansion = expand and keeps_shape and shortcut == "expansion"
        self.expand = ConvNormAct(in_channels, hidden_channels, options=options) if expand else None
        self.depthwise = ConvNormAct(
            hidden_channels, hidden_channels, kernel_size, stride=stride, groups=hidden_channels, options=options
        )
        self.squeeze_excite = SqueezeExcite(hidden_channels) if squeeze_excite else None
        self.project = ConvNormAct(hidden_channels, out_channels, options=options, activation=bottleneck_activation)

    def set_stride(self, stride: int, dilation: int) -> None:
        """Change the depthwise convolution's stride and dilation."""
        self.depthwise.set_stride(stride, dilation)

    def keep_expansion_only(self) -> None:
        """Drop everything after the expansion, if it is the deepest tap."""
        self.expansion_only = True
        del self.depthwise, self.squeeze_excite, self.project

    def expansion(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, hidden_channels, H, W): the features of the tap `block{i}.expand`."""
        return x if self.expand is None else self.expand(x)

    def filtered(self, expanded: Tensor) -> Tensor:
        """Depthwise convolution and gate: (N, hidden, H, W) to (N, hidden, H / stride, W / stride)."""
        x: Tensor = self.depthwise(expanded)
        return x if self.squeeze_excite is None else self.squeeze_excite(x)

    def bottleneck(self, filtered: Tensor, x: Tensor) -> Tensor:
        """Projection, plus the block's input `x` if there is a shortcut."""
        out: Tensor = self.project(filtered)
        return self.add(out, x) if self.adds_input else out

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        return self.bottleneck(self.filtered(self.expansion(x)), x)
