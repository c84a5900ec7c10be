"""How long the whole of a training run will still take."""

import math
import time

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.types import STEP_OUTPUT


class TimeLeft(Callback):
    """Measures batches and validations of this process's part of a run, to say what the rest of it will take.

    Must come before the callbacks that ask it, see `time_left`.
    """

    def __init__(self, max_steps: int = -1) -> None:
        """Remember the end that Lightning does not know.

        Args:
            max_steps: See `StopAtStep`; -1 without.
        """
        self.max_steps = max_steps
        self._batches = self._validations = self._done = 0
        self._training = self._validating = 0.0
        self._validated = -1
        self._last = time.perf_counter()

    def _since_last(self) -> float:
        last, self._last = self._last, time.perf_counter()
        return self._last - last

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock; what was done before a run was resumed does not count."""
        self._last = time.perf_counter()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Nothing of the epoch is done."""
        self._done = 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: STEP_OUTPUT, batch: object, batch_idx: int
    ) -> None:
        """Measure a batch, with all that came before it but validations."""
        self._training += self._since_last()
        self._batches += 1
        self._done = batch_idx + 1

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember that this epoch has its validation."""
        self._validated = trainer.current_epoch

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure a validation."""
        self._validating += self._since_last()
        self._validations += 1

    def seconds(self, trainer: pl.Trainer) -> float | None:
        """Of the rest of the run, without the validation that goes on now; None as long as nobody knows.

        Early stopping may end it sooner.

        Args:
            trainer: Of the run.
        """
        if not self._batches:
            return None
        epoch, ends = int(trainer.num_training_batches), list[int]()
        if trainer.max_epochs is not None and trainer.max_epochs >= 0:
            ends.append((trainer.max_epochs - trainer.current_epoch) * epoch - self._done)
        if self.max_steps >= 0:
            size = trainer.accumulate_grad_batches
            steps = math.ceil(epoch / size)  # of an epoch, whose last one may be short
            done = steps if self._done == epoch else self._done // size
            epochs, rest = divmod(done + self.max_steps - trainer.global_step, steps)
            ends.append(epochs * epoch + rest * size - self._done)
        if not ends:
            return None
        left = 0 if trainer.should_stop else max(0, min(ends))
        validation = self._training / self._batches * sum(trainer.num_val_batches)  # a guess, before the first
        if self._validations:
            validation = self._validating / self._validations
        # One more comes after the last epoch: that of the best weights.
        return left * self._training / self._batches + (self._epochs_to_validate(trainer, left) + 1) * validation

    def _epochs_to_validate(self, trainer: pl.Trainer, left: int) -> int:
        """How many of this epoch and the later ones will be validated, with so many batches left: the last always."""
        first = trainer.current_epoch + (self._validated == trainer.current_epoch)
        end = trainer.current_epoch + math.ceil((self._done + left) / int(trainer.num_training_batches))
        every = trainer.check_val_every_n_epoch or 1
        return end // every - first // every + bool(end % every) if end > first else 0


def time_left(trainer: pl.Trainer) -> float | None:
    """Seconds left of a run; None as long as nobody knows.

    Args:
        trainer: Whose callbacks have a `TimeLeft`.
    """
    found = next((callback for callback in trainer.callbacks if isinstance(callback, TimeLeft)), None)  # type: ignore[attr-defined]
    return None if found is None else found.seconds(trainer)
