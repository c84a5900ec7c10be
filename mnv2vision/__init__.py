"""MobileNetV2 for classification, detection and segmentation.

>>> import mnv2vision as mv
>>> backbone = mv.create_backbone("mobilenet_v2", taps=("block13.expand", "last"))
>>> backbone.feature_specs["last"]
FeatureSpec(channels=1280, stride=32)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnv2vision.backbones import Backbone, FeatureSpec, create_backbone, fold_batch_norm, recover_batch_norm
    from mnv2vision.backbones.split import split_inference
    from mnv2vision.costs import Complexity, complexity
    from mnv2vision.models import create_model
    from mnv2vision.predictor import Predictor
    from mnv2vision.preprocessing import Preprocessing
    from mnv2vision.weights.file import save
    from mnv2vision.weights.hub import push_to_hub
    from mnv2vision.weights.registry import list_weights, load

__version__ = "0.1.0"

__all__ = [
    "Backbone",
    "Complexity",
    "FeatureSpec",
    "Predictor",
    "Preprocessing",
    "complexity",
    "create_backbone",
    "create_model",
    "fold_batch_norm",
    "list_weights",
    "load",
    "push_to_hub",
    "recover_batch_norm",
    "save",
    "split_inference",
]

# Where each public name lives: `import mnv2vision` itself imports nothing heavy.
_HOMES = {
    "mnv2vision.backbones": (
        "Backbone",
        "FeatureSpec",
        "create_backbone",
        "fold_batch_norm",
        "recover_batch_norm",
    ),
    "mnv2vision.backbones.split": ("split_inference",),
    "mnv2vision.costs": ("Complexity", "complexity"),
    "mnv2vision.models": ("create_model",),
    "mnv2vision.predictor": ("Predictor",),
    "mnv2vision.preprocessing": ("Preprocessing",),
    "mnv2vision.weights.file": ("save",),
    "mnv2vision.weights.hub": ("push_to_hub",),
    "mnv2vision.weights.registry": ("list_weights", "load"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mnv2vision' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
