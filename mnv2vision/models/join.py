"""Models of one backbone made into one."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from mnv2vision.contracts import ModelConfig
from mnv2vision.errors import ConfigError
from mnv2vision.models.vision_model import VisionModel
from mnv2vision.preprocessing import Preprocessing


def join(models: Mapping[str, VisionModel], preprocessing: Preprocessing | None = None) -> VisionModel:
    """One model with the heads of several whose backbones are equal, as those of `add_to` are.

    Args:
        models: Models with one head, by the names that the heads will have; copied.
        preprocessing: How the joint model wants its images, where the models differ in it.

    Returns:
        The model, in inference mode; each head answers as it did alone.

    Raises:
        ConfigError: For backbones that differ in their options or weights, naming the first difference; for models
            that want different images.
    """
    if not models:
        raise ConfigError("join: give at least one model")
    first = next(iter(models.values())).config
    state: dict[str, Tensor] = {}
    owner: dict[str, str] = {}
    for name, model in models.items():
        _check_alike(first, model.config, next(iter(models)), name, preprocessing is not None)
        (own,) = model.heads
        for key, tensor in model.state_dict().items():
            key = key.replace(f"heads.{own}.", f"heads.{name}.", 1) if key.startswith("heads.") else key
            if key in state and not torch.equal(state[key], tensor):
                raise ConfigError(
                    f"join: {key} of {owner[key]} and {name} differ: their backbones were trained apart;"
                    " add a head to a finished model with add_to="
                )
            state[key] = tensor
            owner.setdefault(key, name)
    heads = {name: model.config.head for name, model in models.items()}
    joint = VisionModel(replace(first, heads=heads, preprocessing=preprocessing or first.preprocessing))
    joint.load_state_dict(state)
    return joint.eval()


def _check_alike(first: ModelConfig, other: ModelConfig, name: str, other_name: str, prepared: bool) -> None:
    other.head  # noqa: B018  # raises for several
    ours = {"backbone": first.backbone, **first.backbone_options}
    theirs = {"backbone": other.backbone, **other.backbone_options}
    for key in sorted({*ours, *theirs}):
        if ours.get(key) != theirs.get(key):
            raise ConfigError(
                f"join: the backbones differ: {key} is {ours.get(key)} in {name}, {theirs.get(key)} in {other_name}"
            )
    if not prepared and first.preprocessing != other.preprocessing:
        mine, its = first.preprocessing.to_dict(), other.preprocessing.to_dict()
        key = next(key for key in mine if mine[key] != its[key])
        raise ConfigError(
            f"join: {name} and {other_name} want different images ({key} {mine[key]}, {its[key]}): give preprocessing="
        )
