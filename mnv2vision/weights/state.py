"""What the importers of other PyTorch projects' state dictionaries have in common."""

import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from mnv2vision.backbones import BACKBONES, Backbone
from mnv2vision.backbones.layers import ConvNormAct
from mnv2vision.data.imagenet import imagenet_names
from mnv2vision.errors import ConfigError, WeightsError, check_keywords
from mnv2vision.models import create_model
from mnv2vision.preprocessing import Preprocessing
from mnv2vision.vision_model import VisionModel
from mnv2vision.weights.file import check_fit

NamePairs = Iterator[tuple[str, str]]
"""(our name, their name) of each parameter and buffer."""

_TRACKED = "num_batches_tracked"
NORM = ("weight", "bias", "running_mean", "running_var", _TRACKED)
"""A batch norm's parameters and buffers."""


# ---- tables of names ----


def layer_steps(backbone: Backbone) -> Iterator[tuple[str, list[str]]]:
    """Each layer's name with the steps of its block: ("stem", []), ("block1", ["expand", "depthwise", "project"])."""
    for name, layer in backbone.layers():
        yield name, [] if isinstance(layer, ConvNormAct) else [step for step, _ in layer.named_children()]


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


def convert_file(
    source: str,
    importers: Mapping[str, Callable[..., VisionModel]],
    task: str,
    path: str | os.PathLike[str],
    options: Mapping[str, Any],
    read: Callable[[str | os.PathLike[str]], dict[str, Tensor]] | None = None,
) -> VisionModel:
    """What tools/convert.py does for a source.

    Args:
        source: The source's name, for messages.
        importers: By task; they take the state, the file's name, and options by keyword.
        task: One of the importers'.
        path: The file.
        options: Of the task's importer.
        read: Reads the file; `read_state` if None.

    Raises:
        ConfigError: For a task or an option that the source does not have.
        WeightsError: For a file that cannot be read or does not fit.
    """
    if task not in importers:
        raise ConfigError(f"source={source} has no importer for task={task}; valid: {', '.join(importers)}")
    check_keywords(importers[task], options, f"option of source={source} task={task}")
    return importers[task]((read or read_state)(path), str(path), **options)


def read_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a state dictionary, also one inside a checkpoint (`state_dict`) or of a wrapped model (`module.`).

    Args:
        path: A .safetensors file, or one that torch.save wrote; nothing in it is executed.

    Raises:
        WeightsError: For a missing file or anything else than names and tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return {name: tensor.clone() for name, tensor in load_file(path).items()}  # not views of the mapped file
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise many kinds for corrupt files
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise WeightsError(f"{path}: is no state dictionary saved by torch ({reason})") from error
    if isinstance(state, Mapping):
        state = state.get("state_dict", state)
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise WeightsError(f"{path}: is no state dictionary (names to tensors)")
    return {key.removeprefix("module."): value for key, value in state.items()}


def class_options(state: Mapping[str, Tensor], *biases: str) -> dict[str, Any]:
    """`num_classes` by the classifier's bias, which has one of the names; `names` where they are ImageNet's 1000."""
    count = next((state[name].numel() for name in biases if name in state), 1000)  # `build` names a missing one
    return {"num_classes": count, "names": imagenet_names() if count == 1000 else ()}


def adjusted(default: Preprocessing, given: Preprocessing | Mapping[str, Any] | None) -> Preprocessing:
    """The source's preprocessing, with those of its fields changed that are given; all of them by a Preprocessing."""
    if isinstance(given, Preprocessing):
        return given
    return Preprocessing.from_dict(default.to_dict() | dict(given or {}))


def build(
    state: Mapping[str, Tensor],
    source: str,
    *,
    project: str,
    candidates: Iterable[Mapping[str, Any]],
    name_pairs: Callable[[VisionModel], NamePairs],
    task: str = "classification",
    **options: Any,
) -> VisionModel:
    """Build the first model whose names and shapes are those of a state dictionary, and fill it.

    Args:
        state: The source's names to tensors; the counters of batch norms may be missing.
        source: The file's name, for messages.
        project: Whose weights these should be, for messages.
        candidates: Options of `create_model` to try.
        name_pairs: The table of names.
        task: See `create_model`.
        **options: Of `create_model`, for all candidates.

    Returns:
        The model in inference mode, with copies of the tensors.

    Raises:
        WeightsError: Naming the first parameter that is missing, left over or misshapen, and the closest candidate.
    """
    shapes = {(name, tensor.shape) for name, tensor in state.items() if not name.endswith(_TRACKED)}

    def distance(wanted: Mapping[str, Tensor]) -> int:
        return len(shapes ^ {(name, tensor.shape) for name, tensor in wanted.items() if not name.endswith(_TRACKED)})

    closest: tuple[int, Mapping[str, Any], VisionModel, dict[str, Tensor]] | None = None
    for candidate in candidates:
        with torch.device("meta"):
            model = create_model(task, **candidate, **options)
        ours = model.state_dict()
        wanted = {theirs: ours[name] for name, theirs in name_pairs(model)}
        if closest is None or distance(wanted) < closest[0]:
            closest = distance(wanted), candidate, model, wanted
        if closest[0] == 0:
            break
    assert closest is not None
    _, candidate, model, wanted = closest
    if len(state.keys() & wanted.keys()) < len(wanted) / 4:
        raise WeightsError(f"{source}: holds no state of {project}")
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
        model: Made by `create_model` or `load`.
        project: Whose names these are, for messages.
        free: Options of the backbone that the other's module can follow; the others must have their defaults.
        name_pairs: The table of names.

    Raises:
        WeightsError: Naming what the other project's module cannot compute equally.
    """
    name = model.config["backbone"]
    if model.task != "classification":
        raise WeightsError(f"{project}: only classifiers are exported, and this is a model for {model.task}")
    parameters = inspect.signature(BACKBONES[name]).parameters
    for key in parameters.keys() & (model.config.keys() - {"taps", *free}):
        if model.config[key] != parameters[key].default:
            raise WeightsError(f"{project}: its {name} cannot follow {key}={model.config[key]!r}")
    if model.backbone.taps != (model.backbone.final_tap,):
        raise WeightsError(f"{project}: its {name} classifies {model.backbone.final_tap}, not {model.backbone.taps[0]}")
    state = model.state_dict()
    pairs = list(name_pairs(model))
    for ours, _ in pairs:
        if ours not in state:
            raise WeightsError(f"{project}: the model lacks {ours}; export it before its batch norm is folded")
    return {theirs: state[ours].detach().cpu().clone() for ours, theirs in pairs}
