"""Where teachers come from: models of this package, published names, exported files, timm and torchvision."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torchvision
from torch import nn

from mnv2vision.config.named import JOINT
from mnv2vision.config.options import values
from mnv2vision.config.schema import Train
from mnv2vision.config.sections import Distill
from mnv2vision.contracts import HeadConfig
from mnv2vision.data.formats.imagenet import imagenet_names
from mnv2vision.errors import ConfigError, WeightsError
from mnv2vision.inference.bundle import is_bundle
from mnv2vision.inference.exported_model import ExportedModel
from mnv2vision.preprocessing import Preprocessing
from mnv2vision.tasks.teachers import TeacherModel, of_vision_model
from mnv2vision.weights import registry
from mnv2vision.weights.entries import list_weights

_HUBS = ("timm", "torchvision")


def load_teachers(config: Train, tasks: Mapping[str, str]) -> dict[str, TeacherModel]:
    """The teachers of a run's heads.

    Args:
        config: Of the command.
        tasks: Of the heads, by name.

    Raises:
        ConfigError: For a teacher of another task, or options of teaching without a teacher.
        WeightsError: For a model that cannot be found, downloaded or read.
    """
    if config.teacher and config.task == JOINT:
        raise ConfigError(f"teacher={config.teacher}: each head has its own: give teachers.{next(iter(tasks))}=")
    sources = {name: str(source) for name, source in config.teachers.items() if source is not None}
    if config.teacher:
        sources = dict.fromkeys(tasks, config.teacher)
    if not sources:
        _refuse_options(config)
    if config.distill.loss == "dist" and "detection" in {tasks[name] for name in sources}:
        raise ConfigError("distill.loss=dist: is for classification and segmentation; detection learns by kl or js")
    return {name: _load(source, name, tasks[name]) for name, source in sources.items()}


def _refuse_options(config: Train) -> None:
    """Raise ConfigError for options of teaching."""
    if not config.distill.labels:
        raise ConfigError("distill.labels=false: nothing is left to learn from: give teacher=")
    usual = values(Distill()) | {"images": config.distill.images}  # whose default is the task's
    for key, value in values(config.distill).items():
        if value != usual[key]:
            raise ConfigError(f"distill.{key}={value}: there is no teacher: give teacher=")


def _load(source: str, name: str, task: str) -> TeacherModel:
    hub, _, model = source.partition("/")
    if is_bundle(source):
        exported = ExportedModel(source)
        if len(exported.config.heads) > 1:
            raise ConfigError(f"{source}: has {len(exported.config.heads)} heads: export the one that teaches")
        return of_vision_model(exported, name, task, source)._replace(exported=exported.digest)
    ours = {entry.name for entry in list_weights()}
    if hub not in _HUBS or not model or source in ours or Path(source).exists():
        return of_vision_model(registry.load(source), name, task, source)
    if task != "classification":
        raise ConfigError(f"{source}: models of {hub} teach classification alone, not {task}")
    return _of_timm(source, model) if hub == "timm" else _of_torchvision(source, model)


def _of_timm(source: str, name: str) -> TeacherModel:
    try:
        import timm
    except ImportError as error:
        raise ConfigError(f"{source}: needs timm: pip install timm") from error
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{re.split('[_.]', name)[0]}*")[:5])
        raise ConfigError(f"{source}: timm has no model of that name; near it: {near or 'none'}")
    try:
        network = timm.create_model(name, pretrained=True)
    except Exception as error:  # of the hub's client, or a file that does not fit
        raise WeightsError(f"{source}: {_short(error)}") from error
    # Of timm's untyped interface.
    data: Any = network.pretrained_cfg
    count: Any = network.num_classes
    height, width = data["input_size"][1:]
    return TeacherModel(source, network, _imagenet_head(source, count), _preprocessing((height, width), data))


def _of_torchvision(source: str, name: str) -> TeacherModel:
    if name not in torchvision.models.list_models(module=torchvision.models):
        raise ConfigError(f"{source}: torchvision has no classifier of that name; see torchvision.models.list_models()")
    weights = torchvision.models.get_model_weights(name).DEFAULT
    try:
        network: nn.Module = torchvision.models.get_model(name, weights=weights)
    except Exception as error:  # of its download, or a file that does not fit
        raise WeightsError(f"{source}: {_short(error)}") from error
    transforms = weights.transforms()
    size = transforms.crop_size[0]
    data = {"mean": transforms.mean, "std": transforms.std}
    return TeacherModel(
        source, network, _imagenet_head(source, len(weights.meta["categories"])), _preprocessing((size, size), data)
    )


def _preprocessing(size: tuple[int, int], data: Mapping[str, Any]) -> Preprocessing:
    return Preprocessing(image_size=size, mean=tuple(data["mean"]), std=tuple(data["std"]))


def _imagenet_head(source: str, count: int) -> HeadConfig:
    names = imagenet_names()
    if count != len(names):
        raise ConfigError(f"{source}: has {count} classes, and only the names of ImageNet's {len(names)} are known")
    return HeadConfig("classification", count, names)


def _short(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
