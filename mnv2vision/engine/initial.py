"""The model that a run starts with, and the weights it starts from."""

import logging
from collections.abc import Mapping
from typing import Any

import torch

from mnv2vision.backbones import has_folded_batch_norm, recover_batch_norm
from mnv2vision.config.named import JOINT
from mnv2vision.config.options import values
from mnv2vision.config.schema import Train
from mnv2vision.contracts import ModelConfig, Options
from mnv2vision.data.augment.classification import EvaluationTransform
from mnv2vision.data.batch import BatchDataset, OnError
from mnv2vision.data.sample import SampleSource
from mnv2vision.data.sampler import BatchKey
from mnv2vision.engine.resume import RunCheckpoint, model_config
from mnv2vision.errors import ConfigError, DataError, WeightsError
from mnv2vision.models.create import configure
from mnv2vision.models.tasks import TASKS
from mnv2vision.models.vision_model import VisionModel
from mnv2vision.tasks.teachers import TeacherModel
from mnv2vision.weights import file, registry
from mnv2vision.weights.entries import list_weights

log = logging.getLogger(__name__)

RECOVERY_IMAGES = 80
AUTO = "auto"
_SOURCES = ("torchvision", "tensorflow")
"""Whose weights to take, in order: both are downloaded without a further package."""
_TYPICAL: dict[str, object] = {"width": 1.0, "depth": 1.0, "minimalistic": False}


def imagenet_weights(backbone: Mapping[str, object]) -> str:
    """The name of a backbone's ImageNet weights, which are here when it returns.

    Args:
        backbone: The section of a configuration.

    Raises:
        ConfigError: If nobody published any, or they can be neither found nor downloaded; says what to give instead.
    """
    wanted = {key: typical if backbone.get(key) is None else backbone[key] for key, typical in _TYPICAL.items()}
    instead = "give init_from=<a model file or a published name>, or init_from=none to start from scratch"
    for source in _SOURCES:
        fitting = [
            entry
            for entry in list_weights("classification", source)
            if entry.architecture["backbone"] == backbone["name"]
            and all(entry.architecture.get(key, _TYPICAL[key]) == value for key, value in wanted.items())
        ]
        if fitting:
            name = max(fitting, key=lambda entry: entry.metrics["top1"]).name
            try:
                registry.resolve(name)
            except WeightsError as error:
                raise ConfigError(f"init_from=auto: {error}; {instead}") from error
            return name
    options = ", ".join(f"{key}={value}" for key, value in wanted.items() if value != _TYPICAL[key])
    raise ConfigError(f"init_from=auto: no ImageNet weights of {backbone['name']} with {options} are known; {instead}")


def new_model(
    config: Train,
    tasks: Mapping[str, str],
    names: Mapping[str, tuple[str, ...]],
    resumed: RunCheckpoint | None = None,
    teachers: Mapping[str, TeacherModel] | None = None,
) -> VisionModel:
    """A model for the data sets' classes; what is left open comes from `init_from` or the checkpoint.

    Args:
        config: Of the command.
        tasks: Of the heads.
        names: Class names of the heads.
        resumed: The checkpoint to go on with.
        teachers: Of heads, which start with their teachers' weights if `init_from` has none for them.
    """
    if config.task == JOINT:
        return _joint_model(config, tasks, names, resumed, teachers or {})
    return _single_model(config, names[config.task], resumed)


