"""What happens around the steps: checkpoints, history, progress."""

import csv
import logging
import time
from itertools import compress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint, RichProgressBar, WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from mnv2vision.atomic import atomic_path

log = logging.getLogger(__name__)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are whole or not there, whenever the process is killed."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write to a temporary name in the same folder, then rename."""
        with atomic_path(Path(path)) as temporary:
            torch.save(checkpoint, temporary)


class EpochCheckpoint(ModelCheckpoint):
    """A checkpoint that remembers its best score when the run's folder has moved."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the scores over to where the file is now; Lightning would start anew, and a worse one become best."""

        def moved(path: str) -> str:
            return str(Path(str(self.dirpath)) / Path(path).name) if path else path

        if not all(Path(moved(path)).is_file() for path in state_dict["best_k_models"]):
            return  # resumed into another folder: the best is the best of what is there
        paths = {key: moved(state_dict[key]) for key in ("best_model_path", "kth_best_model_path", "last_model_path")}
        best = {moved(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **paths, "best_k_models": best, "dirpath": self.dirpath})


class StepCheckpoint(EpochCheckpoint):
    """`last.ckpt` every so many steps; the epoch's last step is left to the checkpoint after validation."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save after an optimiser step: amid accumulated batches the gradients would be lost.

        Nor where validation is about to run: a checkpoint between the two would lose its result.
        """
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        ends = trainer.should_stop or trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if stepped and not ends:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


class Averaging(WeightAveraging):
    """Exponential moving average of weights and statistics, which is evaluated and kept; after every step."""

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Make the average where the model is going to be: Lightning moves that after this."""
        if stage == "fit":
            self._average_model = _Average(pl_module, self.decay, trainer.strategy.root_device)


class _Average(AveragedModel):
    """Torch's own waits for the device in every step; Lightning's EMA rounds frozen weights and truncates counters."""

    def __init__(self, model: nn.Module, decay: float, device: torch.device) -> None:
        super().__init__(model, device, use_buffers=True)
        self.decay = decay
        self.n_averaged = torch.tensor(0)  # on the CPU, as each step asks for it

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take over the first step's values, then move towards them; counters are copied."""
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
    """trainer.max_steps: the run's last epoch is a short one, with validation and checkpoints.

    Lightning's own max_steps omits the validation, and with it a run resumed between two epochs skips one.
    """

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A resumed run may be at its end."""
        trainer.should_stop |= trainer.global_step >= self.max_steps

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Stop behind the last step."""
        trainer.should_stop |= trainer.global_step >= self.max_steps


class ValidateLast(Callback):
    """Validation of a run's last epoch, whatever `check_val_every_n_epoch` says: its weights are often the best."""

    def __init__(self, every: int | None) -> None:
        """Remember the rule of the other epochs.

        Args:
            every: Lightning's `check_val_every_n_epoch`.
        """
        self.every = every

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Resumed in its middle, an epoch does not start."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell the last epoch by the number of epochs."""
        is_last = trainer.current_epoch + 1 == trainer.max_epochs
        trainer.check_val_every_n_epoch = 1 if is_last else self.every

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Tell it by what stops the run; to be called after that."""
        if trainer.should_stop:
            trainer.check_val_every_n_epoch = 1


class StopEarly(EarlyStopping):
    """Early stopping that a resumed run goes on with."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the count, but let the configuration say how many are too many."""
        super().load_state_dict({**state_dict, "patience": self.patience})

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop at once where the run was killed between its last checkpoint and its end."""
        trainer.should_stop |= self.wait_count >= self.patience

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say why training ends."""
        if self.wait_count >= self.patience:
            log.info("stopped: %d validations without a better %s", self.wait_count, self.monitor)


