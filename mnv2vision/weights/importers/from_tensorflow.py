"""TensorFlow's MobileNets, from a mapping of variable names to arrays in TensorFlow's layout."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from mnv2vision.backbones.layers import ConvNormAct, Padding
from mnv2vision.classification.head import ClassificationHead
from mnv2vision.data.formats.coco_categories import COCO_CATEGORIES
from mnv2vision.data.formats.imagenet import imagenet_names
from mnv2vision.data.formats.mask_names import MASK_NAMES
from mnv2vision.detection.head import SSDHead
from mnv2vision.detection.layers import KINDS, ExtraMap, Kind, MapPredictor
from mnv2vision.errors import ConfigError, WeightsError, check_keywords
from mnv2vision.models.create import create_model
from mnv2vision.models.vision_model import VisionModel
from mnv2vision.preprocessing import Preprocessing
from mnv2vision.segmentation.head import AsppHead
from mnv2vision.weights.file import check_values
from mnv2vision.weights.importers.tf_files import read_variables
from mnv2vision.weights.importers.tf_variables import Variables, architecture, assign, layers_by_scope

PREPROCESSING = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
"""RGB in -1..1."""


def import_classifier(variables: Variables, *, keep_background: bool = False) -> VisionModel:
    """Build our classifier from TF-slim's.

    Args:
        variables: Variables of MobileNetV1, V2 or V3; batch norm may be folded into weights and biases.
        keep_background: Keep class 0, "background", of the 1001 classes; it is dropped by default.

    Raises:
        WeightsError: Naming a variable that is missing, unexpected or of the wrong shape.
    """
    found, scope = architecture(variables)
    options: dict[str, Any] = {**found}
    logits = f"{scope}/Logits/Conv2d_1c_1x1"
    shape = variables.shape(f"{logits}/biases")
    if shape is None:
        raise WeightsError(f"{variables.source}: lacks the variable {logits}/biases")
    background = shape[0] == 1001
    names = imagenet_names() if shape[0] in (1000, 1001) else ()
    drop = int(background and not keep_background)
    model = create_model(
        "classification",
        num_classes=shape[0] - drop,
        names=("background", *names) if background and keep_background else names,
        preprocessing=PREPROCESSING,
        **options,
    )
    head = model.head
    assert isinstance(head, ClassificationHead)
    for key, layer in layers_by_scope(model.backbone, scope):
        assign(layer, key, variables)
    if head.hidden is not None:
        _assign_linear(head.hidden, f"{scope}/Conv_2", variables)
    _assign_linear(head.classifier, logits, variables, drop)
    variables.check_all_taken()
    return model.eval()


@torch.no_grad()
def _assign_linear(layer: nn.Linear, scope: str, variables: Variables, drop: int = 0) -> None:
    """Set a linear layer, there a 1x1 convolution, without its first `drop` outputs."""
    weight = layer.weight.new_empty(drop + layer.out_features, layer.in_features, 1, 1)
    weight = variables.take(f"{scope}/weights", weight, (3, 2, 0, 1))
    layer.weight.copy_(weight[drop:, :, 0, 0])
    layer.bias.copy_(variables.take(f"{scope}/biases", weight[:, 0, 0, 0])[drop:])


def import_detector(
    variables: Variables, *, names: Sequence[str] = (), keep_gaps: bool = False, image_size: int = 300
) -> VisionModel:
    """Build a detector from TensorFlow's Object Detection API, such as ssdlite_mobilenet_v2_coco.

    Args:
        variables: Variables of MobileNetV1 or V2 with one of the heads in `detection.layers.KINDS`; batch norm may be
            folded into weights and biases.
        names: Class names without background; by default COCO's if the file has COCO's 91 columns.
        keep_gaps: Keep all 90 classes of such a file; by default only the 80 that COCO uses.
        image_size: Side of the network's input in pixels, which the variables do not show; 300 in TensorFlow's
            configurations.

    Raises:
        WeightsError: Naming a variable that is missing, unexpected or of the wrong shape.
    """
    found, scope = architecture(variables, "FeatureExtractor/")
    options: dict[str, Any] = {**found}
    shape = variables.shape("BoxPredictor_0/ClassPredictor/biases")
    if shape is None:
        raise WeightsError(f"{variables.source}: lacks the variable BoxPredictor_0/ClassPredictor/biases")
    if len(shape) != 1 or shape[0] < 6 or shape[0] % 3:
        raise WeightsError(
            f"{variables.source}: BoxPredictor_0/ClassPredictor/biases is {shape}; expected 3 anchors x columns"
        )
    columns = list(range(shape[0] // 3))
    if len(columns) == 91 and not names:
        ids = list(range(1, 91)) if keep_gaps else list(COCO_CATEGORIES)
        columns = [0, *ids]
        names = [COCO_CATEGORIES.get(number, f"unused {number}") for number in ids]
    if names and len(names) != len(columns) - 1:
        raise ConfigError(f"names: {len(names)} given, but {variables.source} has {len(columns) - 1} classes")
    preprocessing = replace(PREPROCESSING, image_size=(image_size, image_size), resize="stretch")
    model = create_model(
        "detection",
        num_classes=len(columns) - 1,
        names=names,
        preprocessing=preprocessing,
        head=_head_kind(variables, scope),
        **options,
    )
    head = model.head
    assert isinstance(head, SSDHead)
    for key, layer in layers_by_scope(model.backbone, scope):
        assign(layer, key, variables)
    for key, layer in _extra_layers(head, scope):
        assign(layer, key, variables)
    total = shape[0] // 3
    for index, (boxes, classes) in enumerate(zip(head.boxes, head.classes, strict=True)):
        assert isinstance(boxes, MapPredictor)
        assert isinstance(classes, MapPredictor)
        # TensorFlow's codes are (ty, tx, th, tw), ours (tx, ty, tw, th).
        _assign_predictor(boxes, f"BoxPredictor_{index}/BoxEncodingPredictor", variables, 4, [1, 0, 3, 2])
        _assign_predictor(classes, f"BoxPredictor_{index}/ClassPredictor", variables, total, columns)
    variables.check_all_taken()
    return model.eval()


def _head_kind(variables: Variables, scope: str) -> str:
    """Name of the head that the variables belong to."""
    extras = any(name.endswith("_depthwise/depthwise_weights") for name in variables.names(_extras_scope(scope)))
    parts = ("ClassPredictor", "BoxEncodingPredictor")
    predictors = any(f"BoxPredictor_0/{part}_depthwise/depthwise_weights" in variables for part in parts)
    kernel = (variables.shape("BoxPredictor_0/ClassPredictor/weights") or (3,))[0]
    kind = Kind(extras, predictors, 3 if predictors else kernel)
    for name, known in KINDS.items():
        if kind == known:
            return name
    raise WeightsError(f"{variables.source}: unknown head, {kind}; valid: {', '.join(KINDS)}")


def _extras_scope(scope: str) -> str:
    return f"{scope}/{'Conv2d_13_pointwise' if scope.endswith('V1') else 'layer_19'}_"


def _extra_layers(head: SSDHead, scope: str) -> Iterator[tuple[str, ConvNormAct]]:
    """TensorFlow's name scope of each convolution of the extra maps."""
    base = _extras_scope(scope)
    for number, extra in enumerate(head.extras, start=2):
        assert isinstance(extra, ExtraMap)
        yield f"{base}1_Conv2d_{number}_1x1_{extra.squeeze.out_channels}", extra.squeeze
        project = f"{base}2_Conv2d_{number}_3x3_s2_{extra.project.out_channels}"
        if extra.depthwise is not None:
            yield f"{project}_depthwise", extra.depthwise
        yield project, extra.project


