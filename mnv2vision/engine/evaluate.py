"""Evaluate a model: what the command `eval` and `mv.evaluate` call."""

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytorch_lightning as pl
from lightning_fabric.utilities.rank_zero import rank_zero_only
from omegaconf import OmegaConf

from mnv2vision.common.atomic import write_text
from mnv2vision.common.text import few
from mnv2vision.config.compose import OWN
from mnv2vision.config.named import JOINT
from mnv2vision.config.options import values
from mnv2vision.config.schema import Eval, Train
from mnv2vision.contracts import HeadSettings
from mnv2vision.data.augment.classification import EvaluationTransform
from mnv2vision.data.loader import DataModule
from mnv2vision.data.sample import SampleSource
from mnv2vision.detection.head import SSDHead
from mnv2vision.engine.compare import compare, draw_answers
from mnv2vision.engine.parts import DataPart, create_parts, task_parts, validation_source
from mnv2vision.engine.report import write_page
from mnv2vision.engine.run_folder import choose_folder, claimed
from mnv2vision.engine.trainer import check_limits, create_trainer, quieten_lightning
from mnv2vision.errors import ConfigError
from mnv2vision.inference.bundle import is_bundle
from mnv2vision.inference.cached import CHOICES, check_runtime, export_once
from mnv2vision.inference.exported_model import ExportedModel
from mnv2vision.models.vision_model import VisionModel
from mnv2vision.predictions.detection import check_max_detections
from mnv2vision.preprocessing import as_pair
from mnv2vision.tasks.base import Task
from mnv2vision.weights import registry

log = logging.getLogger(__name__)


def evaluate(config: Eval, model: VisionModel | None = None, source: SampleSource | None = None) -> dict[str, float]:
    """Evaluate a model file on the validation part of a data set.

    Args:
        config: Of the command `eval`.
        model: Instead of the key `checkpoint`; changed in place, as the section `model` says.
        source: Samples; those of the section `dataset` by default.

    Returns:
        The metrics, as `metrics.json` has them.
    """
    if config.dataset["name"] == OWN and source is None:
        raise ConfigError("dataset=own: the data are given in Python: mv.evaluate(model, data=…)")
    quieten_lightning()
    if model is None:
        if not config.checkpoint:
            raise ConfigError("checkpoint=<model.safetensors> is required")
        model = open_model(config.checkpoint, config.runtime)
    if isinstance(model, ExportedModel):
        config = _for_exported(config, model.folder)
    elif config.runtime != "torch":
        raise ConfigError(
            f"runtime={config.runtime} runs model files and published names; save the model, or export it"
        )
    tasks = [head.task for head in model.config.heads.values()]
    if config.task not in (None, JOINT if len(tasks) > 1 else tasks[0]):
        raise ConfigError(f"task={config.task}, but {config.checkpoint} is a model for {', '.join(tasks)}")
    run_dir = choose_folder(config, "eval")
    with claimed(run_dir):
        return _evaluate_model(config, model, run_dir, source)


def open_model(source: str | os.PathLike[str], runtime: str = "torch") -> VisionModel:
    """A model to evaluate.

    Args:
        source: What `load` takes, or the folder of an exported model.
        runtime: torch, or one that runs the file's export, which is made once and kept.

    Raises:
        ConfigError: For a runtime that is unknown or cannot be used.
        WeightsError: For weights that cannot be used.
    """
    exported = is_bundle(source)
    if check_runtime(runtime, CHOICES[1:]) == "torch":
        return ExportedModel(source) if exported else registry.load(source)
    if exported:
        raise ConfigError(f"runtime={runtime}: {source} is exported, and has its own")
    return ExportedModel(export_once(registry.resolve(source), runtime))


def _for_exported(config: Eval, folder: str) -> Eval:
    """The configuration for an exported model, which runs in one process on the CPU; ConfigError for what it lacks."""
    trainer = config.trainer
    asked = {
        "model.image_size": config.model.image_size is not None,
        "model.output_stride": config.model.output_stride is not None,
        "inference.scales": list(config.inference.scales) != [1],
        "trainer.accelerator": trainer.accelerator not in ("auto", "cpu"),
        "trainer.devices": trainer.devices not in ("auto", 1),
        "trainer.num_nodes": trainer.num_nodes != 1,
    }
    if wrong := [key for key, is_asked in asked.items() if is_asked]:
        raise ConfigError(f"{wrong[0]}: {folder} is exported: it keeps its input size, and runs once on the CPU")
    return replace(config, trainer=replace(trainer, accelerator="cpu", devices=1))


