"""MobileNetV3 (arXiv 1905.02244, tables 1 and 2), as TF-slim's nets/mobilenet/mobilenet_v3.py has it."""

from collections.abc import Iterator, Sequence
from typing import ClassVar, NamedTuple

from mnv2vision.backbones.backbone import Backbone, Layer
from mnv2vision.backbones.blocks import InvertedResidual
from mnv2vision.backbones.layers import Activation, ConvNormAct, Initialization, LayerOptions, Padding, make_divisible


class _Block(NamedTuple):
    """A row of the paper's tables; the expansion is a factor, so that it follows the width multiplier."""

    kernel: int
    expansion: float
    channels: int
    squeeze_excite: bool
    activation: Activation
    stride: int


_LARGE = (
    _Block(3, 1, 16, False, "relu", 1),
    _Block(3, 4, 24, False, "relu", 2),
    _Block(3, 3, 24, False, "relu", 1),
    _Block(5, 3, 40, True, "relu", 2),
    _Block(5, 3, 40, True, "relu", 1),
    _Block(5, 3, 40, True, "relu", 1),
    _Block(3, 6, 80, False, "hardswish", 2),
    _Block(3, 2.5, 80, False, "hardswish", 1),
    _Block(3, 2.3, 80, False, "hardswish", 1),
    _Block(3, 2.3, 80, False, "hardswish", 1),
    _Block(3, 6, 112, True, "hardswish", 1),
    _Block(3, 6, 112, True, "hardswish", 1),
    _Block(5, 6, 160, True, "hardswish", 2),
    _Block(5, 6, 160, True, "hardswish", 1),
    _Block(5, 6, 160, True, "hardswish", 1),
)
_SMALL = (
    _Block(3, 1, 16, True, "relu", 2),
    _Block(3, 4.5, 24, False, "relu", 2),
    _Block(3, 3.67, 24, False, "relu", 1),
    _Block(5, 4, 40, True, "hardswish", 2),
    _Block(5, 6, 40, True, "hardswish", 1),
    _Block(5, 6, 40, True, "hardswish", 1),
    _Block(5, 3, 48, True, "hardswish", 1),
    _Block(5, 3, 48, True, "hardswish", 1),
    _Block(5, 6, 96, True, "hardswish", 2),
    _Block(5, 6, 96, True, "hardswish", 1),
    _Block(5, 6, 96, True, "hardswish", 1),
)


class _MobileNetV3(Backbone):
    final_tap = "last"
    blocks: ClassVar[tuple[_Block, ...]]
    last_channels: ClassVar[int]
    head_channels: ClassVar[int]
    """Channels of the classifier's hidden layer, between pooling and classes."""

    def __init__(
        self,
        *,
        width: float = 1.0,
        output_stride: int = 32,
        taps: Sequence[str] | None = None,
        in_channels: int = 3,
        padding: Padding = "symmetric",
        norm_eps: float = 1e-3,
        norm_momentum: float = 0.01,
        initialization: Initialization = "kaiming",
        minimalistic: bool = False,
        fixed_stem: bool = False,
    ) -> None:
        """Build the network; the arguments are those of `create_backbone`, and these.

        Args:
            width: Channel multiplier.
            output_stride: 32, 16 or 8.
            taps: Names of the features to return.
            in_channels: Of the images.
            padding: "symmetric" or "tf".
            norm_eps: Of batch norm.
            norm_momentum: Of batch norm.
            initialization: "kaiming" or "tf".
            minimalistic: TF-slim's variant without 5x5 kernels, gates and hard-swish, for hardware without them.
            fixed_stem: Keep the stem at 16 channels, whatever the width; as timm does below width 0.75.
        """

        def options(activation: Activation) -> LayerOptions:
            return LayerOptions(padding, norm_eps, norm_momentum, "relu" if minimalistic else activation)

        def layers() -> Iterator[tuple[str, Layer]]:
            current = 16 if fixed_stem else make_divisible(16 * width)
            yield "stem", ConvNormAct(in_channels, current, 3, stride=2, options=options("hardswish"))
            for index, block in enumerate(self.blocks):
                out = make_divisible(block.channels * width)
                yield (
                    f"block{index}",
                    InvertedResidual(
                        current,
                        make_divisible(current * block.expansion) if block.expansion != 1 else current,
                        out,
                        stride=block.stride,
                        options=options(block.activation),
                        kernel_size=3 if minimalistic else block.kernel,
                        expand=block.expansion != 1,
                        squeeze_excite=block.squeeze_excite and not minimalistic,
                    ),
                )
                current = out
            yield "last", ConvNormAct(current, make_divisible(self.last_channels * width), options=options("hardswish"))

        super().__init__(
            layers(),
            taps=taps,
            output_stride=output_stride,
            initialization=initialization,
            width=width,
            options=options("hardswish"),
        )


class MobileNetV3Large(_MobileNetV3):
    """Taps: `stem`, `block0` … `block14`, `block1.expand` … `block14.expand`, `last` (960 channels at width 1)."""

    blocks = _LARGE
    last_channels = 960
    head_channels = 1280


class MobileNetV3Small(_MobileNetV3):
    """Taps: `stem`, `block0` … `block10`, `block1.expand` … `block10.expand`, `last` (576 channels at width 1)."""

    blocks = _SMALL
    last_channels = 576
    head_channels = 1024
