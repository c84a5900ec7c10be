"""timm's MobileNetV2 and V3: state dictionaries to our classifiers and back."""

from collections.abc import Iterator, Mapping
from itertools import groupby

from torch import Tensor

from mnv2vision.backbones import BACKBONES
from mnv2vision.backbones.layers import Padding
from mnv2vision.backbones.mobilenet_v2 import stage_lengths
from mnv2vision.errors import WeightsError
from mnv2vision.models.vision_model import VisionModel
from mnv2vision.preprocessing import Preprocessing
from mnv2vision.weights.importers.tables import (
    CLASSIFIER,
    HIDDEN,
    NamePairs,
    adjusted,
    affine_pairs,
    build,
    class_options,
    converter,
    export,
    layer_steps,
    unit_pairs,
)
from mnv2vision.weights.importers.timm_models import MODELS

PREPROCESSING = Preprocessing(interpolation="bicubic")
"""Of timm's own weights, except two of mobilenetv3_large_100: ra4 (mean and std 0.5, crop_fraction 0.95) and miil
(bilinear, mean 0 and std 1)."""
TF_PREPROCESSING = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
"""Of the tf_* models."""

_ARCHITECTURE = {"width": 1.0, "depth": 1.0, "fixed_ends": False, "minimalistic": False, "fixed_stem": False}
"""The options that the models differ in, with their defaults."""


def _positions(model: VisionModel) -> Iterator[tuple[int, int]]:
    """Stage, and place in the stage, of each block, from the unscaled architecture: scaled stages may look alike."""
    if model.config.backbone == "mobilenet_v2":
        lengths = stage_lengths(model.config.arguments.get("depth", 1.0))
    else:
        groups = groupby(BACKBONES[model.config.backbone].blocks, key=lambda block: block.channels)  # type: ignore[attr-defined]
        lengths = tuple(len(list(blocks)) for _, blocks in groups)
    return ((stage, place) for stage, length in enumerate(lengths) for place in range(length))


def name_pairs(model: VisionModel) -> NamePairs:
    """(our name, timm's name) of each parameter and buffer of a classifier."""
    v2 = model.config.backbone == "mobilenet_v2"
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
        yield from affine_pairs(HIDDEN, "conv_head")
    yield from affine_pairs(CLASSIFIER, "classifier")


def import_classifier(
    state: Mapping[str, Tensor],
    source: str,
    *,
    padding: Padding = "symmetric",
    preprocessing: Preprocessing | Mapping[str, object] | None = None,
) -> VisionModel:
    """Build our classifier from a state dictionary of one of timm's `MODELS`.

    Args:
        state: From `read_state`, of a classifier, not of a feature extractor.
        source: The file's name, for messages.
        padding: "tf" for the tf_* models, which also have a norm_eps of 1e-3; the state does not show it.
        preprocessing: Fields that differ from `PREPROCESSING` (with padding "tf" from `TF_PREPROCESSING`), or all of
            them as a `Preprocessing`.

    Raises:
        WeightsError: Naming a parameter that is missing, unexpected or of the wrong shape.
    """
    head = state.get("conv_head.weight")
    if head is not None and "conv_head.bias" in state:  # V3's hidden layer, there a 1x1 convolution
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
    """Export a classifier's state for `timm.create_model(**create_model_arguments(model))`.

    Args:
        model: A classifier with one of the `MODELS`; batch norm may carry folded biases.

    Raises:
        WeightsError: For an architecture that timm does not have.
    """
    create_model_arguments(model)
    free = (*_ARCHITECTURE, "padding", "norm_eps", "norm_momentum", "initialization")
    state = export(model, project="timm", free=free, name_pairs=name_pairs)
    if "conv_head.bias" in state:
        state["conv_head.weight"] = state["conv_head.weight"][:, :, None, None]
    return state


def create_model_arguments(model: VisionModel) -> dict[str, str | int | float]:
    """Arguments with which timm.create_model builds a module that computes the same as the classifier.

    Args:
        model: A classifier with one of the `MODELS`.

    Raises:
        WeightsError: For an architecture that timm does not have.
    """
    given = model.config.arguments
    ours = {key: given[key] for key in ("backbone", *_ARCHITECTURE) if key in given}
    wanted = {**_ARCHITECTURE, **ours}
    name = next((name for name, options in MODELS.items() if {**_ARCHITECTURE, **options} == wanted), None)
    if name is None:
        shown = ", ".join(f"{key}={value}" for key, value in ours.items())
        raise WeightsError(f"timm has no model with {shown}; it has {', '.join(MODELS)}")
    options = model.backbone.options
    return {
        "model_name": name,
        "num_classes": model.num_classes,
        "pad_type": "same" if options.padding == "tf" else "",
        "bn_eps": options.norm_eps,
    }


convert = converter("timm", {"classification": import_classifier})
