"""Model files: safetensors weights, with architecture and preprocessing in the metadata."""

import json
import os
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors import torch as safetensors
from torch import Tensor

from mnv2vision.common.atomic import atomic_path
from mnv2vision.contracts import Head, ModelConfig
from mnv2vision.errors import WeightsError
from mnv2vision.models.create import configure
from mnv2vision.models.vision_model import VisionModel
from mnv2vision.version import __version__
from mnv2vision.weights.known_classes import known_classes

FORMAT_VERSION = 2

# Format 1 had a single head, with parameters beside the backbone's or in `head`, and one dict for all options.
_FORMAT_1_PREFIXES = {
    "classification": {"classifier.": "heads.classification.classifier.", "hidden.": "heads.classification.hidden."},
    "detection": {"head.": "heads.detection."},
    "segmentation": {"head.": "heads.segmentation."},
}


class ModelFile(NamedTuple):
    """What a model file holds.

    Attributes:
        state: Parameters and buffers by name.
        config: What the model is built from.
        provenance: Where converted weights came from; empty for trained ones.
    """

    state: dict[str, Tensor]
    config: ModelConfig
    provenance: Mapping[str, object]


def save(model: VisionModel, path: str | os.PathLike[str], *, provenance: Mapping[str, object] | None = None) -> None:
    """Write a model to a safetensors file, atomically.

    Args:
        model: Made by `create_model` or `load`.
        path: The file; an existing one is replaced.
        provenance: Origin of the weights, kept in the metadata.

    Raises:
        WeightsError: For a copy prepared for inference, which its configuration cannot rebuild.
    """
    path = Path(path)
    with torch.device("meta"):
        rebuilt = VisionModel(model.config)
    if model.state_dict().keys() != rebuilt.state_dict().keys():
        raise WeightsError(
            f"{path}: not written: the model's layers differ from its configuration, as in a copy prepared for"
            " inference (folded or split) or after set_taps; save the original"
        )
    metadata = {
        "format_version": FORMAT_VERSION,
        "version": __version__,
        "model": model.config.to_dict(),
        "provenance": dict(provenance or {}),
    }
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_path(path) as temporary:
        temporary.write_bytes(_serialize(state, {"format": "pt", "mnv2vision": json.dumps(metadata, sort_keys=True)}))


