"""What the rooms agree on, so that they need not know one another."""

from mnv2vision.contracts.export import HeadExport, Outputs
from mnv2vision.contracts.inference import InferenceOptions, window_starts
from mnv2vision.contracts.model import Features, Head, HeadConfig, HeadKind, ModelConfig, Options, Taps
from mnv2vision.contracts.raw import Raw, RawDetections
from mnv2vision.contracts.task import (
    ClassFigures,
    Decoder,
    Distance,
    Evaluator,
    HeadInUse,
    HeadSettings,
    HeadTraining,
    Lesson,
    Network,
    Recommended,
    Target,
    TaskKind,
    check_finite,
    class_names,
    find_classes,
    no_loss,
)

__all__ = [
    "ClassFigures",
    "Decoder",
    "Distance",
    "Evaluator",
    "Features",
    "Head",
    "HeadConfig",
    "HeadExport",
    "HeadInUse",
    "HeadKind",
    "HeadSettings",
    "HeadTraining",
    "InferenceOptions",
    "Lesson",
    "ModelConfig",
    "Network",
    "Options",
    "Outputs",
    "Raw",
    "RawDetections",
    "Recommended",
    "Taps",
    "Target",
    "TaskKind",
    "check_finite",
    "class_names",
    "find_classes",
    "no_loss",
    "window_starts",
]
