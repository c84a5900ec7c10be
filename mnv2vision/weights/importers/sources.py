"""The projects whose weights are read and written, by name."""

from collections.abc import Callable, Mapping

from torch import Tensor

from mnv2vision.models.vision_model import VisionModel
from mnv2vision.weights.importers import (
    from_paddle,
    from_pytorch,
    from_tensorflow,
    from_timm,
    from_torchvision,
    from_transformers,
)

SOURCES: Mapping[str, Callable[..., VisionModel]] = {
    "tensorflow": from_tensorflow.convert,
    "torchvision": from_torchvision.convert,
    "timm": from_timm.convert,
    "huggingface": from_transformers.convert,
    "paddle": from_paddle.convert,
    "pytorch": from_pytorch.convert,
}
"""Importers: `(task, path, **options)` to a model."""

EXPORTS: Mapping[str, Callable[[VisionModel], dict[str, Tensor]]] = {
    "torchvision": from_torchvision.export_state,
    "timm": from_timm.export_state,
}
"""Exporters: a classifier to the other project's state dictionary."""
