"""Lightning's Trainer as runs need it: quiet, with this package's checkpoints and progress, and signals left alone."""

import importlib.util
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies.launchers import subprocess_script

from mnv2vision.common.processes import watch_children
from mnv2vision.config.options import values
from mnv2vision.config.schema import Train
from mnv2vision.config.sections import EvalTrainer
from mnv2vision.data.sampler import BatchSampler
from mnv2vision.errors import ConfigError, Mnv2visionError
from mnv2vision.training.callbacks import (
    Averaging,
    History,
    PlainProgress,
    ProgressBar,
    StopAtStep,
    StopEarly,
    ValidateLast,
)
from mnv2vision.training.checkpoints import AtomicCheckpointIO, checkpoint_callbacks
from mnv2vision.training.precision import best_precision
from mnv2vision.training.stopping import StopWhenTold
from mnv2vision.training.time_left import TimeLeft

log = logging.getLogger(__name__)

FEW_STEPS = 50
_LIGHTNING = ("pytorch_lightning.", "lightning_fabric.", "lightning_utilities.")
LOGGERS = ("tensorboard", "wandb", "mlflow")


def create_trainer(
    section: EvalTrainer, run_dir: Path, callbacks: Sequence[Callback] = (), loggers: Sequence[Logger] = ()
) -> pl.Trainer:
    """A Trainer by the section `trainer`, with progress on the screen.

    Args:
        section: Of the configuration.
        run_dir: The run's folder.
        callbacks: Beside those of the progress.
        loggers: See `create_loggers`.

    Raises:
        ConfigError: For options that Lightning refuses.
    """
    progress = ProgressBar() if sys.stderr.isatty() else PlainProgress()
    # The network's input has one size, for which cuDNN does well to look for the fastest kernels.
    options: dict[str, Any] = {"benchmark": not section.deterministic, "max_epochs": -1, **values(section)}
    time_left = TimeLeft(options.get("max_steps", -1))
    options["max_steps"] = -1  # StopAtStep
    if options["precision"] == "auto":
        options["precision"] = best_precision(options["accelerator"])
    own: dict[str, Any] = {
        "default_root_dir": run_dir,
        "callbacks": [time_left, progress, *callbacks],
        "logger": list(loggers),
        "plugins": [AtomicCheckpointIO()],
        "enable_model_summary": False,
        "enable_progress_bar": isinstance(progress, ProgressBar),
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,  # the data module's own knows about epochs, resuming and evaluation
    }
    if taken := own.keys() & options.keys():
        raise ConfigError(f"trainer: {', '.join(sorted(taken))} cannot be set")
    with refused_options():
        trainer = pl.Trainer(**options, **own)
    # Its own handlers would answer SIGTERM as well, with status 0, and its observer kills this process.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    subprocess_script._launch_process_observer = watch_children  # type: ignore[attr-defined, assignment]
    return trainer


@contextmanager
def refused_options() -> Iterator[None]:
    """Turn what Lightning itself raises into ConfigError: these are its options, some of which it looks at late."""
    try:
        yield
    except (MisconfigurationException, AttributeError, ImportError, TypeError, ValueError) as error:
        frame = error.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        name = "" if frame is None else str(frame.tb_frame.f_globals.get("__name__", ""))
        if isinstance(error, Mnv2visionError) or not name.startswith(_LIGHTNING):
            raise
        raise ConfigError(f"trainer: {' '.join(str(error).split())}") from error


def check_limits(trainer: pl.Trainer, batch_size: int, images: Mapping[str, int]) -> None:
    """Raise ConfigError where limit_train_batches or limit_val_batches is a share of the batches that is none.

    Args:
        trainer: With the limits.
        batch_size: Per process.
        images: Their numbers, by "train" and "val".
    """
    for part, length in images.items():
        limit = getattr(trainer, f"limit_{part}_batches")
        last = min(trainer.world_size, length) - 1  # the process with the fewest
        batches = len(
            BatchSampler(length, batch_size, training=part == "train", rank=last, world_size=trainer.world_size)
        )
        if isinstance(limit, float) and limit > 0 and int(batches * limit) == 0:
            raise ConfigError(
                f"trainer.limit_{part}_batches={limit:g} of {batches} {'batch' if batches == 1 else 'batches'}"
                f" is less than one batch; give a share of {1 / batches:.3g} or more, or a whole number of batches"
            )


