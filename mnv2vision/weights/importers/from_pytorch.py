"""Two PyTorch MobileNetV2s that many others were copied from.

Sources: d-li14/mobilenetv2.pytorch (models/imagenet/mobilenetv2.py), tonylins/pytorch-mobilenet-v2 (MobileNetV2.py).
"""

from collections.abc import Mapping
from functools import partial

from torch import Tensor

from mnv2vision.models.vision_model import VisionModel
from mnv2vision.preprocessing import Preprocessing
from mnv2vision.weights.importers.tables import (
    CLASSIFIER,
    NamePairs,
    adjusted,
    affine_pairs,
    build,
    class_options,
    converter,
    layer_steps,
    unit_pairs,
)

PREPROCESSING = Preprocessing()
"""A centre crop of 224 of 256, ImageNet's mean and standard deviation."""

_CANDIDATES: tuple[Mapping[str, object], ...] = (
    *({"width": width} for width in (1.0, 1.4, 1.3, 0.75, 0.5, 0.35, 0.25)),
    {"width": 0.1, "divisor": 4},  # d-li14's only; its published counts show the divisor
    # An earlier module of tonylins's has an expansion in block 0 and truncates channels, like PaddleClas's.
    {"variant": "paddle", "width": 1.0},
)


def name_pairs(model: VisionModel, *, last: str, classifier: str) -> NamePairs:
    """(our name, their name) of each parameter and buffer.

    Args:
        model: Our classifier.
        last: Their name of the last convolution with its norm.
        classifier: Their name of the linear layer.
    """
    for index, (name, steps) in enumerate(layer_steps(model.backbone)):
        ours = f"backbone.{name}"
        if not steps:
            theirs = last if name == "last" else f"features.{index}"
            yield from unit_pairs(ours, f"{theirs}.0", f"{theirs}.1")
        for position, step in enumerate(steps):  # a chain of convolution, norm and activation
            block = f"features.{index}.conv"
            yield from unit_pairs(f"{ours}.{step}", f"{block}.{3 * position}", f"{block}.{3 * position + 1}")
    yield from affine_pairs(CLASSIFIER, classifier)


def import_classifier(
    state: Mapping[str, Tensor], source: str, *, preprocessing: Preprocessing | Mapping[str, object] | None = None
) -> VisionModel:
    """Build our classifier from a state dictionary of either project.

    Args:
        state: From `read_state`, of any published width.
        source: The file's name, for messages.
        preprocessing: Fields that differ from `PREPROCESSING`, or all of them as a `Preprocessing`.

    Raises:
        WeightsError: Naming a parameter that is missing, unexpected or of the wrong shape.
    """
    pairs = partial(
        name_pairs,
        last="conv" if "conv.0.weight" in state else "features.18",
        classifier="classifier.1" if "classifier.1.weight" in state else "classifier",
    )
    return build(
        state,
        source,
        project="d-li14's or tonylins's MobileNetV2",
        candidates=_CANDIDATES,
        name_pairs=pairs,
        preprocessing=adjusted(PREPROCESSING, preprocessing),
        **class_options(state, "classifier.bias", "classifier.1.bias"),
    )


convert = converter("pytorch", {"classification": import_classifier})
