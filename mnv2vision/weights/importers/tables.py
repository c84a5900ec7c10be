"""What the importers of state dictionaries share: tables of names, reading, filling a model, exporting."""

import inspect
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

import torch
from safetensors.torch import load_file
from torch import Tensor

from mnv2vision.backbones import BACKBONES, Backbone
from mnv2vision.backbones.layers import ConvNormAct
from mnv2vision.data.formats.imagenet import imagenet_names
from mnv2vision.errors import ConfigError, WeightsError, check_keywords
from mnv2vision.models.create import create_model
from mnv2vision.models.vision_model import VisionModel
from mnv2vision.preprocessing import Preprocessing
from mnv2vision.weights.file import check_fit

NamePairs = Iterator[tuple[str, str]]
"""(our name, their name) of each parameter and buffer."""


CLASSIFIER, HIDDEN = "heads.classification.classifier", "heads.classification.hidden"
"""Our prefixes of a classifier's linear layers."""
_TRACKED = "num_batches_tracked"
NORM = ("weight", "bias", "running_mean", "running_var", _TRACKED)
"""Names of a batch norm's parameters and buffers."""


# ---- tables of names ----


def layer_steps(backbone: Backbone) -> Iterator[tuple[str, list[str]]]:
    """Each layer's name and the steps of its block, as in ("block1", ["expand", "depthwise", "project"])."""
    for name, layer in backbone.layers():
        yield (
            name,
            []
            if isinstance(layer, ConvNormAct)
            else [step for step, part in layer.named_children() if any(True for _ in part.parameters())],
        )


def unit_pairs(ours: str, conv: str, norm: str, norm_names: Iterable[str] = NORM) -> NamePairs:
    """Names of a convolution and its batch norm.

    Args:
        ours: Prefix of our `ConvNormAct`.
        conv: Prefix of their convolution.
        norm: Prefix of their batch norm.
        norm_names: Their names for what is in `NORM`.
    """
    yield f"{ours}.conv.weight", f"{conv}.weight"
    for name, theirs in zip(NORM, norm_names, strict=True):
        yield f"{ours}.norm.{name}", f"{norm}.{theirs}"


def affine_pairs(ours: str, theirs: str) -> NamePairs:
    """Names of the weight and the bias of a layer."""
    for name in ("weight", "bias"):
        yield f"{ours}.{name}", f"{theirs}.{name}"


# ---- import ----


def converter(
    source: str,
    importers: Mapping[str, Callable[..., VisionModel]],
    read: Callable[[str | os.PathLike[str]], dict[str, Tensor]] | None = None,
) -> Callable[..., VisionModel]:
    """A source's `convert(task, path, **options)`, which raises ConfigError for an unknown task or option.

    Args:
        source: The source's name, for messages.
        importers: By task: `(state, file name, **options)` to a model.
        read: Reads the file; `read_state` if None.
    """

    def convert(task: str, path: str | os.PathLike[str], **options: object) -> VisionModel:
        if task not in importers:
            raise ConfigError(f"source={source} has no importer for task={task}; valid: {', '.join(importers)}")
        check_keywords(importers[task], options, f"option of source={source} task={task}")
        return importers[task]((read or read_state)(path), str(path), **options)

    return convert


def read_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a state dictionary, possibly inside a checkpoint (`state_dict`) or of a wrapped model (`module.`).

    Args:
        path: A .safetensors file, or a file written by torch.save; nothing in it is executed.

    Raises:
        WeightsError: For a missing file, or one that contains anything but names and tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return {name: tensor.clone() for name, tensor in load_file(path).items()}  # not views of the mapped file
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles that it is going to refuse
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise many kinds for corrupt files
        raise WeightsError(f"{path}: not a state dictionary ({_refusal(error)})") from error
    if isinstance(state, Mapping):
        state = state.get("state_dict", state)
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) and _is_plain(value) for key, value in state.items()
    ):
        raise WeightsError(f"{path}: not a state dictionary (names to tensors)")
    return {key.removeprefix("module."): value for key, value in state.items()}


def _refusal(error: Exception) -> str:
    """Why a reader gave up. torch's own message advises executing what is in the file."""
    if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return f"it refers to {found[1]}, which weights do not need"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "damaged, or of another format"


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized


class ClassOptions(TypedDict):
    """Options of `create_model` about classes."""

    num_classes: int
    names: tuple[str, ...]


def class_options(state: Mapping[str, Tensor], *biases: str) -> ClassOptions:
    """`num_classes` from the classifier's bias, found under one of the names; `names` if there are ImageNet's 1000."""
    count = next((state[name].numel() for name in biases if name in state), 1000)  # `build` reports a missing one
    return {"num_classes": count, "names": imagenet_names() if count == 1000 else ()}