def _serialize(state: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """A safetensors file with sorted metadata, which the library orders randomly: equal models are equal bytes."""
    data = safetensors.save(state, metadata)
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # aligns the tensors
    return len(header).to_bytes(8, "little") + header + data[end:]


def read(path: str | os.PathLike[str]) -> ModelFile:
    """Read a model file without building the model.

    Raises:
        WeightsError: For a file that is missing, corrupt, foreign, or from a newer version.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such model file")
    if path.suffix == ".ckpt":
        raise WeightsError(f"{path}: a checkpoint, for resume=; the model is in its run's model.safetensors")
    try:
        with safe_open(path, framework="pt") as file:
            raw = (file.metadata() or {}).get("mnv2vision")
            if raw is None:
                raise WeightsError(
                    f"{path}: not a mnv2vision model; import weights of other projects with `mnv2vision convert`"
                )
            metadata = _metadata(raw, path)
            # Copies: views of the mapped file may be unaligned, where other kernels run and round differently, and an
            # open map outlives the file.
            state = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  # not a dict
    except WeightsError:
        raise
    except SafetensorError as error:
        raise WeightsError(f"{path}: corrupt, or not a safetensors file") from error
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or 'damaged'})") from error
    except Exception as error:
        raise WeightsError(f"{path}: contains tensors of a type that this version of PyTorch lacks") from error
    try:
        config = _config(metadata)
    except Exception as error:  # ConfigError, or any error from values of the wrong type
        raise WeightsError(f"{path}: cannot be rebuilt by this version ({in_short(error)})") from error
    if metadata["format_version"] == 1:
        state = {_renamed(name, config.head.task): tensor for name, tensor in state.items()}
    return ModelFile(state, config, metadata.get("provenance", {}))


def _metadata(raw: str, path: Path) -> dict[str, Any]:
    """The metadata of a file's model, with checked types; `_config` checks the values."""
    damaged = f"{path}: its mnv2vision metadata is damaged"
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:  # ValueError: also numbers with thousands of digits
        raise WeightsError(f"{damaged} (not JSON)") from error
    if not isinstance(data, dict):
        raise WeightsError(f"{damaged} (not a JSON object)")
    version = data.get("format_version")
    if type(version) is int and version > FORMAT_VERSION:
        raise WeightsError(
            f"{path}: written by mnv2vision {data.get('version')} in format {version};"
            f" this version reads up to {FORMAT_VERSION}: upgrade mnv2vision"
        )
    kinds = {"format_version": int, "provenance": dict}
    kinds |= {"config": dict, "names": list, "preprocessing": dict} if version == 1 else {"model": dict}
    for key, kind in kinds.items():
        if type(data.get(key, {} if key == "provenance" else None)) is not kind:
            raise WeightsError(f"{damaged} ({key} is missing, or has the wrong type)")
    if version == 1 and ("task" not in data["config"] or not all(isinstance(name, str) for name in data["names"])):
        raise WeightsError(f"{damaged} (config without a task, or a class name that is not text)")
    return data


def _config(metadata: Mapping[str, Any]) -> ModelConfig:
    if metadata["format_version"] > 1:
        return ModelConfig.from_dict(metadata["model"])
    options = dict(metadata["config"])
    task, backbone, num_classes = (options.pop(key) for key in ("task", "backbone", "num_classes"))
    given = {"names": metadata["names"], "preprocessing": metadata["preprocessing"]}
    return configure(task, backbone, options, num_classes=num_classes, **given)


def _renamed(name: str, task: str) -> str:
    """The current name of a parameter of format 1."""
    for old, new in _FORMAT_1_PREFIXES[task].items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def in_short(error: Exception) -> str:
    """A library's error in one short line."""
    return textwrap.shorten(str(error), 200, placeholder=" …") or type(error).__name__


def load(path: str | os.PathLike[str]) -> VisionModel:
    """Load a model, in inference mode, on the CPU.

    Args:
        path: A file written by `save`, a training run or `mnv2vision convert`.

    Raises:
        WeightsError: For a file that is missing, corrupt, foreign, from a newer version, or inconsistent.
    """
    file = read(path)
    try:
        with torch.device("meta"):
            model = VisionModel(file.config)
    except Exception as error:  # ConfigError, or any error of layers for impossible sizes
        raise WeightsError(f"{path}: cannot be rebuilt by this version ({in_short(error)})") from error
    wanted = model.state_dict()
    check_fit(file.state, wanted, str(path))
    model.load_state_dict({name: tensor.to(wanted[name].dtype) for name, tensor in file.state.items()}, assign=True)
    return model.eval()


def check_fit(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], source: str) -> None:
    """Raise WeightsError naming the first parameter that is missing, extra, or has the wrong shape or type.

    Args:
        state: Names to tensors; floats may be of another precision.
        wanted: The model's.
        source: The file's name, for messages.
    """
    for name, tensor in wanted.items():
        if name not in state:
            raise WeightsError(f"{source}: lacks {name} {tuple(tensor.shape)}")
        given = state[name]
        if given.shape != tensor.shape:
            raise WeightsError(f"{source}: {name} is {tuple(given.shape)}, but the model has {tuple(tensor.shape)}")
        if given.is_floating_point() != tensor.is_floating_point() or given.is_complex():
            kinds = (str(dtype).removeprefix("torch.") for dtype in (given.dtype, tensor.dtype))
            raise WeightsError(f"{source}: {name} is of {' values, but the model is of '.join(kinds)}")
        check_values(name, given, source)
    extra = sorted(state.keys() - wanted.keys())
    if extra:
        raise WeightsError(f"{source}: {extra[0]} {tuple(state[extra[0]].shape)} has no place in the model")


def check_values(name: str, tensor: Tensor, source: str) -> None:
    """Raise WeightsError for a parameter that holds nan or inf, or variances below 0."""
    tensor = tensor.float() if tensor.is_floating_point() and tensor.itemsize < 2 else tensor  # 8 bits cannot compare
    if not tensor.isfinite().all():
        count = int((~tensor.isfinite()).sum())
        raise WeightsError(f"{source}: {count} of the {tensor.numel()} values of {name} are nan or inf")
    if name.endswith("running_var") and (tensor < 0).any():
        raise WeightsError(f"{source}: {name} contains negative variances")