def training_callbacks(config: Train, run_dir: Path, history: History, monitor: str) -> list[Callback]:
    """What happens around the steps of a training run.

    Args:
        config: The whole configuration.
        run_dir: The run's folder.
        history: Of its epochs.
        monitor: The metric that decides which epoch is best.
    """
    checkpoints = run_dir / "checkpoints"
    keeping = (config.checkpoint.every_n_steps, config.checkpoint.keep_last)
    callbacks = [history, *checkpoint_callbacks(checkpoints, monitor, *keeping)]
    if config.ema.decay:
        callbacks.append(Averaging(config.ema.decay))
    if config.trainer.max_steps >= 0:
        callbacks.append(StopAtStep(config.trainer.max_steps))
    callbacks.append(ValidateLast(config.trainer.check_val_every_n_epoch))
    if config.early_stopping.patience:
        callbacks.append(StopEarly(monitor, mode="max", patience=config.early_stopping.patience, check_finite=False))
    return [*callbacks, StopWhenTold(checkpoints / "last.ckpt")]


def check_loggers(names: Sequence[str]) -> None:
    """Raise ConfigError for loggers that are unknown or not installed; before long work, not after it."""
    for name in names:
        if name not in LOGGERS:
            raise ConfigError(f"loggers: {name!r} is unknown; valid: {', '.join(LOGGERS)}")
        if importlib.util.find_spec(name) is None:
            package = name if name == "tensorboard" else f"'mnv2vision[{name}]'"
            raise ConfigError(f"loggers: {name} is not installed: pip install {package}")


def create_loggers(config: Train, run_dir: Path) -> list[Logger]:
    """The loggers of a configuration, see `check_loggers`; metrics.csv is written in any case."""
    loggers: list[Logger] = []
    section = config.logging
    for kind in config.loggers:
        if kind == "tensorboard":
            from pytorch_lightning.loggers import TensorBoardLogger

            loggers.append(TensorBoardLogger(run_dir, name="", version=""))
        elif kind == "wandb":
            from pytorch_lightning.loggers import WandbLogger

            project = section.project or os.environ.get("WANDB_PROJECT", "mnv2vision")
            address: Any = {"settings": {"base_url": section.address}} if section.address else {}
            loggers.append(WandbLogger(section.name, run_dir, project=project, **address))
        else:
            from pytorch_lightning.loggers import MLFlowLogger

            project = section.project or os.environ.get("MLFLOW_EXPERIMENT_NAME", "mnv2vision")
            own = os.environ.get("MLFLOW_TRACKING_URI") or f"file:{run_dir.resolve() / 'mlruns'}"
            name = section.name or os.environ.get("MLFLOW_RUN_NAME")
            loggers.append(MLFlowLogger(project, name, section.address or own))
    return loggers


def log_plan(config: Train, run_dir: Path, images: tuple[int, int], trainer: pl.Trainer) -> None:
    """Say what will be trained on what for how long, before the first step."""
    batches = max(1, images[0] // (config.loader.size * trainer.world_size))
    limit = trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else max(1, int(batches * limit))
    steps = -(-batches // trainer.accumulate_grad_batches)
    totals = [steps * epochs for epochs in [trainer.max_epochs] if epochs is not None and epochs >= 0]
    totals += [most for most in [config.trainer.max_steps] if most >= 0]
    device = "CPU" if trainer.accelerator.__class__.__name__ == "CPUAccelerator" else "GPU"
    log.info(
        "%s: %srecipe %s, %d training and %d validation images, %d step%s per epoch%s, %d x %s, precision %s",
        run_dir,
        "resumed, " if config.resume else "",
        config.recipe or "none",
        *images,
        steps,
        "s" * (steps != 1),
        f", {min(totals)} in all" if totals else "",
        trainer.world_size,
        device,
        trainer.precision,
    )
    if totals and min(totals) < FEW_STEPS:
        log.warning(
            "%d step%s in total: too few to learn much; use a smaller loader.batch_size, fewer trainer.devices,"
            " or more trainer.max_epochs",
            min(totals),
            "s" * (min(totals) != 1),
        )


def quieten_lightning() -> None:
    """Keep what Lightning says of itself from the screen."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    for message in (
        ".*does not have many workers.*",
        ".*The number of training batches.*",
        ".*Checkpoint directory.*exists and is not empty.*",
        ".*LeafSpec.*",
        ".*lr_scheduler.step.*",
        ".*called before the ``update`` method.*",  # of a mean that goes on from a checkpoint
        ".*sync_dist=True.*",  # metrics are the same in all processes
        ".*your dataloader is not resumable.*",  # the data module's is
        ".*could not find the monitored key.*",  # without validation there is no best
        ".*module.s. in eval mode.*",  # frozen blocks
        ".*Grad strides do not match bucket view.*",  # of rounded 1x1 kernels, whose two layouts are one in memory
        ".*callbacks used to create the checkpoint.*",  # with other options now: they start anew
    ):
        warnings.filterwarnings("ignore", message)