def adjusted(default: Preprocessing, given: Preprocessing | Mapping[str, object] | None) -> Preprocessing:
    """The given preprocessing, or the default with some fields changed.

    Args:
        default: The source's preprocessing.
        given: A complete one; or fields to change; or None for the default.

    Raises:
        ConfigError: For an unknown field, or a value out of range.
    """
    if isinstance(given, Preprocessing):
        return given
    return Preprocessing.from_dict(default.to_dict() | dict(given or {}))


def build(
    state: Mapping[str, Tensor],
    source: str,
    *,
    project: str,
    candidates: Iterable[Mapping[str, object]],
    name_pairs: Callable[[VisionModel], NamePairs],
    task: str = "classification",
    **options: object,
) -> VisionModel:
    """Build the first candidate whose names and shapes match a state dictionary, and fill it.

    Args:
        state: Tensors by the source's names; the counters of batch norms may be missing.
        source: The file's name, for messages.
        project: The model that the weights should be of, for messages.
        candidates: Options of `create_model` to try.
        name_pairs: The table of names for a model.
        task: See `create_model`.
        **options: Options of `create_model` for all candidates.

    Returns:
        The model in inference mode, with copies of the tensors.

    Raises:
        WeightsError: Naming the first parameter that is missing, unexpected or of the wrong shape, and the closest
            candidate.
    """
    shapes = {(name, tensor.shape) for name, tensor in state.items() if not name.endswith(_TRACKED)}

    def distance(wanted: Mapping[str, Tensor]) -> int:
        return len(shapes ^ {(name, tensor.shape) for name, tensor in wanted.items() if not name.endswith(_TRACKED)})

    closest: tuple[int, Mapping[str, object], VisionModel, dict[str, Tensor]] | None = None
    for candidate in candidates:
        arguments: dict[str, Any] = {**candidate, **options}
        with torch.device("meta"):
            model = create_model(task, **arguments)
        ours = model.state_dict()
        wanted = {theirs: ours[name] for name, theirs in name_pairs(model)}
        if closest is None or distance(wanted) < closest[0]:
            closest = distance(wanted), candidate, model, wanted
        if closest[0] == 0:
            break
    assert closest is not None
    _, candidate, model, wanted = closest
    if len(state.keys() & wanted.keys()) < len(wanted) / 4:
        raise WeightsError(f"{source}: not a state of {project}")
    state = {name: torch.tensor(0) for name in wanted if name.endswith(_TRACKED)} | dict(state)
    try:
        check_fit(state, wanted, source)
    except WeightsError as error:
        known = ", ".join(f"{key}={value}" for key, value in candidate.items())
        raise WeightsError(f"{error} (closest: {known})") from None
    filled = {name: state[key].to(wanted[key].dtype, copy=True).contiguous() for name, key in name_pairs(model)}
    model.load_state_dict(filled, assign=True)
    return model.eval()


# ---- export ----


def export(
    model: VisionModel, *, project: str, free: Iterable[str], name_pairs: Callable[[VisionModel], NamePairs]
) -> dict[str, Tensor]:
    """A classifier's weights under another project's names.

    Args:
        model: From `create_model` or `load`.
        project: The other project, for messages.
        free: Options of the backbone that the other project's module has too; all others must have their defaults.
        name_pairs: The table of names for a model.

    Raises:
        WeightsError: Naming what the other project's module would compute differently.
    """
    name, given = model.config.backbone, model.config.backbone_options
    if model.task != "classification":
        raise WeightsError(f"{project}: only classifiers can be exported, not a model for {model.task}")
    parameters = inspect.signature(BACKBONES[name]).parameters
    for key in parameters.keys() & (given.keys() - set(free)):
        if given[key] != parameters[key].default:
            raise WeightsError(f"{project}: its {name} does not support {key}={given[key]!r}")
    if model.backbone.taps != (model.backbone.final_tap,):
        raise WeightsError(f"{project}: its {name} classifies {model.backbone.final_tap}, not {model.backbone.taps[0]}")
    state = model.state_dict()
    pairs = list(name_pairs(model))
    for ours, _ in pairs:
        if ours not in state:
            raise WeightsError(f"{project}: the model has no {ours}; export it before folding its batch norm")
    found = {theirs: state[ours].detach().cpu().clone() for ours, theirs in pairs}
    if (temperature := model.config.head.temperature) != 1:  # theirs have none: it goes into the last layer
        last = tuple(f"heads.{only}.{layer}" for only in model.heads for layer in model.head.class_layers)
        found |= {theirs: found[theirs] / temperature for ours, theirs in pairs if ours.startswith(last)}
    return found
