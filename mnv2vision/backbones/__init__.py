"""MobileNetV1, V2 and V3 with named feature taps."""

from collections.abc import Callable
from typing import cast

from mnv2vision.backbones.backbone import Backbone, FeatureSpec
from mnv2vision.backbones.folding import fold_batch_norm, has_folded_batch_norm, recover_batch_norm
from mnv2vision.backbones.mobilenet_v1 import MobileNetV1
from mnv2vision.backbones.mobilenet_v2 import MobileNetV2
from mnv2vision.backbones.mobilenet_v3 import MobileNetV3Large, MobileNetV3Small
from mnv2vision.errors import ConfigError, check_keywords

BACKBONES: dict[str, type[Backbone]] = {
    "mobilenet_v1": MobileNetV1,
    "mobilenet_v2": MobileNetV2,
    "mobilenet_v3_large": MobileNetV3Large,
    "mobilenet_v3_small": MobileNetV3Small,
}

__all__ = [
    "BACKBONES",
    "Backbone",
    "FeatureSpec",
    "create_backbone",
    "fold_batch_norm",
    "has_folded_batch_norm",
    "recover_batch_norm",
]


def create_backbone(name: str, **options: object) -> Backbone:
    """Create a backbone with random weights.

    Args:
        name: "mobilenet_v1", "mobilenet_v2", "mobilenet_v3_large" or "mobilenet_v3_small".
        **options: Common to all: `width` (channel multiplier, 1.0), `output_stride` (32, 16 or 8), `taps` (names of
            the features to return; the deepest one by default), `in_channels` (3), `padding` ("symmetric" or "tf"),
            `norm_eps`, `norm_momentum`, `initialization` ("kaiming" or "tf"). V1 and V2: `activation`. For the
            others see the classes.

    Returns:
        A module that maps images (N, in_channels, H, W) to a dict of features.

    Raises:
        ConfigError: For an unknown name, option, option value or tap.
    """
    if name not in BACKBONES:
        raise ConfigError(f"backbone {name!r} is unknown; valid: {', '.join(BACKBONES)}")
    width = options.get("width", 1.0)
    if not isinstance(width, int | float) or not 0 < width <= 16:
        raise ConfigError(f"width={width!r} is not a channel multiplier in 0..16; the papers use 0.25 to 1.4")
    check_keywords(BACKBONES[name], options, f"option of {name}")
    build = cast(Callable[..., Backbone], BACKBONES[name])  # whose keywords were checked
    return build(**options)