def _evaluate_model(config: Eval, model: VisionModel, run_dir: Path, source: SampleSource | None) -> dict[str, float]:
    if config.model.image_size is not None:
        model.preprocessing = replace(model.preprocessing, image_size=as_pair(config.model.image_size))
    if config.model.output_stride is not None:
        if "segmentation" not in (own := [head.task for head in model.config.heads.values()]):
            raise ConfigError(f"model.output_stride is for segmentation, not for a model of {', '.join(own)}")
        model.set_output_stride(config.model.output_stride)
    if config.model.max_detections is not None:
        detectors = [head for head in model.heads.values() if isinstance(head, SSDHead)]
        if not detectors:
            raise ConfigError(f"model.max_detections is for detection, not for a model of {model.task}")
        for head in detectors:
            head.max_detections = check_max_detections(config.model.max_detections)
    tasks = {name: head.task for name, head in model.config.heads.items()}
    parts = create_parts(config, tasks, None if source is None else (None, source))
    tell_of_unmeasured(parts, tasks)
    others = {other: open_model(other) for other in config.compare or ()}
    for other, single in others.items():
        if len(single.heads) > 1:
            raise ConfigError(f"compare: {other} has the heads {', '.join(single.heads)}: give models with one head")
    metrics = _measure(config, model, parts, run_dir)
    if others:
        compare(
            model, metrics, others, lambda head, other, folder: _of_head(config, parts, head, other, folder), run_dir
        )
    return metrics


def _of_head(config: Eval, parts: Sequence[DataPart], head: str, model: VisionModel, folder: Path) -> dict[str, float]:
    """A model with one head, measured on what one of several heads is measured on."""
    (name,) = model.heads
    serving = [replace(part, targets={name: part.targets[head]}) for part in parts if head in part.targets]
    return _measure(config, model, serving, folder)


def _measure(config: Eval, model: VisionModel, parts: Sequence[DataPart], run_dir: Path) -> dict[str, float]:
    prepared = evaluation(config, model, parts, run_dir)
    write_config(config, run_dir)
    return finish(*prepared, run_dir)


def evaluation(
    config: Eval, model: VisionModel, parts: Sequence[DataPart], run_dir: Path
) -> tuple[pl.Trainer, Task, DataModule]:
    """What `finish` measures a model with.

    Args:
        config: Of the command `eval`.
        model: The model.
        parts: The data sets.
        run_dir: The run's folder.
    """
    tasks = {name: head.task for name, head in model.config.heads.items()}
    source = validation_source(parts, model.config)
    data = DataModule(
        None,
        (source, EvaluationTransform(model.preprocessing)),
        seed=config.seed,
        on_error=config.data.on_error,
        batch_size=config.loader.batch_size,
        workers=config.loader.workers,
    )
    trainer = create_trainer(config.trainer, run_dir)
    check_limits(trainer, config.loader.batch_size, {"val": len(source)})
    inference = values(config.inference)
    settings = {
        name: HeadSettings(inference=inference if task == "segmentation" else {}) for name, task in tasks.items()
    }
    return trainer, Task(model, task_parts(parts, model, settings, training=False)), data


def finish(trainer: pl.Trainer, task: Task, data: DataModule, run_dir: Path) -> dict[str, float]:
    """Evaluate and write metrics, tables, pictures and `report.html`, after training as in a later evaluation."""
    trainer.validate(task, data, verbose=False)
    metrics = task.metrics
    if trainer.is_global_zero:
        known = {name: value if math.isfinite(value) else None for name, value in metrics.items()}  # NaN is no JSON
        write_text(run_dir / "metrics.json", json.dumps(known, indent=2, allow_nan=False) + "\n")
        task.write_report(run_dir)
        if len(task.model.heads) > 1 and not isinstance(task.model, ExportedModel):
            draw_answers(task.model, data.val_samples, run_dir / "predictions.png")
        write_page(task, run_dir)
        tell_of_zeros(task)
        told = (f"{name} {'n/a' if value is None else f'{value:.4f}'}" for name, value in known.items())
        log.info("%s  (%s)", "  ".join(told), run_dir)
    data.log_skipped()
    return metrics


def tell_of_zeros(task: Task) -> None:
    """Name the classes of which nothing is found, though they have examples."""
    for place, (figure, rows) in task.class_figures():
        if zeros := [name for name, value in rows if value == 0]:
            log.warning(
                "%s%s is 0 for %d of the %d classes that have examples: %s",
                *(place, figure, len(zeros), len(rows), few(zeros)),
            )


def tell_of_unmeasured(parts: Sequence[DataPart], tasks: Mapping[str, str]) -> None:
    """Say which heads have no annotations in the data sets."""
    if missing := [name for name in tasks if not any(name in part.targets for part in parts)]:
        log.warning("not measured: %s, for which the data have no annotations", ", ".join(missing))


@rank_zero_only
def write_config(config: Train | Eval, run_dir: Path) -> None:
    """Write `config.yaml` to a run's folder."""
    run_dir.mkdir(parents=True, exist_ok=True)
    write_text(run_dir / "config.yaml", OmegaConf.to_yaml(values(config)))
