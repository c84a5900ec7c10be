"""Train and evaluate: what the command line calls."""

import json
import logging
import os
import sys
import warnings
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from lightning_fabric.utilities.rank_zero import rank_zero_only
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger

from mnv2vision import visualize
from mnv2vision.atomic import write_text
from mnv2vision.backbones import BACKBONES, has_folded_batch_norm, recover_batch_norm
from mnv2vision.checkpoints import check_resume, load_best, read_checkpoint
from mnv2vision.data.batch import BatchDataset, BatchKey
from mnv2vision.data.datamodule import DataModule
from mnv2vision.data.sample import SampleSource
from mnv2vision.data.sources import check_parts, create_source
from mnv2vision.data.transforms import EvaluationTransform
from mnv2vision.detection.model import SSDLite
from mnv2vision.detection.postprocess import check_max_detections
from mnv2vision.errors import ConfigError, DataError, keyword_names
from mnv2vision.models import MODELS, create_model
from mnv2vision.preprocessing import as_pair
from mnv2vision.segmentation.model import DeepLabV3
from mnv2vision.tasks.base import Task, TrainingOptions
from mnv2vision.tasks.classification import ClassificationTask
from mnv2vision.tasks.detection import DetectionTask
from mnv2vision.tasks.segmentation import SegmentationTask
from mnv2vision.training.callbacks import (
    AtomicCheckpointIO,
    Averaging,
    History,
    PlainProgress,
    ProgressBar,
    StopAtStep,
    StopEarly,
    ValidateLast,
    checkpoint_callbacks,
)
from mnv2vision.training.precision import best_precision
from mnv2vision.vision_model import VisionModel
from mnv2vision.weights import file, registry

log = logging.getLogger(__name__)

TASKS: dict[str, type[Task]] = {
    "classification": ClassificationTask,
    "detection": DetectionTask,
    "segmentation": SegmentationTask,
}
RECOVERY_IMAGES = 80
FEW_STEPS = 50
SHOWN_IMAGES = 24


def train(config: dict[str, Any]) -> dict[str, float]:
    """Train a model and evaluate the best of it.

    Args:
        config: What configs/train.yaml and its groups compose to, as plain data.

    Returns:
        The metrics of the best weights, as `metrics.json` has them; nothing after debug=batch.
    """
    if config["debug"] not in (None, "batch"):
        raise ConfigError(f"debug={config['debug']} is unknown; valid: batch")
    _quieten_lightning()
    kind = TASKS[config["task"]]
    run_dir = _run_dir(config, config["task"])
    checkpoints = run_dir / "checkpoints"
    resumed = read_checkpoint(config["resume"]) if config["resume"] else None
    if resumed is None and any(checkpoints.glob("*.ckpt")) and _is_first_process() and not config["debug"]:
        raise ConfigError(
            f"run_dir={run_dir} holds a run: give another folder, or go on with resume={checkpoints / 'last.ckpt'}"
        )
    pl.seed_everything(config["seed"], verbose=False)
    source = create_source(config["dataset"], "train", kind.target)
    val_source = create_source(config["dataset"], "val", kind.target)
    check_parts(source, val_source)
    model = _new_model(config, source.names, resumed)
    evaluation = EvaluationTransform(model.preprocessing)
    if config["init_from"] and resumed is None:
        _recover(model, source, evaluation, config["data"]["on_error"])

    data = DataModule(
        (source, kind.augmentation(config["augmentation"], model.preprocessing)),
        (val_source, evaluation),
        seed=config["seed"],
        on_error=config["data"]["on_error"],
        **config["loader"],
    )
    task = kind.create(model, val_source, _training_options(config), config)
    task.check_options()
    if config["debug"] == "batch":
        return _draw_batch(task, data, run_dir)
    history = History(run_dir / "metrics.csv")
    callbacks = [
        *_progress(),
        history,
        *checkpoint_callbacks(checkpoints, task.monitor, config["checkpoint"]["every_n_steps"]),
    ]
    if config["ema"]["decay"]:
        callbacks.append(Averaging(config["ema"]["decay"]))
    if config["trainer"]["max_steps"] >= 0:
        callbacks.append(StopAtStep(config["trainer"]["max_steps"]))
    callbacks.append(ValidateLast(config["trainer"]["check_val_every_n_epoch"]))
    if config["early_stopping"]["patience"]:
        callbacks.append(StopEarly(task.monitor, mode="max", patience=config["early_stopping"]["patience"]))
    trainer = _trainer(config, run_dir, callbacks, _loggers(config, run_dir))
    if resumed is not None:
        check_resume(config, resumed, task, trainer.world_size)
    _write_config(config, run_dir)
    _log_plan(config, run_dir, (len(source), len(val_source)), trainer)
    trainer.fit(task, data, ckpt_path=config["resume"], weights_only=True)
    load_best(task, trainer, config["resume"], history)
    _save_model(task.model, run_dir / "model.safetensors")
    metrics = _evaluate(trainer, task, data, run_dir)
    data.log_skipped()
    return metrics


