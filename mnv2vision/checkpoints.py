"""Checkpoints of training runs: read, checked before a run goes on, and the best of them chosen."""

import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from mnv2vision.errors import ConfigError, WeightsError
from mnv2vision.tasks.base import Task
from mnv2vision.training.callbacks import History
from mnv2vision.weights import file

log = logging.getLogger(__name__)


def read_checkpoint(path: str) -> dict[str, Any]:
    """A checkpoint of a training run; ConfigError or WeightsError, in one line, for anything else."""
    if not Path(path).is_file():
        raise ConfigError(f"resume={path}: no such checkpoint")
    if path.endswith(".safetensors"):
        raise ConfigError(f"resume={path}: is a model, not a checkpoint of a training run; start one with init_from=")
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds for corrupt files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"resume={path}: is no checkpoint of a training run ({reason})") from error
    if not isinstance(checkpoint, dict) or {"state_dict", "fixed_options", "model", "DataModule"} - checkpoint.keys():
        raise WeightsError(f"resume={path}: is no checkpoint of a training run of this version")
    return checkpoint


def check_resume(config: dict[str, Any], checkpoint: dict[str, Any], task: Task, world_size: int) -> None:
    """Raise ConfigError for changes that a resumed run cannot make, and WeightsError for another model's checkpoint."""
    path = config["resume"]
    fixed, data = checkpoint["fixed_options"], checkpoint["DataModule"]
    file.check_fit(checkpoint["state_dict"], task.state_dict(), f"resume={path}")
    changed = [key for key, value in task.fixed_options.items() if fixed[key] != value]
    if config["trainer"]["max_steps"] >= 0 and "pace" in checkpoint:  # which other batches would put elsewhere
        batch = config["loader"]["batch_size"] * world_size * config["trainer"]["accumulate_grad_batches"]
        if checkpoint["pace"]["global_batch"] != batch:
            changed.append(f"the global batch of {checkpoint['pace']['global_batch']} (it ends by trainer.max_steps)")
    if ("current_model_state" in checkpoint) != bool(config["ema"]["decay"]):  # the averages, or what they are of
        changed.append("ema")
    if data["batch"] and data["global_batch"] != config["loader"]["batch_size"] * world_size:
        changed.append(f"the global batch of {data['global_batch']} (the checkpoint is amid an epoch)")
    if changed:
        raise ConfigError(f"resume={path}: a resumed run cannot change {', '.join(changed)}; start one with init_from=")


def load_best(task: Task, trainer: pl.Trainer, resumed: str | None, history: History) -> None:
    """Give the task the best weights of the run, and say which they are."""
    # Without validation there is no best, but a last checkpoint; without a step to train, the one that is resumed.
    written = {bool(callback.monitor): callback.best_model_path for callback in trainer.checkpoint_callbacks}  # type: ignore[attr-defined]
    path = written.get(True) or written.get(False) or resumed
    if not path:
        return
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    task.load_state_dict(checkpoint["state_dict"])
    kept, scores = checkpoint["epoch"] + 1, {row["epoch"]: row.get(task.monitor) for row in history.rows}
    validated = {epoch: score for epoch, score in scores.items() if score is not None}
    if kept not in validated:
        log.info("kept the weights of epoch %d, the last: none was validated", kept)
        return
    last = max(validated)
    log.info(
        "kept the weights of epoch %d of %d, the best of %d validated: %s %.4f%s",
        kept,
        max(scores),
        len(validated),
        task.monitor,
        validated[kept],
        "" if kept == last else f" (epoch {last}: {validated[last]:.4f})",
    )
