"""Averages of the weights of several models of one architecture."""

import inspect
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from mnv2vision.backbones import BACKBONES, has_folded_batch_norm
from mnv2vision.contracts import ModelConfig, Options
from mnv2vision.errors import WeightsError
from mnv2vision.models.tasks import TASKS
from mnv2vision.models.vision_model import VisionModel

_OF_TRAINING = ("dropout", "initialization", "norm_momentum")
"""Options that change nothing of a trained model."""


def mean_state(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each tensor, computed in float64; counters are the last state's.

    Running statistics are averaged as well, though those of the averaged weights are others (arXiv 1803.05407): where
    images are at hand, estimate them.

    Args:
        states: Of models of one architecture, at least one.
    """
    return {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(last.dtype)
        if last.is_floating_point()
        else last.clone()
        for name, last in states[-1].items()
    }


def check_alike(models: Mapping[str, VisionModel]) -> None:
    """Refuse models whose weights cannot be averaged.

    Args:
        models: By their files' names, at least one.

    Raises:
        WeightsError: For another architecture, other classes or other images, naming the first difference.
    """
    first, *others = models
    ours = _described(models[first].config)
    folded = has_folded_batch_norm(models[first])
    for other in others:
        theirs = _described(models[other].config)
        for key in dict.fromkeys((*ours, *theirs)):
            if ours.get(key) != theirs.get(key):
                raise WeightsError(
                    f"models: {first} and {other} differ, and have no average: {key} is {_short(ours.get(key))} in one,"
                    f" {_short(theirs.get(key))} in the other"
                )
        if folded != has_folded_batch_norm(models[other]):
            raise WeightsError(
                f"models: the batch norm of {first if folded else other} is folded into its weights, that of"
                f" {other if folded else first} is not: they have no average"
            )


def _described(config: ModelConfig) -> dict[str, object]:
    """What decides on the meaning of the weights, by key, the most telling first."""
    found: dict[str, object] = {"backbone": config.backbone, "heads": list(config.heads)}
    for name, head in config.heads.items():
        place = "" if len(config.heads) == 1 else f"{name}."
        found |= {f"{place}task": head.task, f"{place}classes": head.names or head.num_classes}
        own = {"taps": head.taps, **_with_defaults(head.options, TASKS[head.task].head.build)}
        found |= {f"{place}{key}": value for key, value in own.items()}
    options = _with_defaults(config.backbone_options, BACKBONES[config.backbone])
    found |= {f"backbone.{key}": value for key, value in options.items()}
    return found | {f"preprocessing.{key}": value for key, value in config.preprocessing.to_dict().items()}


def _with_defaults(options: Options, build: Callable[..., object]) -> dict[str, object]:
    """Options that decide on a model's answers, those left out by their defaults."""
    parameters = inspect.signature(build).parameters.values()
    defaults = {item.name: item.default for item in parameters if item.default is not inspect.Parameter.empty}
    return {key: value for key, value in {**defaults, **options}.items() if key not in _OF_TRAINING}


def _short(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
