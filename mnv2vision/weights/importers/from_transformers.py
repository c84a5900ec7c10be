"""MobileNetV1 and V2 in the layout of Hugging Face's transformers.

Sources: transformers, models/mobilenet_v1/modeling_mobilenet_v1.py and models/mobilenet_v2/modeling_mobilenet_v2.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor

from mnv2vision.backbones.layers import Padding
from mnv2vision.data.formats.imagenet import imagenet_names
from mnv2vision.data.formats.mask_names import MASK_NAMES
from mnv2vision.errors import ConfigError
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

PREPROCESSING = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
"""RGB in -1..1, a centre crop of 224 of 256; google/mobilenet_v2_0.35_96 and the like crop N of N + 32."""

_V2_WIDTHS: tuple[Mapping[str, object], ...] = tuple(
    {"backbone": "mobilenet_v2", "width": width} for width in (1.0, 1.4, 1.3, 0.75, 0.5, 0.35)
)
_V1_WIDTHS: tuple[Mapping[str, object], ...] = tuple(
    {"backbone": "mobilenet_v1", "width": width} for width in (1.0, 0.75, 0.5, 0.25)
)
_CONVENTIONS: Mapping[str, Any] = {"norm_eps": 1e-3, "norm_momentum": 0.003}

_STEPS = {"expand": "expand_1x1", "depthwise": "conv_3x3", "project": "reduce_1x1"}
_HEAD = {"pooling": "conv_pool", "pointwise": "conv_aspp", "project": "conv_projection"}


def _unit(ours: str, theirs: str) -> NamePairs:
    return unit_pairs(ours, f"{theirs}.convolution", f"{theirs}.normalization")


def _backbone_pairs(model: VisionModel) -> NamePairs:
    network = model.config.backbone
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
    yield from affine_pairs(CLASSIFIER, "classifier")


def segmenter_pairs(model: VisionModel) -> NamePairs:
    """(our name, transformers' name) of each parameter and buffer of a DeepLabv3."""
    yield from _backbone_pairs(model)
    for ours, theirs in _HEAD.items():
        yield from _unit(f"heads.segmentation.{ours}", f"segmentation_head.{theirs}")
    yield from affine_pairs("heads.segmentation.classifier", "segmentation_head.classifier.convolution")


def import_classifier(
    state: Mapping[str, Tensor],
    source: str,
    *,
    keep_background: bool = False,
    padding: Padding = "tf",
    preprocessing: Preprocessing | Mapping[str, object] | None = None,
) -> VisionModel:
    """Build our classifier from the state of MobileNetV1ForImageClassification or MobileNetV2ForImageClassification.

    Args:
        state: From `read_state`, of google/mobilenet_v2_1.0_224, google/mobilenet_v1_0.75_192 and the like.
        source: The file's name, for messages.
        keep_background: Keep class 0, "background", of the 1001 classes; it is dropped by default.
        padding: "symmetric" for a model configured with tf_padding=False.
        preprocessing: Fields that differ from `PREPROCESSING`, or all of them as a `Preprocessing`.

    Raises:
        WeightsError: Naming a parameter that is missing, unexpected or of the wrong shape.
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
    """Build a DeepLabv3 from the state of MobileNetV2ForSemanticSegmentation.

    Args:
        state: From `read_state`, of google/deeplabv3_mobilenet_v2_1.0_513 and the like.
        source: The file's name, for messages.
        names: Class names; by default VOC's if the file has 21 classes.
        image_size: Side of the network's input in pixels, which the state does not show.
        output_stride: 8, 16 or 32; not shown by the state either.
        head_activation: "relu" as in transformers, or "relu6" as in the TensorFlow graph that Google's weights come
            from.
        padding: "symmetric" for a model configured with tf_padding=False.

    Raises:
        ConfigError: If the number of names differs from the number of classes.
        WeightsError: Naming a parameter that is missing, unexpected or of the wrong shape.
    """
    classes = class_options(state, "segmentation_head.classifier.convolution.bias")
    if names and len(names) != classes["num_classes"]:
        raise ConfigError(f"names: {len(names)} given, but {source} has {classes['num_classes']} classes")
    classes["names"] = tuple(names) or (MASK_NAMES if classes["num_classes"] == len(MASK_NAMES) else ())
    # The file contains the last convolution, but segmentation does not use it.
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


convert = converter("huggingface", {"classification": import_classifier, "segmentation": import_segmenter})