def _joint_model(
    config: Train,
    tasks: Mapping[str, str],
    names: Mapping[str, tuple[str, ...]],
    resumed: RunCheckpoint | None,
    teachers: Mapping[str, TeacherModel],
) -> VisionModel:
    options = {key: value for key, value in config.backbone.items() if value is not None}
    backbone = str(options.pop("name"))
    preprocessing = {key: value for key, value in values(config.preprocessing).items() if value is not None}
    if config.model.image_size is not None:
        preprocessing["image_size"] = config.model.image_size
    defaults: dict[str, object] = {
        "image_size": max(TASKS[task].head.image_size for task in tasks.values()),
        "resize": "letterbox",  # what all heads can do with: nothing cropped, nothing distorted
    }
    heads: dict[str, dict[str, object]] = {}
    for name, task in tasks.items():
        own: Any = config.model.more[name]
        heads[name] = {"task": task, "names": names[name]}
        heads[name] |= {key: value for key, value in own.items() if value is not None}
    weights = held = None
    if config.init_from:
        if resumed is None:
            weights = file.read(registry.resolve(config.init_from))
            held = weights.config
        else:
            held = model_config(resumed, f"resume={config.resume}")
        _check_backbone(config, backbone, options, held)
        if all(held.head_like(name, task) for name, task in tasks.items()):
            defaults = {}
    model = VisionModel(configure(heads, backbone, options, preprocessing=defaults | preprocessing, like=held))
    if weights is not None:
        log.info("recipe %s: %s", config.recipe or "none", file.initialize_from(model, weights, str(config.init_from)))
    new = [name for name, task in tasks.items() if held is None or held.head_like(name, task) is None]
    for name in new if resumed is None else ():
        teacher = teachers.get(name)
        if teacher and type(teacher.network) is VisionModel and file.initialize_head(model, name, teacher.network):
            log.info("the head %s starts with the weights of its teacher, %s", name, teacher.source)
    return model


def _single_model(config: Train, names: tuple[str, ...], resumed: RunCheckpoint | None) -> VisionModel:
    wanted = {**config.backbone, **values(config.model)}
    options = {key: value for key, value in wanted.items() if value is not None}
    backbone = str(options.pop("name"))
    options.pop("num_classes", None)
    preprocessing = {key: value for key, value in values(config.preprocessing).items() if value is not None}
    if (size := options.pop("image_size", None)) is not None:
        preprocessing["image_size"] = size
    kind = TASKS[config.task].head
    defaults = {"image_size": kind.image_size, "resize": kind.resize}
    if not config.init_from:
        return VisionModel(
            configure(config.task, backbone, options, names=names, preprocessing=defaults | preprocessing)
        )
    if resumed is not None:
        was = model_config(resumed, f"resume={config.resume}")
        return VisionModel(
            configure(was.head.task, was.backbone, options, names=names, preprocessing=preprocessing, like=was)
        )
    weights = file.read(registry.resolve(config.init_from))
    _check_backbone(config, backbone, options, weights.config)
    model = VisionModel(
        configure(config.task, backbone, options, names=names, preprocessing=preprocessing, like=weights.config)
    )
    log.info("recipe %s: %s", config.recipe or "none", file.initialize_from(model, weights, config.init_from))
    return model


def _check_backbone(config: Train, backbone: str, options: Options, held: ModelConfig) -> None:
    """Raise ConfigError where weights are of another backbone than the one asked for."""
    if held.backbone != backbone:
        raise ConfigError(
            f"backbone={backbone}, but {config.init_from} holds {held.backbone}; say backbone={held.backbone}"
        )
    for key in ("width", "depth"):
        theirs = held.backbone_options.get(key, 1.0)
        if options.get(key, theirs) != theirs:
            raise ConfigError(
                f"backbone.{key}={options[key]}, but {config.init_from} holds {key} {theirs};"
                f" say backbone.{key}={theirs}"
            )


def recover(model: VisionModel, source: SampleSource, transform: EvaluationTransform, on_error: OnError) -> None:
    """Give weights with folded batch norm the statistics of training images."""
    if not has_folded_batch_norm(model):
        return
    count = min(RECOVERY_IMAGES, len(source))
    indices = torch.linspace(0, len(source) - 1, count).long().tolist()
    batch = BatchDataset(source, transform, seed=0, on_error=on_error, evaluation=True)[BatchKey(0, indices)]
    if batch.error is not None:
        raise DataError(batch.error)
    recover_batch_norm(model, model.preprocessing.normalize(batch.images))
    log.info("recovered the batch norm that was folded into the weights, from %d training images", count)
