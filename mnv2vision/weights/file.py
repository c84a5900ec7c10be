"""Model files: safetensors weights, with all that is needed to rebuild and to preprocess in the metadata."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import mnv2vision
from mnv2vision.atomic import atomic_path
from mnv2vision.errors import WeightsError
from mnv2vision.models import create_model
from mnv2vision.vision_model import VisionModel

FORMAT_VERSION = 1


class ModelFile(NamedTuple):
    """What a model file holds.

    Attributes:
        state: Parameters and buffers by name.
        config: Arguments of `create_model`, without names and preprocessing.
        names: Class names.
        preprocessing: Arguments of `Preprocessing`.
        provenance: Where converted weights came from; empty for trained ones.
    """

    state: dict[str, Tensor]
    config: dict[str, Any]
    names: tuple[str, ...]
    preprocessing: dict[str, Any]
    provenance: dict[str, Any]


def save(model: VisionModel, path: str | os.PathLike[str], *, provenance: Mapping[str, Any] | None = None) -> None:
    """Write a model to a safetensors file, whole or not at all.

    Args:
        model: Made by `create_model` or `load`.
        path: The file; an older one is replaced.
        provenance: Where the weights came from, kept in the metadata.

    Raises:
        WeightsError: For a copy prepared for inference, whose weights its options cannot rebuild.
    """
    path = Path(path)
    with torch.device("meta"):
        rebuilt = create_model(**model.config, names=model.names, preprocessing=model.preprocessing)
    if model.state_dict().keys() != rebuilt.state_dict().keys():
        raise WeightsError(
            f"{path}: not written, the model is a copy prepared for inference (folded or split); save the original"
        )
    metadata = {
        "format_version": FORMAT_VERSION,
        "version": mnv2vision.__version__,
        "config": model.config,
        "names": model.names,
        "preprocessing": model.preprocessing.to_dict(),
        "provenance": dict(provenance or {}),
    }
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(state, temporary, {"format": "pt", "mnv2vision": json.dumps(metadata)})


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
                    f"{path}: holds no mnv2vision model; weights of other projects go through tools/convert.py"
                )
            data = json.loads(raw)
            if data["format_version"] > FORMAT_VERSION:
                raise WeightsError(
                    f"{path}: written by mnv2vision {data['version']} in format {data['format_version']};"
                    f" this version reads up to {FORMAT_VERSION}: upgrade mnv2vision"
                )
            # Copies: views of the mapped file lie at any address, where other kernels run and round otherwise, and an
            # open map outlives the file.
            state = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  # not a dict
        return ModelFile(state, data["config"], tuple(data["names"]), data["preprocessing"], data.get("provenance", {}))
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: corrupt, or not a safetensors file ({error})") from error
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise WeightsError(f"{path}: its mnv2vision metadata is damaged ({error})") from error


def load(path: str | os.PathLike[str]) -> VisionModel:
    """Load a model, in inference mode, on the CPU.

    Args:
        path: A file written by `save`, a training run or tools/convert.py.

    Raises:
        WeightsError: For a file that is missing, corrupt, foreign, from a newer version, or does not fit itself.
    """
    file = read(path)
    try:
        with torch.device("meta"):
            model = create_model(**file.config, names=file.names, preprocessing=file.preprocessing)
    except (ValueError, TypeError) as error:  # ConfigError among them
        raise WeightsError(f"{path}: cannot be rebuilt by this version ({error})") from error
    check_fit(file.state, model.state_dict(), str(path))
    model.load_state_dict(file.state, assign=True)
    return model.eval()


def check_fit(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], source: str) -> None:
    """Raise WeightsError naming the first parameter that is missing, extra or misshapen, with both shapes."""
    for name, tensor in wanted.items():
        if name not in state:
            raise WeightsError(f"{source}: lacks {name} {tuple(tensor.shape)}")
        if state[name].shape != tensor.shape:
            raise WeightsError(
                f"{source}: {name} is {tuple(state[name].shape)}, but the model has {tuple(tensor.shape)}"
            )
    extra = sorted(state.keys() - wanted.keys())
    if extra:
        raise WeightsError(f"{source}: {extra[0]} {tuple(state[extra[0]].shape)} has no place in the model")


def initialize_from(model: VisionModel, file: ModelFile, source: str) -> str:
    """Start a model from weights that may have other classes or another head.

    Args:
        model: Changed in place; its backbone must be of the file's architecture.
        file: What `read` gave.
        source: The file's name, for messages.

    Returns:
        A line that says what was kept and what starts anew.

    Raises:
        WeightsError: Naming the backbone's first parameter that does not fit.
    """
    wanted = model.state_dict()
    backbone = {name: tensor for name, tensor in wanted.items() if name.startswith("backbone.")}
    if file.config["task"] != model.task:  # a segmentation model, for one, has fewer layers than a classifier needs
        layers = {_layer(name) for name in file.state}
        backbone = {name: tensor for name, tensor in backbone.items() if _layer(name) in layers}
    check_fit({name: tensor for name, tensor in file.state.items() if name in backbone}, backbone, source)
    kept = {
        name: tensor for name, tensor in file.state.items() if name in wanted and tensor.shape == wanted[name].shape
    }
    # A head of as many, but other, classes is of no use; nor is one of another task.
    if file.config["task"] != model.task:
        kept = {name: tensor for name, tensor in kept.items() if name in backbone}
    elif file.names and model.names and file.names != model.names:
        kept = {name: tensor for name, tensor in kept.items() if not name.startswith(model.class_layers)}
    model.load_state_dict(kept, strict=False)
    anew = [name for name in wanted if name not in kept]
    line = f"initialised {len(kept)} of {len(wanted)} tensors from {source}"
    if not anew:
        return line
    # Names of single parameters where they are few, of their layers otherwise.
    new = anew if len(anew) <= 4 else list(dict.fromkeys(_layer(name) for name in anew))
    reason = f"{model.num_classes} classes instead of {file.config['num_classes']}"
    if file.config["task"] != model.task:
        reason = f"{model.task} instead of {file.config['task']}"
    return f"{line}; new, for {reason}: {', '.join(new)}"


def _layer(parameter: str) -> str:
    return ".".join(parameter.split(".")[:2])
