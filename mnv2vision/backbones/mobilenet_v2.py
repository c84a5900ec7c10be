"""MobileNetV2 (arXiv 1801.04381, table 2), as TF-slim's research/slim/nets/mobilenet/mobilenet_v2.py has it."""

import math
from collections.abc import Iterator, Sequence
from typing import Literal

from mnv2vision.backbones.backbone import Backbone, Layer
from mnv2vision.backbones.blocks import InvertedResidual, Shortcut
from mnv2vision.backbones.layers import (
    Activation,
    ConvNormAct,
    Initialization,
    LayerOptions,
    Padding,
    check_choice,
    make_divisible,
)
from mnv2vision.errors import ConfigError

# Table 2: expansion t, channels c, repeats n, stride s of the first repeat.
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))

Rounding = Literal["slim", "paddle"]


def stage_lengths(depth: object = 1.0) -> tuple[int, ...]:
    """Blocks of the seven stages; all but the first and the last are multiplied and rounded up."""
    if not isinstance(depth, int | float) or not 0 < depth <= 16:
        raise ConfigError(f"depth={depth!r} is not a depth multiplier in 0..16; timm's deeper models use 1.2 and 1.4")
    first, *middle, last = (n for _, _, n, _ in _STAGES)
    return first, *(math.ceil(n * depth) for n in middle), last


class MobileNetV2(Backbone):
    """Taps: `stem`, `block0` … `block16`, `block1.expand` … `block16.expand`, `last` (1280 channels at width <= 1)."""

    final_tap = "last"

    def __init__(
        self,
        *,
        width: float = 1.0,
        output_stride: int = 32,
        taps: Sequence[str] | None = None,
        in_channels: int = 3,
        padding: Padding = "symmetric",
        norm_eps: float = 1e-5,
        norm_momentum: float = 0.1,
        activation: Activation = "relu6",
        initialization: Initialization = "kaiming",
        expansion: int = 6,
        divisor: int = 8,
        variant: Rounding = "slim",
        linear_bottleneck: bool = True,
        shortcut: Shortcut = "bottleneck",
        depth: float = 1.0,
        fixed_ends: bool = False,
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
            activation: "relu6" or "relu".
            initialization: "kaiming" or "tf".
            expansion: Hidden channels per input channel of a block (t of table 2, for all blocks but the first).
            divisor: Channels are rounded to a multiple of it; DeepLab's model of width 0.5 needs 1.
            variant: "paddle" is PaddleClas's: channels are truncated to integers instead of rounded, and block 0
                has an expansion convolution although its expansion factor is 1.
            linear_bottleneck: False adds an activation after the projection (figure 6a).
            shortcut: "bottleneck", "expansion" or "none" (figure 6b).
            depth: Multiplies the blocks of every stage except the first and the last, rounded up; timm's deeper
                models use 1.2 and 1.4. Taps are numbered consecutively, so they shift with it.
            fixed_ends: Keep the stem at 32 channels and the last convolution at 1280 at any width, as in timm's deeper
                models.
        """
        check_choice("variant", variant, ("slim", "paddle"))
        check_choice("shortcut", shortcut, ("bottleneck", "expansion", "none"))
        if expansion < 1 or divisor < 1:
            raise ConfigError(f"expansion={expansion} and divisor={divisor} must be 1 or more")
        lengths = stage_lengths(depth)
        options = LayerOptions(padding, norm_eps, norm_momentum, activation)

        def round_channels(count: float) -> int:
            return int(count) if variant == "paddle" else make_divisible(count, divisor)

        def layers() -> Iterator[tuple[str, Layer]]:
            current = 32 if fixed_ends else round_channels(32 * width)
            yield "stem", ConvNormAct(in_channels, current, 3, stride=2, options=options)
            index = 0
            for (t, c, _, s), n in zip(_STAGES, lengths, strict=True):
                factor = expansion if t > 1 else 1
                out = round_channels(c * width)
                for repeat in range(n):
                    yield (
                        f"block{index}",
                        InvertedResidual(
                            current,
                            round_channels(current * factor) if factor > 1 else current,
                            out,
                            stride=s if repeat == 0 else 1,
                            options=options,
                            expand=t > 1 or variant == "paddle",
                            bottleneck_activation="none" if linear_bottleneck else activation,
                            shortcut=shortcut,
                        ),
                    )
                    current = out
                    index += 1
            # Below width 1 the multiplier does not apply to the last convolution (section 6.1; TF's finegrain mode).
            last = 1280 if fixed_ends else round_channels(1280 * max(width, 1.0))
            yield "last", ConvNormAct(current, last, options=options)

        super().__init__(
            layers(),
            taps=taps,
            output_stride=output_stride,
            initialization=initialization,
            width=width,
            options=options,
        )
