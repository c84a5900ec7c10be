"""Callbacks: averaging, stopping, history, progress."""

import csv
import logging
import time
from collections.abc import Sequence
from itertools import compress
from pathlib import Path
from typing import Protocol, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, RichProgressBar, WeightAveraging
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.types import STEP_OUTPUT
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from mnv2vision.common.atomic import atomic_path
from mnv2vision.common.progress import EVERY, duration
from mnv2vision.training.time_left import time_left

log = logging.getLogger(__name__)


class _Images(Protocol):
    """A batch, as far as counting its images needs it."""

    @property
    def image_ids(self) -> Sequence[object]: ...


class Averaging(WeightAveraging):
    """Exponential moving average of weights and statistics, updated every step; it is what is evaluated and saved."""

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Create the average on the final device: Lightning moves the model after this hook."""
        if stage == "fit":
            self._average_model = _Average(pl_module, self.decay, trainer.strategy.root_device)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluate the average while training; after it, the weights that were chosen, which are in the module."""
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_validation_epoch_start(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on with the weights that are trained."""
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_validation_epoch_end(trainer, pl_module)


class _Average(AveragedModel):
    """Torch's own synchronises with the device every step; Lightning's rounds frozen weights, truncates counters."""

    def __init__(self, model: nn.Module, decay: float, device: torch.device) -> None:
        super().__init__(model, device, use_buffers=True)
        self.decay = decay
        self.n_averaged = torch.tensor(0)  # on the CPU, as it is read every step

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Copy the values of the first step, later average them; counters are always copied."""
        averages, current = ([*module.parameters(), *module.buffers()] for module in (self.module, model))
        started = bool(self.n_averaged)
        moved = [average.is_floating_point() and started for average in averages]
        copied = [not is_moved for is_moved in moved]
        if any(moved):
            torch._foreach_lerp_(list(compress(averages, moved)), list(compress(current, moved)), 1 - self.decay)
        if any(copied):
            torch._foreach_copy_(list(compress(averages, copied)), list(compress(current, copied)))
        self.n_averaged += 1


class StopAtStep(Callback):
    """trainer.max_steps: ends the run with a short epoch that has validation and checkpoints.

    Lightning's own max_steps skips that validation, and makes a run resumed between two epochs skip an epoch.
    """

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop a resumed run that has reached its end."""
        trainer.should_stop |= trainer.global_step >= self.max_steps

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: STEP_OUTPUT, batch: object, batch_idx: int
    ) -> None:
        """Stop after the last step."""
        trainer.should_stop |= trainer.global_step >= self.max_steps


class ValidateLast(Callback):
    """Validates the last epoch whatever `check_val_every_n_epoch` says: its weights are often the best."""

    def __init__(self, every: int | None) -> None:
        """Remember the interval of the other epochs.

        Args:
            every: Lightning's `check_val_every_n_epoch`.
        """
        self.every = every

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Handle an epoch resumed in the middle, which has no start."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Detect the last epoch by the number of epochs."""
        is_last = trainer.current_epoch + 1 == trainer.max_epochs
        trainer.check_val_every_n_epoch = 1 if is_last else self.every

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: STEP_OUTPUT, batch: object, batch_idx: int
    ) -> None:
        """Detect it by another callback's decision to stop; must come after that callback."""
        if trainer.should_stop:
            trainer.check_val_every_n_epoch = 1


class StopEarly(EarlyStopping):
    """Early stopping that survives resuming."""

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """Restore the count, but not the patience, which the configuration sets."""
        super().load_state_dict({**state_dict, "patience": self.patience})

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop at once if the run was killed between its last checkpoint and its end."""
        trainer.should_stop |= self.wait_count >= self.patience

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log why training ends."""
        if self.wait_count >= self.patience:
            log.info("stopped early: %s has not improved for %d validations", self.monitor, self.wait_count)


class Throughput:
    """Images per second in this epoch so far, over all processes, including waiting for data."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start counting."""
        self.images = 0
        self._since = time.perf_counter()

    def add(self, images: int) -> None:
        """Count a batch."""
        self.images += images

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.images / max(1e-9, time.perf_counter() - self._since)