@torch.no_grad()
def _assign_predictor(
    predictor: MapPredictor, scope: str, variables: Variables, total: int, columns: Sequence[int]
) -> None:
    """Set a predictor, whose output channels are (anchor, column), from `columns` of the file's `total`."""
    assert predictor.conv.bias is not None
    if predictor.depthwise is not None:
        assign(predictor.depthwise, f"{scope}_depthwise", variables)
    weight = predictor.conv.weight
    anchors = len(weight) // len(columns)
    taken = torch.empty(anchors * total, *weight.shape[1:])
    weights = variables.take(f"{scope}/weights", taken, (3, 2, 0, 1)).view(anchors, total, *weight.shape[1:])
    biases = variables.take(f"{scope}/biases", taken[:, 0, 0, 0]).view(anchors, total)
    weight.copy_(weights[:, columns].flatten(0, 1))
    predictor.conv.bias.copy_(biases[:, columns].flatten())


def import_segmenter(
    variables: Variables,
    *,
    names: Sequence[str] = (),
    image_size: int = 513,
    output_stride: int = 8,
    padding: Padding = "symmetric",
) -> VisionModel:
    """Build a DeepLabv3 from TensorFlow's, such as mobilenetv2_coco_voc_trainaug, of width 1.0 or 0.5.

    Args:
        variables: Variables of MobileNetV2 or V1 with DeepLabv3's head; batch norm may be folded into weights and
            biases.
        names: Class names; by default VOC's if the file has 21 classes.
        image_size: Side of the network's input in pixels, which the variables do not show.
        output_stride: 8, 16 or 32; not shown by the variables either. The released graphs run at 8.
        padding: "tf" for what TensorFlow computes at every size. At sizes of k · output_stride + 1, for which the
            weights were trained, both are the same; at multiples of it TensorFlow's moves the cells by up to 15 pixels,
            which costs 0.01 to 0.02 of mean IoU (docs/segmentation.md).

    Raises:
        WeightsError: Naming a variable that is missing, unexpected or of the wrong shape.
    """
    found, scope = _architecture_of_segmenter(variables)
    options: dict[str, Any] = {**found, "padding": padding}
    shape = variables.shape("logits/semantic/biases")
    if shape is None or len(shape) != 1:
        raise WeightsError(f"{variables.source}: lacks the variable logits/semantic/biases (classes,)")
    if not names and shape[0] == len(MASK_NAMES):
        names = MASK_NAMES
    if names and len(names) != shape[0]:
        raise ConfigError(f"names: {len(names)} given, but {variables.source} has {shape[0]} classes")
    rates = (6, 12, 18) if any(f"aspp{i}/weights" in variables for i in (1, 2, 3)) else ()
    model = create_model(
        "segmentation",
        num_classes=shape[0],
        names=names,
        preprocessing=replace(PREPROCESSING, image_size=(image_size, image_size), resize="letterbox"),
        atrous_rates=rates,
        head_norm_eps=1e-5,
        head_activation="relu6",
        output_stride=output_stride,
        **options,
    )
    head = model.head
    assert isinstance(head, AsppHead)
    for key, layer in layers_by_scope(model.backbone, scope):
        assign(layer, key, variables)
    named = {"image_pooling": head.pooling, "aspp0": head.pointwise, "concat_projection": head.project}
    for key, branch in {**named, **{f"aspp{i}": layer for i, layer in enumerate(head.atrous, 1)}}.items():
        assert isinstance(branch, ConvNormAct)
        assign(branch, key, variables)
    assign(head.classifier, "logits/semantic", variables)
    variables.check_all_taken()
    return model.eval()


def _architecture_of_segmenter(variables: Variables) -> tuple[dict[str, object], str]:
    try:
        return architecture(variables)
    except WeightsError:
        # At width 0.5, DeepLab does not round channels to multiples of 8: 24 becomes 12.
        return architecture(variables, divisor=1)


_IMPORTERS: dict[str, Callable[..., VisionModel]] = {
    "classification": import_classifier,
    "detection": import_detector,
    "segmentation": import_segmenter,
}


def convert(task: str, path: str | os.PathLike[str], **options: object) -> VisionModel:
    """Import weights, as `convert source=tensorflow` does.

    Args:
        task: "classification", "detection" or "segmentation".
        path: What `read_variables` takes.
        **options: Options of the task's importer.

    Raises:
        ConfigError: For another task, or an unknown option.
        WeightsError: For a file that cannot be read or does not fit.
    """
    if task not in _IMPORTERS:
        raise ConfigError(f"source=tensorflow has no importer for task={task}; valid: {', '.join(_IMPORTERS)}")
    check_keywords(_IMPORTERS[task], options, f"option of source=tensorflow task={task}")
    model = _IMPORTERS[task](read_variables(path), **options)
    for name, tensor in model.state_dict().items():
        check_values(name, tensor, str(path))
    return model