def checkpoint_callbacks(folder: Path, monitor: str, every_n_steps: int | None) -> list[Callback]:
    """`best.ckpt` by the monitored metric and `last.ckpt`, both after each validation.

    Args:
        folder: Where they go.
        monitor: Name of a logged metric; the larger the better.
        every_n_steps: Write `last.ckpt` so often within an epoch as well.
    """
    common: dict[str, Any] = {"dirpath": folder, "enable_version_counter": False}
    callbacks: list[Callback] = [
        EpochCheckpoint(filename="best", monitor=monitor, mode="max", save_on_train_epoch_end=True, **common),
        EpochCheckpoint(filename="last", every_n_epochs=1, save_on_train_epoch_end=True, **common),
    ]
    if every_n_steps:
        # First, so that of two checkpoints at one moment the one after the epoch stands.
        callbacks.insert(0, StepCheckpoint(filename="last", every_n_train_steps=every_n_steps, **common))
    return callbacks


class Throughput:
    """Images per second of the steps so far in this epoch, over all processes, waiting for data included."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin to count."""
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
    """`metrics.csv`: a row an epoch. The rows are part of the checkpoints, so a resumed run continues them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = []
        self.throughput = Throughput()
        self._rate = 0.0
        self._validated = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to time an epoch that is resumed in its middle."""
        self.throughput.start()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to time the epoch."""
        self.throughput.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the images."""
        self.throughput.add(len(batch.image_ids) * trainer.world_size)
        self._rate = self.throughput.rate  # here, as validation is not to count

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that there are new results."""
        self._validated = trainer.current_epoch

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the epoch's row and say it in a line."""
        # Without validation in this epoch, Lightning still shows the results of an earlier one.
        old = set() if self._validated == trainer.current_epoch else set(getattr(pl_module, "metrics", ()))
        logged = sorted(trainer.callback_metrics.items())
        metrics = {name: float(value) for name, value in logged if not name.startswith("step_") and name not in old}
        row = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step, **metrics}
        self.rows = [entry for entry in self.rows if entry["epoch"] < row["epoch"]] + [row]
        if not trainer.is_global_zero:
            return
        total = f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""
        values = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        log.info("epoch %d%s  %s  %.0f images/s", row["epoch"], total, values, self._rate)
        names = list(dict.fromkeys(name for entry in self.rows for name in entry))
        with atomic_path(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.rows)

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the rows of the run that is resumed."""
        self.rows = state_dict["rows"]


class PlainProgress(Callback):
    """A line every ten seconds, for logs and pipes."""

    def __init__(self, seconds: float = 10.0) -> None:
        self.seconds = seconds
        self.throughput = Throughput()
        self._start()

    def _start(self) -> None:
        self.throughput.start()
        self._last = time.perf_counter()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to time an epoch that is resumed in its middle."""
        self._start()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to time the epoch."""
        self._start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Say where the run is."""
        self.throughput.add(len(batch.image_ids) * trainer.world_size)
        now = time.perf_counter()
        if not trainer.is_global_zero or now - self._last < self.seconds:
            return
        self._last = now
        steps = int(trainer.num_training_batches)
        left = (steps - batch_idx - 1) * len(batch.image_ids) * trainer.world_size / self.throughput.rate
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        log.info(
            "epoch %d  step %d/%d  loss %.4g  %.0f images/s  %.0f s left in the epoch",
            trainer.current_epoch + 1,
            batch_idx + 1,
            steps,
            float(loss) if isinstance(loss, Tensor) else float("nan"),
            self.throughput.rate,
            left,
        )


class ProgressBar(RichProgressBar):
    """Lightning's rich bar, with images per second."""

    def __init__(self) -> None:
        super().__init__(leave=False)
        self.throughput = Throughput()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to time an epoch that is resumed in its middle."""
        self.throughput.start()
        super().on_train_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to time the epoch."""
        self.throughput.start()
        super().on_train_epoch_start(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the images."""
        self.throughput.add(len(batch.image_ids) * trainer.world_size)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """What stands beside the bar."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return {**metrics, "images/s": round(self.throughput.rate)}