def evaluate(config: dict[str, Any]) -> dict[str, float]:
    """Evaluate a model file on the validation part of a data set.

    Args:
        config: What configs/eval.yaml and its groups compose to, as plain data.

    Returns:
        The metrics, as `metrics.json` has them.
    """
    _quieten_lightning()
    if not config["checkpoint"]:
        raise ConfigError("checkpoint=<model.safetensors> is required")
    model = registry.load(config["checkpoint"])
    if config["task"] not in (None, model.task):
        raise ConfigError(f"task={config['task']}, but {config['checkpoint']} is a model for {model.task}")
    run_dir = _run_dir(config, "eval")
    if config["model"]["image_size"] is not None:
        model.preprocessing = replace(model.preprocessing, image_size=as_pair(config["model"]["image_size"]))
    if config["model"]["output_stride"] is not None:
        if not isinstance(model, DeepLabV3):
            raise ConfigError(f"model.output_stride is for segmentation, not for a model of {model.task}")
        model.set_output_stride(config["model"]["output_stride"])
    if config["model"]["max_detections"] is not None:
        if not isinstance(model, SSDLite):
            raise ConfigError(f"model.max_detections is for detection, not for a model of {model.task}")
        model.max_detections = check_max_detections(config["model"]["max_detections"])
    kind = TASKS[model.task]
    source = create_source(config["dataset"], "val", kind.target)
    try:
        source = kind.adapt(source, model)
    except ConfigError as error:
        raise ConfigError(f"dataset={config['dataset']['name']}: {error}") from error
    data = DataModule(
        None,
        (source, EvaluationTransform(model.preprocessing)),
        seed=config["seed"],
        on_error=config["data"]["on_error"],
        **config["loader"],
    )
    trainer = _trainer(config, run_dir, _progress(), [])
    _write_config(config, run_dir)
    metrics = _evaluate(trainer, kind.create(model, source, None, config), data, run_dir)
    data.log_skipped()
    return metrics


def _draw_batch(task: Task, data: DataModule, run_dir: Path) -> dict[str, float]:
    pictures: list[Any] = []
    for batch in data.train_dataloader():
        if batch.error is not None:
            raise DataError(batch.error)
        pictures += task.draw_batch(batch)
        if len(pictures) >= SHOWN_IMAGES:
            break
    pictures = pictures[:SHOWN_IMAGES]
    visualize.contact_sheet(pictures, [""] * len(pictures), run_dir / "batch.png")
    log.info("%s: %d training images as the network sees them", run_dir / "batch.png", len(pictures))
    return {}


def _evaluate(trainer: pl.Trainer, task: Task, data: DataModule, run_dir: Path) -> dict[str, float]:
    # One path for the end of training and for a later evaluation, so that the figures are the same.
    trainer.validate(task, data, verbose=False)
    metrics = task.metrics
    if trainer.is_global_zero:
        write_text(run_dir / "metrics.json", json.dumps(metrics, indent=2) + "\n")
        task.write_report(run_dir)
        log.info("%s  (%s)", "  ".join(f"{name} {value:.4f}" for name, value in metrics.items()), run_dir)
    return metrics


