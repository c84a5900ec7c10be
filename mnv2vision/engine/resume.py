"""Checkpoints of training runs: read, checked before a run goes on, and the best of them chosen."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from mnv2vision.config.schema import Train
from mnv2vision.contracts import ModelConfig
from mnv2vision.engine.parts import DataPart
from mnv2vision.errors import ConfigError, WeightsError
from mnv2vision.tasks.base import Task
from mnv2vision.training.callbacks import History
from mnv2vision.training.checkpoints import LastEpochs
from mnv2vision.weights import file

log = logging.getLogger(__name__)


class DataState(TypedDict):
    """What the data module keeps: batches done of the epoch, the global batch, and `identify`'s values."""

    batch: int
    global_batch: int
    identity: NotRequired[dict[str, object]]


class RunCheckpoint(TypedDict):
    """What a checkpoint of a training run has, of what is read here; more keys say what the run did."""

    state_dict: dict[str, Tensor]
    fixed_options: dict[str, object]
    model: dict[str, object]
    DataModule: DataState
    epoch: int
    global_step: int
    pace: NotRequired[dict[str, float]]


def read_checkpoint(path: str, key: str = "resume") -> RunCheckpoint:
    """A checkpoint of a training run; ConfigError or WeightsError, in one line, for anything else.

    Args:
        path: The file.
        key: That names it.
    """
    if not Path(path).is_file():
        raise ConfigError(f"{key}={path}: no such checkpoint")
    if path.endswith(".safetensors"):
        raise ConfigError(f"{key}={path}: a model, not a checkpoint of a training run; start from it with init_from=")
    try:
        checkpoint: RunCheckpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds for corrupt files, and its words mean its own internals
        raise WeightsError(f"{key}={path}: not a checkpoint of a training run, or a damaged one") from error
    if not isinstance(checkpoint, dict) or {"state_dict", "fixed_options", "model", "DataModule"} - checkpoint.keys():
        raise WeightsError(f"{key}={path}: not a checkpoint of a training run of this version")
    if "heads" not in checkpoint["model"]:
        raise WeightsError(
            f"{key}={path}: was written when models had one head, whose layers had other names; it cannot go on with"
            " this version: start a run with init_from=<its run's model.safetensors>"
        )
    return checkpoint


def model_config(checkpoint: RunCheckpoint, source: str) -> ModelConfig:
    """What the model of a checkpoint is built from.

    Args:
        checkpoint: What `read_checkpoint` gave.
        source: The file's key and name, for messages.

    Raises:
        WeightsError: For a damaged description.
    """
    try:
        return ModelConfig.from_dict(checkpoint["model"])
    except (ConfigError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{source}: its model's description is damaged ({error!r})") from error


def identify(parts: Sequence[DataPart], names: Mapping[str, Sequence[str]]) -> dict[str, object]:
    """What tells a run's data from others, wherever they lie, in plain values.

    Args:
        parts: The data sets.
        names: Class names of each head.
    """
    found: dict[str, object] = {}
    for part in parts:
        section, of = (f"data.{part.name}", f" of {part.name}") if part.name else ("dataset", "")
        found |= {
            f"{section}.{key}": value for key, value in part.dataset.items() if key not in ("root", "sbd", "held_out")
        }
        found |= {f"training images{of}": len(part.train or ())}
        found |= {f"validation images{of}": len(part.val)} if part.targets else {}
    if len(names) == 1:
        return {**found, "classes": list(*names.values())}
    return found | {f"classes of {head}": list(own) for head, own in names.items()}


def is_of_run(path: str, run_dir: Path) -> bool:
    """Whether a checkpoint lies in a run's folder."""
    return Path(path).resolve().parent.parent == run_dir.resolve()


def check_resume(
    config: Train,
    checkpoint: RunCheckpoint,
    task: Task,
    identity: Mapping[str, object],
    world_size: int,
    run_dir: Path,
) -> None:
    """Refuse what a resumed run cannot change.

    Args:
        config: The whole configuration, of now.
        checkpoint: What `read_checkpoint` gave.
        task: To go on with.
        identity: Of the data to go on with, see `identify`. Others than the checkpoint's need another folder.
        world_size: Number of processes.
        run_dir: The folder to go on in.

    Raises:
        ConfigError: For such changes, with a list of them.
        WeightsError: For another model's checkpoint.
    """
    path = str(config.resume)
    fixed, data = checkpoint["fixed_options"], checkpoint["DataModule"]
    changed = [key for key, value in task.fixed_options.items() if fixed.get(key, False) != value]
    if config.trainer.max_steps >= 0 and "pace" in checkpoint:  # which other batches would put elsewhere
        batch = config.loader.size * world_size * config.trainer.accumulate_grad_batches
        if checkpoint["pace"]["global_batch"] != batch:
            changed.append(f"the global batch of {checkpoint['pace']['global_batch']} (it ends by trainer.max_steps)")
    if ("current_model_state" in checkpoint) != bool(config.ema.decay):  # the averages, or what they are of
        changed.append("ema")
    if data["batch"] and data["global_batch"] != config.loader.size * world_size:
        changed.append(f"the global batch of {data['global_batch']} (the checkpoint is from within an epoch)")
    was = data.get("identity", {})
    others = [
        f"{key} was {_short(was[key])}, is {_short(now)}"
        for key, now in identity.items()
        if key in was and was[key] != now
    ]
    if others and data["batch"]:
        changed.append("the data (the checkpoint is from within an epoch)")
    if "quantize" not in changed:  # which has tensors of its own
        file.check_fit(checkpoint["state_dict"], task.state_dict(), f"resume={path}")
    if changed:
        raise ConfigError(f"resume={path}: a resumed run cannot change {', '.join(changed)}; start one with init_from=")
    if others:
        told = f"resume={path}: other data than the run's: {'; '.join(others)}"
        if is_of_run(path, run_dir):
            raise ConfigError(f"{told}; they need a folder of their own: give run_dir=<folder>")
        log.warning(told)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def load_best(task: Task, trainer: pl.Trainer, resumed: str | None, history: History) -> None:
    """Give the task the best weights of the run, and say which they are."""
    # Without validation there is no best, but a last checkpoint; without a step to train, the one that is resumed.
    callbacks = [
        callback
        for callback in trainer.checkpoint_callbacks
        if isinstance(callback, ModelCheckpoint) and not isinstance(callback, LastEpochs)
    ]
    written = {bool(callback.monitor): callback.best_model_path for callback in callbacks}
    path = written.get(True) or written.get(False) or resumed
    if not path:
        return
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    task.load_state_dict(checkpoint["state_dict"])
    kept, scores = checkpoint["epoch"] + 1, {row["epoch"]: row.get(task.monitor) for row in history.rows}
    validated = {epoch: score for epoch, score in scores.items() if score is not None}
    if kept not in validated:
        log.info("kept the weights of the last epoch, %d: no epoch was validated", kept)
        return
    last = max(validated)
    log.info(
        "kept the weights of epoch %d of %d: %s %.4f, the best of %d validation%s%s",
        kept,
        max(scores),
        task.monitor,
        validated[kept],
        len(validated),
        "s" * (len(validated) != 1),
        "" if kept == last else f" (epoch {last}: {validated[last]:.4f})",
    )
