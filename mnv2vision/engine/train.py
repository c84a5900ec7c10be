"""Train a model: what the command `train` and `mv.train` call."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from lightning_fabric.utilities.rank_zero import rank_zero_only
from numpy.typing import NDArray
from pytorch_lightning.callbacks import Callback

from mnv2vision.common import draw
from mnv2vision.config.compose import OWN
from mnv2vision.config.named import JOINT, head_tasks
from mnv2vision.config.options import values
from mnv2vision.config.schema import Train
from mnv2vision.contracts import HeadSettings
from mnv2vision.data.augment.classification import EvaluationTransform
from mnv2vision.data.augment.detection import DetectionAugmentation
from mnv2vision.data.batch import Transform
from mnv2vision.data.loader import DataModule
from mnv2vision.data.sample import SampleSource
from mnv2vision.engine.add_head import Addition
from mnv2vision.engine.class_weights import with_class_weights
from mnv2vision.engine.decide import decide, undecided
from mnv2vision.engine.evaluate import finish, write_config
from mnv2vision.engine.initial import AUTO, imagenet_weights, new_model, recover
from mnv2vision.engine.parts import (
    DataPart,
    check_learned,
    classes,
    create_parts,
    task_parts,
    training_source,
    validation_source,
)
from mnv2vision.engine.remarks import tell_remarks
from mnv2vision.engine.resume import RunCheckpoint, check_resume, identify, is_of_run, load_best, read_checkpoint
from mnv2vision.engine.run_folder import check_unused, choose_folder, claimed, telling_how_to_go_on
from mnv2vision.engine.splits import write_splits
from mnv2vision.engine.teachers import load_teachers
from mnv2vision.engine.trainer import (
    check_limits,
    check_loggers,
    create_loggers,
    create_trainer,
    log_plan,
    quieten_lightning,
    refused_options,
    training_callbacks,
)
from mnv2vision.errors import ConfigError, DataError
from mnv2vision.models.tasks import TASKS
from mnv2vision.models.vision_model import VisionModel
from mnv2vision.preprocessing import Preprocessing
from mnv2vision.tasks.base import Task
from mnv2vision.tasks.options import Distillation, TrainingOptions
from mnv2vision.tasks.teachers import Teacher, TeacherModel
from mnv2vision.training.callbacks import History
from mnv2vision.training.quantization import round_weights
from mnv2vision.weights import file

log = logging.getLogger(__name__)

SHOWN_IMAGES = 24


def train(
    config: Train, parts: tuple[SampleSource, SampleSource] | None = None, callbacks: Sequence[Callback] = ()
) -> dict[str, float]:
    """Train a model and evaluate the best of it.

    Args:
        config: Of the command `train`.
        parts: Training and validation samples; those of the section `dataset` by default.
        callbacks: Beside those of every run.

    Returns:
        The metrics of the best weights, as `metrics.json` has them; nothing after debug=batch.
    """
    if config.debug not in (None, "batch"):
        raise ConfigError(f"debug={config.debug} is unknown; valid: batch")
    if config.dataset["name"] == OWN and parts is None:
        raise ConfigError("dataset=own: the run's data were given in Python: go on with mv.train(data=…, resume=…)")
    quieten_lightning()
    check_loggers(config.loggers)
    run_dir = choose_folder(config, config.task)
    with claimed(run_dir), telling_how_to_go_on(run_dir):
        return _train(config, run_dir, parts, callbacks)


def _train(
    config: Train, run_dir: Path, parts: tuple[SampleSource, SampleSource] | None, more: Sequence[Callback]
) -> dict[str, float]:
    began = time.monotonic()
    addition = Addition(config) if config.add_to else None
    tasks = head_tasks(config.task, config.heads)
    if addition:
        tasks = {addition.name: config.task}
    if config.add_as and not addition:
        raise ConfigError(f"add_as={config.add_as}: names the head that add_to=<a model> adds")
    resumed = read_checkpoint(config.resume) if config.resume else None
    if not config.debug and not (config.resume and is_of_run(config.resume, run_dir)):
        check_unused(run_dir)
    teachers = load_teachers(config, tasks)
    said: list[str] = []
    data_parts = create_parts(config, tasks, parts, said)
    if not config.distill.labels:
        data_parts = [replace(part, learned=False) for part in data_parts]
    check_learned(data_parts, teachers)
    names = {name: classes(data_parts, name, teachers[name].head if name in teachers else None) for name in tasks}
    check_num_classes(config, names)
    if config.quantize and not config.init_from:
        raise ConfigError("quantize=true goes on with a trained model: give init_from=<its model.safetensors>")
    if config.init_from == AUTO and resumed is None:
        config = replace(config, init_from=imagenet_weights(config.backbone))
    assemble = partial(_assemble, parts=data_parts, tasks=tasks, names=names, teachers=teachers, addition=addition)
    if undecided(config):
        if resumed is not None:
            raise ConfigError(
                f"resume={config.resume}: a resumed run keeps its numbers, and takes no auto and no time="
            )
        config = decide(config, assemble, began)
    task, data = assemble(config, resumed=resumed)
    if config.debug == "batch":
        return _draw_batch(task, data, run_dir)
    history = History(run_dir / "metrics.csv")
    callbacks = [*training_callbacks(config, run_dir, history, task.monitor), *more]
    trainer = create_trainer(config.trainer, run_dir, callbacks, create_loggers(config, run_dir))
    images = len(data.train_samples), len(data.val_samples)
    check_limits(trainer, config.loader.size, dict(zip(("train", "val"), images, strict=True)))
    if resumed is not None:
        check_resume(config, resumed, task, data.identity, trainer.world_size, run_dir)
    write_config(config, run_dir)
    write_splits({part.name: part.dataset for part in data_parts}, run_dir)
    tell_remarks(data_parts, said)
    log_plan(config, run_dir, images, trainer)
    with refused_options():
        trainer.fit(task, data, ckpt_path=config.resume, weights_only=True)
    if resumed is not None and trainer.global_step == resumed["global_step"]:
        log.info(
            "the run was complete after epoch %d, with nothing left to train; to go on, raise what ended it:"
            " trainer.max_epochs, trainer.max_steps or early_stopping.patience",
            resumed["epoch"] + 1,
        )
    load_best(task, trainer, config.resume, history)
    if config.quantize:
        round_weights(task.model)
    path = run_dir / "model.safetensors"
    _save_model(addition.joined(task.model) if addition else task.model, path)
    metrics = finish(trainer, task, data, run_dir)
    task.remember()
    _save_model(addition.joined(task.model) if addition else task.model, path)
    return metrics


def _assemble(
    config: Train,
    *,
    parts: Sequence[DataPart],
    tasks: Mapping[str, str],
    names: Mapping[str, tuple[str, ...]],
    teachers: Mapping[str, TeacherModel],
    addition: Addition | None,
    resumed: RunCheckpoint | None = None,
) -> tuple[Task, DataModule]:
    """The model with its objectives, and the data, as they are at the beginning of a run."""
    pl.seed_everything(config.seed, verbose=False)
    model = addition.model(config, *names.values()) if addition else new_model(config, tasks, names, resumed, teachers)
    evaluation = EvaluationTransform(model.preprocessing)
    source, val_source = (
        training_source(parts, model.config, config.data.alpha, config.loader.size),
        validation_source(parts, model.config),
    )
    if config.init_from and resumed is None:
        recover(model, source, evaluation, config.data.on_error)

    data = DataModule(
        (source, augmentation(config, tasks, model.preprocessing)),
        (val_source, evaluation),
        seed=config.seed,
        on_error=config.data.on_error,
        identity=identify(parts, names),
        batch_size=config.loader.size,
        workers=config.loader.workers,
    )
    settings = with_class_weights(
        head_settings(config, tasks),
        source,
        {name: head.names for name, head in model.config.heads.items()},
        config.data.on_error,
    )
    options, in_use = training_options(config), dict(model.heads_in_use())
    task = Task(
        model,
        task_parts(parts, model, settings, training=True),
        replace(options, freeze=addition.frozen) if addition else options,
        {
            name: Teacher(teacher, in_use[name], options.distillation, config.compile)
            for name, teacher in teachers.items()
        },
    )
    task.check_options()
    return task, data


def _draw_batch(task: Task, data: DataModule, run_dir: Path) -> dict[str, float]:
    pictures: list[NDArray[np.uint8]] = []
    for batch in data.train_dataloader():
        if batch.error is not None:
            raise DataError(batch.error)
        pictures += task.draw_batch(batch)
        if len(pictures) >= SHOWN_IMAGES:
            break
    pictures = pictures[:SHOWN_IMAGES]
    draw.contact_sheet(pictures, [""] * len(pictures), run_dir / "batch.png")
    log.info("%s: %d training images as the network sees them", run_dir / "batch.png", len(pictures))
    return {}


def training_options(config: Train) -> TrainingOptions:
    """What a configuration says of the steps."""
    loss: Any = config.loss
    monitor: Any = config.monitor
    distill: dict[str, Any] = values(config.distill)
    del distill["labels"]
    joint = config.task == JOINT
    for key, weights in (("loss.weights", loss["weights"]), ("monitor", monitor)) if joint else ():
        if not any(weights.values()):
            raise ConfigError(f"{key}: all heads have the weight 0: give one of them another")
    return TrainingOptions(
        optimizer=values(config.optimizer),
        schedule=values(config.schedule),
        batch_size=config.loader.size,
        max_steps=config.trainer.max_steps,
        freeze=config.freeze,
        seed=config.seed,
        channels_last=config.channels_last,
        compile=config.compile,
        quantize=config.quantize,
        weights=loss["weights"] if joint else {},
        balance=loss["balance"] if joint else "fixed",
        distillation=Distillation(**distill),
        monitor=monitor,
    )


def head_settings(config: Train, tasks: Mapping[str, str]) -> dict[str, HeadSettings]:
    """What a configuration says of each head's training and evaluation."""
    if config.task != JOINT:
        return {name: HeadSettings(config.loss, config.augmentation, config.inference) for name in tasks}
    found = {}
    for name, task in tasks.items():
        loss: Any = config.loss[name]
        found[name] = HeadSettings(loss, {}, config.inference if task == "segmentation" else {})
    return found


def augmentation(config: Train, tasks: Mapping[str, str], preprocessing: Preprocessing) -> Transform:
    """The training transform: the task's, or the one that moves image, boxes and mask together."""
    if config.add_to and config.task != "classification" and preprocessing.resize == "crop":
        log.warning("add_to: the model crops its photos: what lies outside is not seen, by no head")
        preprocessing = replace(preprocessing, resize="stretch")  # of windows that are drawn anyway
    if config.task != JOINT:
        return TASKS[config.task].training().augmentation(config.augmentation, preprocessing)
    options: dict[str, Any] = dict(config.augmentation)
    return DetectionAugmentation(preprocessing, **options)


def check_num_classes(config: Train, names: Mapping[str, Sequence[str]]) -> None:
    """Raise ConfigError where model.num_classes is not what the data have."""
    if (count := config.model.num_classes) is None:
        return
    if len(names) > 1:
        raise ConfigError("model.num_classes is for one head: those of several follow from their data sets")
    (own,) = names.values()
    if count != len(own):
        raise ConfigError(f"model.num_classes={count}, but the data set has {len(own)} classes")


@rank_zero_only
def _save_model(model: VisionModel, path: Path) -> None:
    file.save(model, path)