def _new_model(config: dict[str, Any], names: tuple[str, ...], resumed: dict[str, Any] | None = None) -> VisionModel:
    """A model for the data set's classes; what is left open comes from `init_from` or the checkpoint."""
    wanted = {**config["backbone"], **config["model"]}
    options = {key: value for key, value in wanted.items() if value is not None}
    backbone = options.pop("name")
    num_classes = options.pop("num_classes", len(names))
    if num_classes != len(names):
        raise ConfigError(f"model.num_classes={num_classes}, but the data set has {len(names)} classes")
    preprocessing = {key: value for key, value in config["preprocessing"].items() if value is not None}
    defaults = {
        "image_size": MODELS[config["task"]].default_image_size,
        "resize": MODELS[config["task"]].default_resize,
    }
    if not config["init_from"]:
        preprocessing = defaults | preprocessing
        return create_model(config["task"], backbone=backbone, names=names, preprocessing=preprocessing, **options)
    if resumed is not None:
        inherited = {key: value for key, value in resumed["model"]["config"].items() if key != "num_classes"}
        preprocessing = resumed["model"]["preprocessing"] | preprocessing
        return create_model(names=names, preprocessing=preprocessing, **(inherited | options))
    weights = file.read(registry.resolve(config["init_from"]))
    if weights.config["backbone"] != backbone:
        raise ConfigError(
            f"backbone={backbone}, but {config['init_from']} holds {weights.config['backbone']};"
            f" say backbone={weights.config['backbone']}"
        )
    inherited = {key: value for key, value in weights.config.items() if key not in ("task", "num_classes")}
    same_task = weights.config["task"] == config["task"]
    if not same_task:  # the backbone's conventions carry over, what was chosen for the other task does not
        own = set(keyword_names(BACKBONES[backbone])) - {"taps", "output_stride"}
        inherited = {key: value for key, value in inherited.items() if key in own} | {"backbone": backbone}
    for key in ("width", "depth"):
        held = weights.config.get(key, 1.0)
        if options.get(key, held) != held:
            raise ConfigError(
                f"backbone.{key}={options[key]}, but {config['init_from']} holds {key} {held};"
                f" say backbone.{key}={held}"
            )
    preprocessing = weights.preprocessing | ({} if same_task else defaults) | preprocessing
    model = create_model(config["task"], names=names, preprocessing=preprocessing, **(inherited | options))
    log.info(file.initialize_from(model, weights, config["init_from"]))
    return model


def _recover(model: VisionModel, source: SampleSource, transform: EvaluationTransform, on_error: Any) -> None:
    if not has_folded_batch_norm(model):
        return
    count = min(RECOVERY_IMAGES, len(source))
    indices = torch.linspace(0, len(source) - 1, count).long().tolist()
    batch = BatchDataset(source, transform, seed=0, on_error=on_error)[BatchKey(0, indices)]
    if batch.error is not None:
        raise DataError(batch.error)
    recover_batch_norm(model, model.preprocessing.normalize(batch.images))
    log.info("recovered the batch norm that was folded into the weights, from %d training images", count)


def _training_options(config: dict[str, Any]) -> TrainingOptions:
    return TrainingOptions(
        optimizer=config["optimizer"],
        schedule=config["schedule"],
        batch_size=config["loader"]["batch_size"],
        max_steps=config["trainer"]["max_steps"],
        **{key: config[key] for key in ("freeze", "seed", "channels_last", "compile")},
    )


def _trainer(config: dict[str, Any], run_dir: Path, callbacks: list[Callback], loggers: list[Logger]) -> pl.Trainer:
    # The network's input has one size, for which cuDNN does well to look for the fastest kernels.
    options = {"benchmark": not config["trainer"]["deterministic"], **config["trainer"], "max_steps": -1}  # StopAtStep
    if options["precision"] == "auto":
        options["precision"] = best_precision(options["accelerator"])
    try:
        return pl.Trainer(
            **options,
            default_root_dir=run_dir,
            callbacks=callbacks,
            logger=loggers,
            plugins=[AtomicCheckpointIO()],
            enable_model_summary=False,
            enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
            num_sanity_val_steps=0,
            use_distributed_sampler=False,  # the data module's own knows about epochs, resuming and evaluation
        )
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise ConfigError(f"trainer: {' '.join(str(error).split())}") from error


