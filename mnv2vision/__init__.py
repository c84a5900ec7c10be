"""MobileNetV2 for classification, detection and segmentation.

>>> import mnv2vision as mv
>>> backbone = mv.create_backbone("mobilenet_v2", taps=("block13.expand", "last"))
>>> backbone.feature_specs["last"]
FeatureSpec(channels=1280, stride=32)
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mnv2vision.backbones import Backbone, FeatureSpec, create_backbone, fold_batch_norm, recover_batch_norm
    from mnv2vision.backbones.split import split_inference
    from mnv2vision.data.sample import Boxes, Sample
    from mnv2vision.engine.api import Run, evaluate, export, train
    from mnv2vision.engine.export import Exported
    from mnv2vision.inference.predictor import Predictor
    from mnv2vision.models.complexity import Complexity, complexity
    from mnv2vision.models.join import join
    from mnv2vision.predictions.base import Answers
    from mnv2vision.predictions.classification import Classification
    from mnv2vision.predictions.detection import Detection
    from mnv2vision.predictions.segmentation import Segmentation
    from mnv2vision.preprocessing import Preprocessing
    from mnv2vision.weights.create import create_model
    from mnv2vision.weights.entries import list_weights
    from mnv2vision.weights.file import save
    from mnv2vision.weights.hub import push_to_hub
    from mnv2vision.weights.registry import load

from mnv2vision.version import __version__ as __version__

__all__ = [
    "Answers",
    "Backbone",
    "Boxes",
    "Classification",
    "Complexity",
    "Detection",
    "Exported",
    "FeatureSpec",
    "Predictor",
    "Preprocessing",
    "Run",
    "Sample",
    "Segmentation",
    "complexity",
    "create_backbone",
    "create_model",
    "evaluate",
    "export",
    "fold_batch_norm",
    "join",
    "list_weights",
    "load",
    "push_to_hub",
    "recover_batch_norm",
    "save",
    "split_inference",
    "train",
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
    "mnv2vision.data.sample": ("Boxes", "Sample"),
    "mnv2vision.engine.api": ("Run", "evaluate", "export", "train"),
    "mnv2vision.engine.export": ("Exported",),
    "mnv2vision.models.complexity": ("Complexity", "complexity"),
    "mnv2vision.models.join": ("join",),
    "mnv2vision.inference.predictor": ("Predictor",),
    "mnv2vision.predictions.base": ("Answers",),
    "mnv2vision.predictions.classification": ("Classification",),
    "mnv2vision.predictions.detection": ("Detection",),
    "mnv2vision.predictions.segmentation": ("Segmentation",),
    "mnv2vision.preprocessing": ("Preprocessing",),
    "mnv2vision.weights.create": ("create_model",),
    "mnv2vision.weights.entries": ("list_weights",),
    "mnv2vision.weights.file": ("save",),
    "mnv2vision.weights.hub": ("push_to_hub",),
    "mnv2vision.weights.registry": ("load",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


if not TYPE_CHECKING:  # a checker would take any name for there

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module 'mnv2vision' has no attribute {name!r}")
        value = getattr(import_module(_HOME[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