class History(Callback):
    """`metrics.csv`: a row per epoch. Checkpoints contain the rows, so a resumed run continues them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = []
        self.throughput = Throughput()
        self._rate = 0.0
        self._validated = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start timing an epoch resumed in the middle."""
        self.throughput.start()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start timing the epoch."""
        self.throughput.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: STEP_OUTPUT, batch: _Images, batch_idx: int
    ) -> None:
        """Count the images."""
        self.throughput.add(len(batch.image_ids) * trainer.world_size)
        self._rate = self.throughput.rate  # here, so that validation does not count

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember that this epoch was validated."""
        self._validated = trainer.current_epoch

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the epoch's row, and log it."""
        # Without validation in this epoch, Lightning still reports the results of an earlier one.
        old = set() if self._validated == trainer.current_epoch else set(getattr(pl_module, "metrics", ()))
        logged = sorted(trainer.callback_metrics.items())
        metrics = {name: float(value) for name, value in logged if not name.startswith("step_") and name not in old}
        row = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step, **metrics}
        self.rows = [entry for entry in self.rows if entry["epoch"] < row["epoch"]] + [row]
        if not trainer.is_global_zero:
            return
        total = f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""
        values = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        left = "" if (seconds := time_left(trainer)) is None else f"  {duration(seconds)} left"
        log.info("epoch %d%s  %s  %.0f images/s%s", row["epoch"], total, values, self._rate, left)
        names = list(dict.fromkeys(name for entry in self.rows for name in entry))
        with atomic_path(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.rows)

    def state_dict(self) -> dict[str, object]:
        """The rows so far."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """Restore the rows of a resumed run."""
        self.rows = cast(list[dict[str, float]], state_dict["rows"])


class PlainProgress(Callback):
    """A progress line every ten seconds, for logs and pipes, of training and of validation."""

    def __init__(self, seconds: float = EVERY) -> None:
        self.seconds = seconds
        self.throughput = Throughput()
        self._images = 0
        self._told = False
        self._start()

    def _start(self) -> None:
        self.throughput.start()
        self._last = time.perf_counter()

    def _is_due(self, trainer: pl.Trainer) -> bool:
        now = time.perf_counter()
        if not trainer.is_global_zero or now - self._last < self.seconds:
            return False
        self._last = now
        return True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start timing an epoch resumed in the middle."""
        self._start()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start timing the epoch."""
        self._start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: STEP_OUTPUT, batch: _Images, batch_idx: int
    ) -> None:
        """Log the progress."""
        self.throughput.add(len(batch.image_ids) * trainer.world_size)
        if not self._is_due(trainer):
            return
        steps = int(trainer.num_training_batches)
        left = (steps - batch_idx - 1) * len(batch.image_ids) * trainer.world_size / self.throughput.rate
        in_all = time_left(trainer)
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        log.info(
            "epoch %d  step %d/%d  loss %.4g  %.0f images/s  %s left in this epoch%s",
            trainer.current_epoch + 1,
            batch_idx + 1,
            steps,
            float(loss) if isinstance(loss, Tensor) else float("nan"),
            self.throughput.rate,
            duration(left if in_all is None else min(left, in_all)),  # an epoch's first batch waits for its data
            "" if in_all is None else f", {duration(in_all)} in all",
        )

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start timing the validation."""
        self._start()
        self._images, self._told = 0, False

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: STEP_OUTPUT,
        batch: _Images,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Log the progress of a long validation."""
        count = len(batch.image_ids) * trainer.world_size
        self.throughput.add(count)
        batches = int(sum(trainer.num_val_batches))
        if batch_idx == 0:
            self._images = count * batches  # the last batch may be smaller
            if samples := getattr(trainer.datamodule, "val_samples", None):  # type: ignore[attr-defined]
                self._images = min(self._images, len(samples))
        if batch_idx + 1 == batches or not self._is_due(trainer):
            return
        self._told = True
        done = self.throughput.images
        left = max(0, self._images - done) / self.throughput.rate
        after = time_left(trainer) if trainer.state.fn == TrainerFn.FITTING else None
        log.info(
            "validation: %d of %d images  %.0f images/s  %s left%s",
            done,
            self._images,
            self.throughput.rate,
            duration(left),
            "" if after is None else f", {duration(left + after)} in all",
        )

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say what a long validation goes on with, in silence."""
        if self._told:
            log.info("validation: %d images seen, computing the figures", self._images)


class ProgressBar(RichProgressBar):
    """Lightning's rich bar, with images per second and the time left of the whole run."""

    def __init__(self) -> None:
        super().__init__(leave=False)
        self.throughput = Throughput()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start timing an epoch resumed in the middle."""
        self.throughput.start()
        super().on_train_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start timing the epoch."""
        self.throughput.start()
        super().on_train_epoch_start(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: STEP_OUTPUT, batch: _Images, batch_idx: int
    ) -> None:
        """Count the images."""
        self.throughput.add(len(batch.image_ids) * trainer.world_size)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """The figures beside the bar."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        metrics["images/s"] = round(self.throughput.rate)
        if (left := time_left(trainer)) is not None:
            metrics["in all"] = f"{duration(left)} left"
        return metrics
