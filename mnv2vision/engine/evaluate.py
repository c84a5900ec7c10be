"""Evaluate a model: what the command `eval` and `mv.evaluate` call."""

import json
import logging
import math
import os
from dataclasses import replace
from pathlib import Path

import pytorch_lightning as pl
from lightning_fabric.utilities.rank_zero import rank_zero_only
from omegaconf import OmegaConf

from mnv2vision.common.atomic import write_text
from mnv2vision.config.compose import OWN
from mnv2vision.config.options import values
from mnv2vision.config.schema import Eval, Train
from mnv2vision.contracts import HeadSettings, Options
from mnv2vision.data.augment.classification import EvaluationTransform
from mnv2vision.data.loader import DataModule
from mnv2vision.data.sample import SampleSource
from mnv2vision.data.sources import create_source
from mnv2vision.detection.head import SSDHead
from mnv2vision.engine.run_folder import choose_folder, claimed
from mnv2vision.engine.trainer import check_limits, create_trainer, quieten_lightning
from mnv2vision.errors import ConfigError
from mnv2vision.inference.bundle import is_bundle
from mnv2vision.inference.cached import CHOICES, check_runtime, export_once
from mnv2vision.inference.exported_model import ExportedModel
from mnv2vision.models.tasks import TASKS
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
    if config.task not in (None, model.task):
        raise ConfigError(f"task={config.task}, but {config.checkpoint} is a model for {model.task}")
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
        if model.task != "segmentation":
            raise ConfigError(f"model.output_stride is for segmentation, not for a model of {model.task}")
        model.set_output_stride(config.model.output_stride)
    if config.model.max_detections is not None:
        if not isinstance(model.head, SSDHead):
            raise ConfigError(f"model.max_detections is for detection, not for a model of {model.task}")
        model.head.max_detections = check_max_detections(config.model.max_detections)
    kind = TASKS[model.task]
    source = source or create_source(config.dataset, "val", kind.target)
    try:
        source = kind.training().adapt(source, model.config.head)
    except ConfigError as error:
        raise ConfigError(f"dataset={config.dataset['name']}: {error}") from error
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
    write_config(config, run_dir)
    settings = HeadSettings(inference=values(config.inference), protocol=protocol(config.dataset))
    metrics = finish(trainer, Task.create(model, source, None, settings), data, run_dir)
    data.log_skipped()
    return metrics


def finish(trainer: pl.Trainer, task: Task, data: DataModule, run_dir: Path) -> dict[str, float]:
    """Evaluate and write `metrics.json`, tables and pictures, at the end of training as in a later evaluation."""
    trainer.validate(task, data, verbose=False)
    metrics = task.metrics
    if trainer.is_global_zero:
        known = {name: value if math.isfinite(value) else None for name, value in metrics.items()}  # NaN is no JSON
        write_text(run_dir / "metrics.json", json.dumps(known, indent=2, allow_nan=False) + "\n")
        task.write_report(run_dir)
        told = (f"{name} {'n/a' if value is None else f'{value:.4f}'}" for name, value in known.items())
        log.info("%s  (%s)", "  ".join(told), run_dir)
    return metrics


def protocol(dataset: Options) -> str | None:
    """Whose evaluation of boxes the section `dataset` of a configuration asks for, if any."""
    wanted = dataset.get("protocol")
    return None if wanted is None else str(wanted)


@rank_zero_only
def write_config(config: Train | Eval, run_dir: Path) -> None:
    """Write `config.yaml` to a run's folder."""
    run_dir.mkdir(parents=True, exist_ok=True)
    write_text(run_dir / "config.yaml", OmegaConf.to_yaml(values(config)))
