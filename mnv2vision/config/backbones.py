"""What `backbone=` chooses from; null: as in init_from, or the library's default (docs/backbones.md)."""

from dataclasses import dataclass
from typing import Annotated

from mnv2vision.config.annotations import AboveZero, Factor, Name, Share, Stride
from mnv2vision.config.kinds import whole
from mnv2vision.config.options import option


@dataclass(frozen=True)
class _Backbone:
    name: Name = option("", "set by backbone=")
    width: Factor | None = option(None, "channels of all layers, times this")
    output_stride: Stride | None = option(None, "32 | 16 | 8; smaller ones by dilation")
    padding: Name | None = option(None, "symmetric | tf")
    norm_eps: AboveZero | None = option(None, "of batch norm")
    norm_momentum: Share | None = option(None, "of batch norm's running statistics")
    initialization: Name | None = option(None, "kaiming | tf")


@dataclass(frozen=True)
class MobileNetV1(_Backbone):
    """MobileNetV1."""

    name: Name = option("mobilenet_v1", "set by backbone=")
    activation: Name | None = option(None, "relu6 | relu")


@dataclass(frozen=True)
class MobileNetV2(_Backbone):
    """MobileNetV2."""

    name: Name = option("mobilenet_v2", "set by backbone=")
    activation: Name | None = option(None, "relu6 | relu")
    expansion: Annotated[int, whole(1, 100)] | None = option(None, "of the blocks' channels: 6")
    divisor: Annotated[int, whole(1, 1024)] | None = option(None, "that channels are multiples of: 8")
    depth: Factor | None = option(None, "repeats of blocks, times this")
    fixed_ends: bool | None = option(None, "stem and last convolution as at width 1")
    variant: Name | None = option(None, "slim | paddle")
    linear_bottleneck: bool | None = option(None, "false: an activation behind the projections, too")
    shortcut: Name | None = option(None, "bottleneck | expansion | none")


@dataclass(frozen=True)
class _MobileNetV3(_Backbone):
    minimalistic: bool | None = option(None, "without squeeze-and-excite, hard swish and 5x5 kernels")
    fixed_stem: bool | None = option(None, "stem as at width 1")


@dataclass(frozen=True)
class MobileNetV3Large(_MobileNetV3):
    """MobileNetV3-Large."""

    name: Name = option("mobilenet_v3_large", "set by backbone=")


@dataclass(frozen=True)
class MobileNetV3Small(_MobileNetV3):
    """MobileNetV3-Small."""

    name: Name = option("mobilenet_v3_small", "set by backbone=")


BACKBONES: dict[str, type] = {
    "mobilenet_v1": MobileNetV1,
    "mobilenet_v2": MobileNetV2,
    "mobilenet_v3_large": MobileNetV3Large,
    "mobilenet_v3_small": MobileNetV3Small,
}
