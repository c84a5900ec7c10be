"""Weights of MobileNetV1 and V2 as Hugging Face's transformers lays them out.

Sources: transformers, models/mobilenet_v1/modeling_mobilenet_v1.py and models/mobilenet_v2/modeling_mobilenet_v2.py.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor

from mnv2vision.backbones.layers import Padding
from mnv2vision.data.imagenet import imagenet_names
from mnv2vision.data.voc_masks import MASK_NAMES
from mnv2vision.errors import ConfigError
from mnv2vision.preprocessing import Preprocessing
from mnv2vision.vision_model import VisionModel
from mnv2vision.weights.state import (
    NamePairs,
    adjusted,
    affine_pairs,
    build,
    class_options,
    convert_file,
    layer_steps,
    unit_pairs,
)

PREPROCESSING = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
"""RGB in -1..1, a centre crop of 224 of 256; google/mobilenet_v2_0.35_96 and the like crop their size of 32 more."""

_V2_WIDTHS: tuple[dict[str, Any], ...] = tuple(
    {"backbone": "mobilenet_v2", "width": width} for width in (1.0, 1.4, 1.3, 0.75, 0.5, 0.35)
)
_V1_WIDTHS: tuple[dict[str, Any], ...] = tuple(
    {"backbone": "mobilenet_v1", "width": width} for width in (1.0, 0.75, 0.5, 0.25)
)
_CONVENTIONS: dict[str, Any] = {"norm_eps": 1e-3, "norm_momentum": 0.003}

_STEPS = {"expand": "expand_1x1", "depthwise": "conv_3x3", "project": "reduce_1x1"}
_HEAD = {"pooling": "conv_pool", "pointwise": "conv_aspp", "project": "conv_projection"}


def _unit(ours: str, theirs: str) -> NamePairs:
    return unit_pairs(ours, f"{theirs}.convolution", f"{theirs}.normalization")


def _backbone_pairs(model: VisionModel) -> NamePairs:
    network = model.config["backbone"]
    for name, steps in layer_steps(model.backbone):
        ours, index = f"backbone.{name}", int(name.removeprefix("block")) if steps else 0
        if name == "stem":
            yield from _unit(ours, f"{network}.conv_stem{'.first_conv' if network == 'mobilenet_v2' else ''}")
        elif name == "last":
            yield from _unit(ours, f"{network}.conv_1x1")
        elif network == "mobilenet_v1":
            yield from _unit(f"{ours}.depthwise", f"{network}.layer.{2 * index}")
            yield from _unit(f"{ours}.pointwise", f"{network}.layer.{2 * index + 1}")
        else:
            block = f"{network}.layer.{index - 1}" if index else f"{network}.conv_stem"
            for step in steps:
                yield from _unit(f"{ours}.{step}", f"{block}.{_STEPS[step]}")


def classifier_pairs(model: VisionModel) -> NamePairs:
    """(our name, transformers' name) of each parameter and buffer of a classifier."""
    yield from _backbone_pairs(model)
    yield from affine_pairs("classifier", "classifier")


def segmenter_pairs(model: VisionModel) -> NamePairs:
    """(our name, transformers' name) of each parameter and buffer of a DeepLabv3."""
    yield from _backbone_pairs(model)
    for ours, theirs in _HEAD.items():
        yield from _unit(f"head.{ours}", f"segmentation_head.{theirs}")
    yield from affine_pairs("head.classifier", "segmentation_head.classifier.convolution")


def import_classifier(
    state: Mapping[str, Tensor],
    source: str,
    *,
    keep_background: bool = False,
    padding: Padding = "tf",
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
) -> VisionModel:
    """Build our classifier from a state dictionary of MobileNetV1ForImageClassification or MobileNetV2's.

    Args:
        state: Of google/mobilenet_v2_1.0_224, google/mobilenet_v1_0.75_192 and their like; norm_eps is 1e-3.
        source: The file's name, for messages.
        keep_background: Keep class 0, "background", of the 1001; it is dropped by default.
        padding: "symmetric" for a model of the configuration tf_padding=False.
        preprocessing: What differs from `PREPROCESSING`.

    Raises:
        WeightsError: Naming a parameter that is missing, left over or misshapen.
    """
    classes = class_options(state, "classifier.bias")
    if classes["num_classes"] == 1001 and keep_background:
        classes["names"] = ("background", *imagenet_names())
    elif classes["num_classes"] == 1001:
        rows = {name: state[name][1:] for name in ("classifier.weight", "classifier.bias") if name in state}
        state = {**state, **rows}
        classes = class_options(state, "classifier.bias")
    return build(
        state,
        source,
        project="transformers' MobileNetV1ForImageClassification or MobileNetV2ForImageClassification",
        candidates=_V2_WIDTHS + _V1_WIDTHS,
        name_pairs=classifier_pairs,
        padding=padding,
        preprocessing=adjusted(PREPROCESSING, preprocessing),
        **_CONVENTIONS,
        **classes,
    )


def import_segmenter(
    state: Mapping[str, Tensor],
    source: str,
    *,
    names: Sequence[str] = (),
    image_size: int = 513,
    output_stride: int = 8,
    head_activation: Literal["relu", "relu6"] = "relu6",
    padding: Padding = "tf",
) -> VisionModel:
    """Build a DeepLabv3 from a state dictionary of MobileNetV2ForSemanticSegmentation.

    Args:
        state: Of google/deeplabv3_mobilenet_v2_1.0_513 and its like.
        source: The file's name, for messages.
        names: Class names; VOC's where the file has 21 classes.
        image_size: Side of the network's input, which the state does not tell.
        output_stride: Likewise.
        head_activation: "relu" is what transformers computes; "relu6" is what the TensorFlow graph computes that
            Google's weights come from.
        padding: "symmetric" for a model of the configuration tf_padding=False.

    Raises:
        ConfigError: For another number of names than of classes.
        WeightsError: Naming a parameter that is missing, left over or misshapen.
    """
    classes = class_options(state, "segmentation_head.classifier.convolution.bias")
    if names and len(names) != classes["num_classes"]:
        raise ConfigError(f"names: {len(names)} names, but {source} has {classes['num_classes']} classes")
    classes["names"] = names or (MASK_NAMES if classes["num_classes"] == len(MASK_NAMES) else ())
    # The last convolution is in the file and takes no part in segmentation.
    state = {name: tensor for name, tensor in state.items() if not name.startswith("mobilenet_v2.conv_1x1.")}
    return build(
        state,
        source,
        project="transformers' MobileNetV2ForSemanticSegmentation",
        candidates=_V2_WIDTHS,
        name_pairs=segmenter_pairs,
        task="segmentation",
        padding=padding,
        output_stride=output_stride,
        head_norm_eps=1e-5,
        head_activation=head_activation,
        preprocessing=replace(PREPROCESSING, image_size=(image_size, image_size), resize="letterbox"),
        **_CONVENTIONS,
        **classes,
    )


def convert(task: str, path: str | os.PathLike[str], **options: Any) -> VisionModel:
    """What tools/convert.py source=huggingface does.

    Args:
        task: "classification" or "segmentation".
        path: model.safetensors or pytorch_model.bin of a model's folder.
        **options: Those of the task's importer.
    """
    importers: dict[str, Callable[..., VisionModel]] = {
        "classification": import_classifier,
        "segmentation": import_segmenter,
    }
    return convert_file("huggingface", importers, task, path, options)
