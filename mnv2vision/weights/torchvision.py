"""Weights of torchvision's MobileNetV2 and V3, from its state dictionaries."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mnv2vision.backbones import Backbone
from mnv2vision.backbones.blocks import InvertedResidual
from mnv2vision.data.imagenet import imagenet_names
from mnv2vision.errors import ConfigError, WeightsError, check_keywords
from mnv2vision.models import create_model
from mnv2vision.vision_model import VisionModel
from mnv2vision.weights.file import check_fit

_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def _unit(ours: str, conv: str, norm: str) -> Iterator[tuple[str, str]]:
    yield f"{ours}.conv.weight", f"{conv}.weight"
    for name in _NORM:
        yield f"{ours}.norm.{name}", f"{norm}.{name}"


def name_pairs(backbone: Backbone) -> Iterator[tuple[str, str]]:
    """(our name, torchvision's name) of each parameter and buffer of a classifier with this backbone."""
    v2 = not hasattr(backbone, "head_channels")
    for index, (name, layer) in enumerate(backbone.layers()):
        ours, theirs = f"backbone.{name}", f"features.{index}"
        if not isinstance(layer, InvertedResidual):
            yield from _unit(ours, f"{theirs}.0", f"{theirs}.1")
            continue
        part = f"{theirs}.{'conv' if v2 else 'block'}"
        position = 0
        for step in ("expand", "depthwise", "squeeze_excite", "project"):
            if getattr(layer, step) is None:
                continue
            if step == "squeeze_excite":
                for gate, theirs_gate in (("reduce", "fc1"), ("expand", "fc2")):
                    for kind in ("weight", "bias"):
                        yield f"{ours}.squeeze_excite.{gate}.{kind}", f"{part}.{position}.{theirs_gate}.{kind}"
            elif step == "project" and v2:  # the linear projection is not wrapped with its norm there
                yield from _unit(f"{ours}.project", f"{part}.{position}", f"{part}.{position + 1}")
            else:
                yield from _unit(f"{ours}.{step}", f"{part}.{position}.0", f"{part}.{position}.1")
            position += 1
    linears = {"classifier": "classifier.1"} if v2 else {"hidden": "classifier.0", "classifier": "classifier.3"}
    for name, theirs in linears.items():
        for kind in ("weight", "bias"):
            yield f"{name}.{kind}", f"{theirs}.{kind}"


def import_classifier(state: Mapping[str, Tensor], source: str) -> VisionModel:
    """Build our classifier from a state dictionary of torchvision's mobilenet_v2, mobilenet_v3_large or _small.

    Args:
        state: Of any width.
        source: The file's name, for messages.

    Raises:
        WeightsError: Naming a parameter that is missing, left over or misshapen.
    """
    classifier = "classifier.1.weight" if "classifier.1.weight" in state else "classifier.3.weight"
    stem = state.get("features.0.0.weight")
    if stem is None or classifier not in state:
        raise WeightsError(f"{source}: holds no state of torchvision's mobilenet_v2 or mobilenet_v3")
    options: dict[str, Any] = {"backbone": "mobilenet_v2"}
    if classifier == "classifier.3.weight":
        large = "features.16.0.weight" in state
        options = {"backbone": f"mobilenet_v3_{'large' if large else 'small'}"}
    num_classes = state[classifier].shape[0]
    names = imagenet_names() if num_classes == 1000 else ()
    for width in (1.0, 1.4, 1.3, 0.75, 0.5, 0.35, 0.25):
        model = create_model("classification", width=width, num_classes=num_classes, names=names, **options)
        pairs = dict(name_pairs(model.backbone))
        theirs = {theirs: ours for ours, theirs in pairs.items()}
        wanted = model.state_dict()
        if all(state[key].shape == wanted[name].shape for key, name in theirs.items() if key in state):
            break
    else:
        raise WeightsError(f"{source}: is of none of the usual widths (1.0, 1.4, 1.3, 0.75, 0.5, 0.35, 0.25)")
    check_fit(state, {key: wanted[name] for key, name in theirs.items()}, source)
    model.load_state_dict({name: state[key] for key, name in theirs.items()})
    return model.eval()


def convert(task: str, path: str | os.PathLike[str], **options: Any) -> VisionModel:
    """What tools/convert.py source=torchvision does.

    Args:
        task: "classification".
        path: A state dictionary's file, or the name of published weights such as
            "MobileNet_V2_Weights.IMAGENET1K_V2", which torchvision downloads.
        **options: None so far.
    """
    check_keywords(import_classifier, options, "option of source=torchvision")
    if task != "classification":
        raise ConfigError(f"source=torchvision has no importer for task={task}; valid: classification")
    if not Path(path).exists() and "_Weights." in str(path):
        return _import_published(str(path))
    if not Path(path).is_file():
        raise WeightsError(f"{path}: no such file, nor a name such as MobileNet_V2_Weights.IMAGENET1K_V2")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for corrupt files
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise WeightsError(f"{path}: is no state dictionary saved by torch ({reason})") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path}: is no state dictionary (names to tensors)")
    return import_classifier(state, str(path))


def _import_published(name: str) -> VisionModel:
    from dataclasses import replace

    from torchvision.models import get_weight

    try:
        weights = get_weight(name)
    except (KeyError, ValueError, AttributeError) as error:
        raise WeightsError(f"{name}: torchvision has no such weights") from error
    try:
        state = weights.get_state_dict(progress=False, check_hash=True)
    except OSError as error:
        raise WeightsError(f"{name}: cannot be downloaded ({error}); give a local file instead") from error
    model = import_classifier(state, name)
    # The weights' own evaluation transform; the second generation resizes to 232 instead of 256.
    crop, resize = weights.transforms.keywords["crop_size"], weights.transforms.keywords.get("resize_size", 256)
    model.preprocessing = replace(model.preprocessing, image_size=(crop, crop), crop_fraction=crop / resize)
    return model