def _log_plan(config: dict[str, Any], run_dir: Path, images: tuple[int, int], trainer: pl.Trainer) -> None:
    """Say what will be trained on what for how long, before the first step."""
    batches = max(1, images[0] // (config["loader"]["batch_size"] * trainer.world_size))
    limit = trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else max(1, int(batches * limit))
    steps = -(-batches // trainer.accumulate_grad_batches)
    totals = [steps * epochs for epochs in [trainer.max_epochs] if epochs is not None and epochs >= 0]
    totals += [most for most in [config["trainer"]["max_steps"]] if most >= 0]
    device = "CPU" if trainer.accelerator.__class__.__name__ == "CPUAccelerator" else "GPU"
    log.info(
        "%s: %srecipe %s, %d training and %d validation images, %d steps an epoch%s, %d x %s, precision %s",
        run_dir,
        "resumed, " if config["resume"] else "",
        config.get("recipe") or "none",
        *images,
        steps,
        f", {min(totals)} in all" if totals else "",
        trainer.world_size,
        device,
        trainer.precision,
    )
    if totals and min(totals) < FEW_STEPS:
        log.warning(
            "%d steps in all are too few to learn much: take a smaller loader.batch_size, fewer trainer.devices,"
            " or more trainer.max_epochs",
            min(totals),
        )


def _progress() -> list[Callback]:
    return [ProgressBar() if sys.stderr.isatty() else PlainProgress()]


def _loggers(config: dict[str, Any], run_dir: Path) -> list[Logger]:
    loggers: list[Logger] = []
    for name in config["loggers"]:
        if name == "tensorboard":
            from pytorch_lightning.loggers import TensorBoardLogger

            loggers.append(TensorBoardLogger(run_dir, name="", version=""))
        elif name == "wandb":
            from pytorch_lightning.loggers import WandbLogger

            loggers.append(WandbLogger(save_dir=run_dir, project="mnv2vision"))
        elif name == "mlflow":
            from pytorch_lightning.loggers import MLFlowLogger

            loggers.append(MLFlowLogger(tracking_uri=f"file:{run_dir.resolve() / 'mlruns'}"))
        else:
            raise ConfigError(f"loggers: {name!r} is unknown; valid: tensorboard, wandb, mlflow")
    return loggers


@rank_zero_only
def _save_model(model: VisionModel, path: Path) -> None:
    file.save(model, path)


@rank_zero_only
def _write_config(config: dict[str, Any], run_dir: Path) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    write_text(run_dir / "config.yaml", OmegaConf.to_yaml(config))


def _run_dir(config: dict[str, Any], kind: str) -> Path:
    if config["run_dir"]:
        return Path(config["run_dir"])
    # Lightning starts the other processes of a node with this process's environment: all must name the same folder.
    if "MNV2VISION_RUN_DIR" not in os.environ or _is_first_process():
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError(
                "processes started from outside (torchrun, SLURM) must share a folder: give run_dir=<folder>"
            )
        stamp = f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
        os.environ["MNV2VISION_RUN_DIR"] = str(Path("runs") / kind / config["dataset"]["name"] / stamp)
    return Path(os.environ["MNV2VISION_RUN_DIR"])


def _is_first_process() -> bool:
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _quieten_lightning() -> None:
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    for message in (
        ".*does not have many workers.*",
        ".*The number of training batches.*",
        ".*Checkpoint directory.*exists and is not empty.*",
        ".*LeafSpec.*",
        ".*lr_scheduler.step.*",
        ".*sync_dist=True.*",  # metrics are the same in all processes
        ".*your dataloader is not resumable.*",  # the data module's is
        ".*could not find the monitored key.*",  # without validation there is no best
        ".*module.s. in eval mode.*",  # frozen blocks
        ".*callbacks used to create the checkpoint.*",  # with other options now: they start anew
    ):
        warnings.filterwarnings("ignore", message)
