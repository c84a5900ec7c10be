"""Weights of timm's MobileNetV2 and V3: its state dictionaries, to our classifiers and back."""

import os
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

from torch import Tensor

from mnv2vision.backbones import BACKBONES
from mnv2vision.backbones.layers import Padding
from mnv2vision.backbones.mobilenet_v2 import stage_lengths
from mnv2vision.errors import WeightsError
from mnv2vision.preprocessing import Preprocessing
from mnv2vision.vision_model import VisionModel
from mnv2vision.weights.state import (
    NamePairs,
    adjusted,
    affine_pairs,
    build,
    class_options,
    convert_file,
    export,
    layer_steps,
    unit_pairs,
)

PREPROCESSING = Preprocessing(interpolation="bicubic")
"""Of timm's own weights but two of mobilenetv3_large_100: ra4 (mean and std 0.5, crop_fraction 0.95) and miil
(bilinear, mean 0 and std 1)."""
TF_PREPROCESSING = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
"""Of the tf_* models."""

_V2, _LARGE, _SMALL = "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small"
MODELS: dict[str, dict[str, Any]] = {
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
"""The architecture of each model of timm's; tf_mobilenetv3_large_100 and the like are those without tf_ here."""

_ARCHITECTURE = {"width": 1.0, "depth": 1.0, "fixed_ends": False, "minimalistic": False, "fixed_stem": False}
"""The options that tell the models apart, with their defaults."""


def _positions(model: VisionModel) -> Iterator[tuple[int, int]]:
    """Stage and place in it of each block, by the unscaled architecture: narrow stages may have equal channels."""
    if model.config["backbone"] == _V2:
        lengths = stage_lengths(model.config.get("depth", 1.0))
    else:
        groups = groupby(BACKBONES[model.config["backbone"]].blocks, key=lambda block: block.channels)  # type: ignore[attr-defined]
        lengths = tuple(len(list(blocks)) for _, blocks in groups)
    return ((stage, place) for stage, length in enumerate(lengths) for place in range(length))


def name_pairs(model: VisionModel) -> NamePairs:
    """(our name, timm's name) of each parameter and buffer of a classifier."""
    v2 = model.config["backbone"] == _V2
    positions = _positions(model)
    stage = -1
    for name, steps in layer_steps(model.backbone):
        ours = f"backbone.{name}"
        if name == "stem":
            yield from unit_pairs(ours, "conv_stem", "bn1")
        elif name == "last" and v2:
            yield from unit_pairs(ours, "conv_head", "bn2")
        elif name == "last":
            yield from unit_pairs(ours, f"blocks.{stage + 1}.0.conv", f"blocks.{stage + 1}.0.bn1")
        else:
            stage, place = next(positions)
            part = f"blocks.{stage}.{place}"
            project = "conv_pwl" if "expand" in steps else "conv_pw"
            convs = {"expand": "conv_pw", "depthwise": "conv_dw", "project": project}
            for number, step in enumerate((step for step in steps if step in convs), start=1):
                yield from unit_pairs(f"{ours}.{step}", f"{part}.{convs[step]}", f"{part}.bn{number}")
            if "squeeze_excite" in steps:
                yield from affine_pairs(f"{ours}.squeeze_excite.reduce", f"{part}.se.conv_reduce")
                yield from affine_pairs(f"{ours}.squeeze_excite.expand", f"{part}.se.conv_expand")
    if not v2:
        yield from affine_pairs("hidden", "conv_head")
    yield from affine_pairs("classifier", "classifier")


def import_classifier(
    state: Mapping[str, Tensor],
    source: str,
    *,
    padding: Padding = "symmetric",
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
) -> VisionModel:
    """Build our classifier from a state dictionary of timm's: see `MODELS`.

    Args:
        state: Of a classifier, not of features alone.
        source: The file's name, for messages.
        padding: "tf" for the tf_* models, which have a norm_eps of 1e-3, too; the state does not tell.
        preprocessing: What differs from `PREPROCESSING`, or from `TF_PREPROCESSING` with padding "tf".

    Raises:
        WeightsError: Naming a parameter that is missing, left over or misshapen.
    """
    head = state.get("conv_head.weight")
    if head is not None and "conv_head.bias" in state:  # V3's hidden layer, a 1x1 convolution there
        state = {**state, "conv_head.weight": head.flatten(1)}
    return build(
        state,
        source,
        project="timm's mobilenetv2 or mobilenetv3",
        candidates=MODELS.values(),
        name_pairs=name_pairs,
        padding=padding,
        norm_eps=1e-3 if padding == "tf" else 1e-5,
        norm_momentum=0.1,
        preprocessing=adjusted(TF_PREPROCESSING if padding == "tf" else PREPROCESSING, preprocessing),
        **class_options(state, "classifier.bias"),
    )


def export_state(model: VisionModel) -> dict[str, Tensor]:
    """A classifier's weights as `timm.create_model(**create_model_arguments(model))` loads them.

    Args:
        model: Of an architecture in `MODELS`; batch norm may carry folded biases.

    Raises:
        WeightsError: For an architecture that timm does not have.
    """
    create_model_arguments(model)
    free = (*_ARCHITECTURE, "padding", "norm_eps", "norm_momentum", "initialization")
    state = export(model, project="timm", free=free, name_pairs=name_pairs)
    if "conv_head.bias" in state:
        state["conv_head.weight"] = state["conv_head.weight"][:, :, None, None]
    return state


def create_model_arguments(model: VisionModel) -> dict[str, Any]:
    """Arguments of timm.create_model by which its module computes what the classifier does.

    Raises:
        WeightsError: For an architecture that timm does not have.
    """
    ours = {key: model.config[key] for key in ("backbone", *_ARCHITECTURE) if key in model.config}
    name = next((name for name, options in MODELS.items() if _ARCHITECTURE | options == _ARCHITECTURE | ours), None)
    if name is None:
        shown = ", ".join(f"{key}={value}" for key, value in ours.items())
        raise WeightsError(f"timm: it has no model of {shown}; it has {', '.join(MODELS)}")
    options = model.backbone.options
    return {
        "model_name": name,
        "num_classes": model.num_classes,
        "pad_type": "same" if options.padding == "tf" else "",
        "bn_eps": options.norm_eps,
    }


def convert(task: str, path: str | os.PathLike[str], **options: Any) -> VisionModel:
    """What tools/convert.py source=timm does.

    Args:
        task: "classification".
        path: A state dictionary's file, .pth or .safetensors.
        **options: Those of `import_classifier`.
    """
    return convert_file("timm", {"classification": import_classifier}, task, path, options)
