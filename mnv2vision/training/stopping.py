"""Stopping on a signal: save a checkpoint after the step, then exit."""

from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.utilities.types import STEP_OUTPUT

from mnv2vision.common import interruption
from mnv2vision.common.interruption import Interrupted


class StopWhenTold(Checkpoint):
    """Saves and stops after the step in which any process received a signal.

    A Checkpoint callback, as Lightning calls these last: the checkpoint includes what other callbacks do in the step.
    """

    def __init__(self, path: Path) -> None:
        """Remember where to save.

        Args:
            path: The checkpoint to write.
        """
        self.path = path

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hold signals: there is something to save from here on."""
        interruption.hold()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: STEP_OUTPUT, batch: object, batch_idx: int
    ) -> None:
        """Save after an optimiser step, unless the epoch's own checkpoint follows; see StepCheckpoint."""
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        ends = trainer.should_stop or trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if stepped and not ends and (signum := self._told(trainer)):
            trainer.save_checkpoint(self.path)
            raise Interrupted(signum)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Finish validation before stopping: without its result the epoch would be lost."""
        if trainer.state.fn == "fit":
            interruption.hold("stopping after this validation; press Ctrl-C again to stop now")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hold signals as before."""
        if trainer.state.fn == "fit":
            interruption.hold()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop on a signal from the end of the last epoch, which has been saved."""
        if signum := self._told(trainer):
            raise Interrupted(signum)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop after the last epoch, which has been saved; later signals stop at once."""
        interruption.release()
        if signum := self._told(trainer):
            raise Interrupted(signum)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Release signals: nothing will be saved any more."""
        interruption.release()

    @staticmethod
    def _told(trainer: pl.Trainer) -> int:
        signum = interruption.noted()
        if trainer.world_size == 1:
            return signum
        return int(trainer.strategy.reduce(torch.tensor(signum, device=trainer.strategy.root_device), reduce_op="max"))
