"""timm's MobileNets as options of our backbones."""

from collections.abc import Mapping

_V2, _LARGE, _SMALL = "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small"
MODELS: Mapping[str, Mapping[str, object]] = {
    "mobilenetv2_035": {"backbone": _V2, "width": 0.35},
    "mobilenetv2_050": {"backbone": _V2, "width": 0.5},
    "mobilenetv2_075": {"backbone": _V2, "width": 0.75},
    "mobilenetv2_100": {"backbone": _V2, "width": 1.0},
    "mobilenetv2_140": {"backbone": _V2, "width": 1.4},
    "mobilenetv2_110d": {"backbone": _V2, "width": 1.1, "depth": 1.2, "fixed_ends": True},
    "mobilenetv2_120d": {"backbone": _V2, "width": 1.2, "depth": 1.4, "fixed_ends": True},
    "mobilenetv3_large_075": {"backbone": _LARGE, "width": 0.75},
    "mobilenetv3_large_100": {"backbone": _LARGE, "width": 1.0},
    "mobilenetv3_small_050": {"backbone": _SMALL, "width": 0.5, "fixed_stem": True},
    "mobilenetv3_small_075": {"backbone": _SMALL, "width": 0.75},
    "mobilenetv3_small_100": {"backbone": _SMALL, "width": 1.0},
    "tf_mobilenetv3_large_minimal_100": {"backbone": _LARGE, "width": 1.0, "minimalistic": True},
    "tf_mobilenetv3_small_minimal_100": {"backbone": _SMALL, "width": 1.0, "minimalistic": True},
}
"""By timm's name; tf_mobilenetv3_large_100 and the like have the architectures of the names without tf_."""
