"""Checkpoints of a run: the best, the last, and those of the last epochs."""

import io
import os
from pathlib import Path
from typing import TypedDict, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities.types import STEP_OUTPUT
from torch import Tensor

from mnv2vision.common.atomic import atomic_path


class _Common(TypedDict):
    dirpath: Path
    enable_version_counter: bool


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically: a killed process leaves no partial file."""

    def save_checkpoint(
        self, checkpoint: dict[str, object], path: str | os.PathLike[str], storage_options: object = None
    ) -> None:
        """Write to a temporary name in the same folder, then rename."""
        data = io.BytesIO()  # torch's own writer reports a full disk as an unexpected position
        torch.save(checkpoint, data)
        with atomic_path(Path(path)) as temporary:
            temporary.write_bytes(data.getbuffer())


class EpochCheckpoint(ModelCheckpoint):
    """A checkpoint that keeps its best score when the run's folder has moved."""

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """Adopt the scores at the new path; Lightning would start over, and a worse one could become best."""

        def moved(path: str) -> str:
            return str(Path(str(self.dirpath)) / Path(path).name) if path else path

        scores = cast(dict[str, Tensor], state_dict["best_k_models"])
        if not all(Path(moved(path)).is_file() for path in scores):
            return  # resumed into another folder: the best is the best of what is there
        paths = {
            key: moved(str(state_dict[key])) for key in ("best_model_path", "kth_best_model_path", "last_model_path")
        }
        best = {moved(path): score for path, score in scores.items()}
        super().load_state_dict({**state_dict, **paths, "best_k_models": best, "dirpath": self.dirpath})


class StepCheckpoint(EpochCheckpoint):
    """`last.ckpt` every n steps, except an epoch's last, which is saved after validation."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: STEP_OUTPUT, batch: object, batch_idx: int
    ) -> None:
        """Save after an optimiser step, as accumulated gradients are not part of a checkpoint.

        Do not save right before validation either: resuming from there would skip it.
        """
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        ends = trainer.should_stop or trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if stepped and not ends:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


class LastEpochs(EpochCheckpoint):
    """`step_<step>.ckpt` of each of the last epochs, by the step at its end."""

    def __init__(self, folder: Path, count: int) -> None:
        super().__init__(
            folder,
            "step_{step}",
            auto_insert_metric_name=False,
            save_top_k=-1,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        self.folder, self.count = folder, count

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save, and remove what is older, or of epochs that a resumed run does again."""
        super().on_train_epoch_end(trainer, pl_module)
        if trainer.is_global_zero:
            steps = last_epochs(self.folder)
            done = [step for step in steps if step <= trainer.global_step]
            for step in steps.keys() - set(done[-self.count :]):
                steps[step].unlink()


def last_epochs(folder: Path) -> dict[int, Path]:
    """The files of `LastEpochs` in a folder, by their steps, the earliest first."""
    found = {path.stem.removeprefix("step_"): path for path in folder.glob("step_*.ckpt")}
    return {int(step): found[step] for step in sorted(filter(str.isdecimal, found), key=int)}


def checkpoint_callbacks(
    folder: Path, monitor: str, every_n_steps: int | None, keep_last: int | None = None
) -> list[Callback]:
    """Callbacks that save `best.ckpt` (by the monitored metric) and `last.ckpt` after each validation.

    Args:
        folder: Where checkpoints are saved.
        monitor: Name of a logged metric; larger is better.
        every_n_steps: Also save `last.ckpt` every n steps within an epoch.
        keep_last: Also keep those of the last n epochs, as `step_<step>.ckpt`.
    """
    common: _Common = {"dirpath": folder, "enable_version_counter": False}
    callbacks: list[Callback] = [
        EpochCheckpoint(filename="best", monitor=monitor, mode="max", save_on_train_epoch_end=True, **common),
        EpochCheckpoint(filename="last", every_n_epochs=1, save_on_train_epoch_end=True, **common),
    ]
    if every_n_steps:
        # First, so that the checkpoint after the epoch overwrites one of the same step.
        callbacks.insert(0, StepCheckpoint(filename="last", every_n_train_steps=every_n_steps, **common))
    if keep_last:
        callbacks.append(LastEpochs(folder, keep_last))
    return callbacks