def initialize_from(model: VisionModel, file: ModelFile, source: str) -> str:
    """Initialise a model from weights that may have other classes or heads; classes are matched by name.

    Args:
        model: Changed in place; its backbone must be of the file's architecture.
        file: The result of `read`.
        source: The file's name, for messages.

    Returns:
        A line that says what was kept and what is newly initialised.

    Raises:
        WeightsError: Naming the backbone's first parameter that does not fit.
    """
    wanted = model.state_dict()
    backbone = {name: tensor for name, tensor in wanted.items() if name.startswith("backbone.")}
    kinds, held = ([head.task for head in config.heads.values()] for config in (model.config, file.config))
    if kinds != held:  # a segmentation model has fewer layers than a classifier
        layers = {_layer(name) for name in file.state}
        backbone = {name: tensor for name, tensor in backbone.items() if _layer(name) in layers}
    check_fit({name: tensor for name, tensor in file.state.items() if name in backbone}, backbone, source)
    places = {name: name for name in backbone} | dict(_useful(model, file.config))
    kept = {name: file.state[theirs] for name, theirs in places.items() if theirs in file.state}
    kept = {name: tensor for name, tensor in kept.items() if tensor.shape == wanted[name].shape}
    known = known_classes(model, file.config, file.state)
    kept |= known.state
    model.load_state_dict(kept, strict=False)
    anew = [name for name in wanted if name not in kept]
    line = "; ".join([f"initialised {len(kept)} of {len(wanted)} tensors from {source}", *known.lines])
    if not anew:
        return line
    # Names of parameters if they are few, otherwise of layers.
    new = anew if len(anew) <= 4 else list(dict.fromkeys(_layer(name) for name in anew))
    reason = f"{', '.join(kinds)} instead of {', '.join(held)}"
    if kinds == held:
        counts = ([head.num_classes for head in config.heads.values()] for config in (model.config, file.config))
        mine, theirs = (", ".join(map(str, count)) for count in counts)
        reason = f"{mine} classes instead of {theirs}"
    return f"{line}; new, for {reason}: {', '.join(new)}"


def initialize_head(model: VisionModel, name: str, other: VisionModel) -> bool:
    """Start a head with the weights of another model's, if these are of the same layers on a backbone alike.

    Args:
        model: Changed in place.
        name: Of the head.
        other: A model with a head of the task.

    Returns:
        Whether it did.
    """

    def architecture(config: ModelConfig) -> tuple[object, ...]:
        options = config.backbone_options
        return (config.backbone, *(options.get(key) or 1.0 for key in ("width", "depth")))

    own = f"heads.{name}."
    places = {mine: theirs for mine, theirs in _useful(model, other.config) if mine.startswith(own)}
    wanted, state = model.state_dict(), other.state_dict()
    kept = {mine: state[theirs] for mine, theirs in places.items() if theirs in state}
    kept = {mine: tensor for mine, tensor in kept.items() if tensor.shape == wanted[mine].shape}
    if len(kept) < len(places) or not kept or architecture(model.config) != architecture(other.config):
        return False
    model.load_state_dict(kept, strict=False)
    return True


def _useful(model: VisionModel, config: ModelConfig) -> Iterator[tuple[str, str]]:
    """The heads' parameters that another model has too, with their names there.

    A head with other classes keeps its lower layers.
    """
    for name, head in model.config.heads.items():
        theirs = config.head_like(name, head.task)
        if theirs is None:
            continue
        other = config.heads[theirs]
        module = model.heads[name]
        assert isinstance(module, Head)
        differ = bool(head.names and other.names) and head.names != other.names
        for parameter in module.state_dict():
            if not (differ and parameter.startswith(module.class_layers)):
                yield f"heads.{name}.{parameter}", f"heads.{theirs}.{parameter}"


def _layer(parameter: str) -> str:
    return ".".join(parameter.split(".")[: 3 if parameter.startswith("heads.") else 2])
