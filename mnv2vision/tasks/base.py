"""What training is for every task: normalisation on the device, optimiser and schedule, exact evaluation."""

import logging
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric

from mnv2vision.data.batch import Batch, Transform, sample_seed
from mnv2vision.data.sample import SampleSource
from mnv2vision.distributed import gather
from mnv2vision.errors import ConfigError, DataError
from mnv2vision.preprocessing import Preprocessing
from mnv2vision.training.optim import WARMUP_SHARE, build_optimizer, schedule, warmup_steps
from mnv2vision.vision_model import VisionModel

log = logging.getLogger(__name__)

LOSSES_AT_ONCE = 50
"""Steps after which a GPU is asked whether its losses are finite."""


class Evaluator(Protocol):
    """Collects predictions; computes the metrics of a data set once, over all processes."""

    def compute(self) -> dict[str, float]:
        """Metrics over all images of all processes."""
        ...

    def reset(self) -> None:
        """Forget all images."""
        ...


@dataclass(frozen=True)
class TrainingOptions:
    """How to train.

    Attributes:
        optimizer: Arguments of `build_optimizer`, and `reference_batch`: the global batch `lr` is meant for (None:
            `lr` as it is).
        schedule: Arguments of `schedule`.
        freeze: How many blocks of the backbone stay as they are.
        batch_size: Per process, for the scaling of the learning rate.
        max_steps: Where the schedule ends, unless the epochs end before; -1: there.
        seed: Of dropout and whatever else is drawn in a step.
        channels_last: Memory format of weights and activations.
        compile: Whether to compile the training step's forward pass.
    """

    optimizer: Mapping[str, Any] = field(default_factory=dict)
    schedule: Mapping[str, Any] = field(default_factory=dict)
    freeze: int = 0
    batch_size: int = 1
    max_steps: int = -1
    seed: int = 0
    channels_last: bool = True
    compile: bool = False


class Task(pl.LightningModule):
    """A model in training or evaluation; subclasses add the loss, the evaluator's food and the reports."""

    monitor: str
    """The metric that decides which epoch is best; the larger the better."""
    target: ClassVar[str]
    """What it needs of each sample: "label", "boxes" or "mask"."""

    def __init__(self, model: VisionModel, evaluator: Evaluator, options: TrainingOptions | None = None) -> None:
        super().__init__()
        self.options = options or TrainingOptions()
        self.model = model
        self.evaluator = evaluator
        if self.options.channels_last:
            self.model.to(memory_format=torch.channels_last)
        model.backbone.freeze(self.options.freeze)
        self.epoch_loss = MeanMetric(nan_strategy="disable")  # to look for NaN would mean to wait for the device
        self._compiled: Callable[[Tensor], Any] | None = None
        self.metrics: dict[str, float] = {}
        self._losses: list[tuple[Tensor, list[int | str]]] = []
        self._resumed_pace: dict[str, float] | None = None

    @classmethod
    @abstractmethod
    def create(
        cls, model: Any, source: SampleSource, options: TrainingOptions | None, config: Mapping[str, Any]
    ) -> Self:
        """Set up training or evaluation.

        Args:
            model: Of the task.
            source: The validation samples.
            options: None for evaluation alone.
            config: The whole configuration; in evaluation it has no `loss` and `augmentation`.
        """

    @classmethod
    @abstractmethod
    def augmentation(cls, config: Mapping[str, Any], preprocessing: Preprocessing) -> Transform:
        """The training transform that the section `augmentation` of a configuration asks for."""

    @classmethod
    def adapt(cls, source: SampleSource, model: Any) -> SampleSource:
        """A data set as the model's evaluation needs it."""
        return source

    @abstractmethod
    def draw_batch(self, batch: Batch) -> list[NDArray[np.uint8]]:
        """Pictures (H, W, 3) of a training batch with its targets."""

    @abstractmethod
    def loss(self, images: Tensor, batch: Batch) -> Tensor:
        """The scalar loss of a batch with normalised images (N, 3, H, W)."""

    @abstractmethod
    def evaluate(self, images: Tensor, batch: Batch) -> None:
        """Predict and update the evaluator."""

    @abstractmethod
    def write_report(self, folder: Path) -> None:
        """Write tables and pictures of the last evaluation."""

    def forward(self, images: Tensor) -> Any:
        """The model's raw outputs; compiled in training where asked for."""
        return self._compiled(images) if self.training and self._compiled is not None else self.model(images)

    def on_fit_start(self) -> None:
        """Compile here: averaged copies of the model are made before and need not be compiled."""
        if self.options.compile:
            # Not as an attribute: a compiled module would be a submodule with parameters of its own.
            self.__dict__["_compiled"] = torch.compile(self.model)

    def on_train_epoch_start(self) -> None:
        """Start the mean loss anew; not called where an epoch is resumed in its middle."""
        self.epoch_loss.reset()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss; what is drawn in a step depends on the seed, the epoch, the batch and the process alone."""
        torch.manual_seed(sample_seed(self.options.seed, self.current_epoch, batch_idx, self.global_rank))
        loss = self.loss(self.model.preprocessing.normalize(batch.images), batch)
        self._losses.append((loss.detach(), batch.image_ids))
        if self.device.type == "cpu" or len(self._losses) >= LOSSES_AT_ONCE:
            self._check_losses()
        self.log("step_loss", loss.detach(), prog_bar=True)
        self.epoch_loss.update(loss.detach(), len(batch.image_ids))
        self.log("loss", self.epoch_loss, on_step=False, on_epoch=True)
        return loss

    def on_train_epoch_end(self) -> None:
        """Look at the last losses, too."""
        self._check_losses()

    # Many at once, so that a GPU is seldom waited for.
    def _check_losses(self) -> None:
        losses, self._losses = self._losses, []
        if not losses or bool(torch.stack([loss for loss, _ in losses]).isfinite().all()):
            return
        loss, image_ids = next((loss, image_ids) for loss, image_ids in losses if not torch.isfinite(loss))
        raise DataError(
            f"the loss became {loss.item()} in epoch {self.current_epoch}, on the batch of images"
            f" {', '.join(map(str, image_ids))}; look at their annotations, or lower optimizer.lr"
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what Lightning forgets: the mean loss so far, and what the optimiser's state belongs to."""
        self._check_losses()
        checkpoint["fixed_options"] = self.fixed_options
        checkpoint["pace"] = self._pace()
        # What the weights to start from decided, which need not be there when the run is resumed.
        checkpoint["model"] = {"config": self.model.config, "preprocessing": self.model.preprocessing.to_dict()}
        checkpoint["epoch_loss"] = gather((float(self.epoch_loss.mean_value), float(self.epoch_loss.weight)))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the mean loss of an epoch that is resumed in its middle."""
        self._resumed_pace = checkpoint.get("pace")  # which checkpoints of 0.1.0's first days lack
        states = checkpoint["epoch_loss"]
        if len(states) == self.trainer.world_size:
            total, weight = states[self.trainer.global_rank]
            self.epoch_loss.mean_value = torch.tensor(total, device=self.device)
            self.epoch_loss.weight = torch.tensor(weight, device=self.device)

    @property
    def fixed_options(self) -> dict[str, Any]:
        """The options that a resumed run cannot change, as the checkpoint's optimiser would overrule them."""
        return {"optimizer": dict(self.options.optimizer), "freeze": self.options.freeze}

    def on_validation_epoch_start(self) -> None:
        """Start counting, with rank 0's batch norm statistics everywhere: they are the ones a checkpoint keeps."""
        self.evaluator.reset()
        if self.trainer.world_size > 1:
            for buffer in self.buffers():
                torch.distributed.broadcast(buffer, 0)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Predict in float32, whatever training uses, so that an evaluation repeats the figures of training."""
        with torch.autocast(self.device.type, enabled=False):
            self.evaluate(self.model.preprocessing.normalize(batch.images), batch)

    def on_validation_epoch_end(self) -> None:
        """Metrics over all processes; every process computes the same, so none waits for another to log."""
        self.metrics = self.evaluator.compute()
        self.log_dict(self.metrics)

    def check_options(self) -> None:
        """Raise ConfigError for an optimiser or a schedule that cannot work, before anything is written."""
        options = {key: value for key, value in self.options.optimizer.items() if key != "reference_batch"}
        build_optimizer(self.model, **options)
        schedule(total_steps=1, steps_per_epoch=1, **self.options.schedule)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimiser, with the learning rate for the global batch, and a schedule by steps."""
        options = {key: value for key, value in self.options.optimizer.items() if key != "reference_batch"}
        trainer = self.trainer
        options["lr"] = self._learning_rate()
        if (reference := self.options.optimizer.get("reference_batch")) is not None:
            log.info(
                "learning rate %.4g = %.4g x global batch %d / %d",
                options["lr"],
                self.options.optimizer["lr"],
                self.global_batch,
                reference,
            )
        # Lightning cannot clip the gradients of fused optimisers in mixed precision.
        optimizer = build_optimizer(self.model, **options, fused=not trainer.gradient_clip_val)
        trainer.fit_loop.setup_data()  # the number of batches is not known before
        total = trainer.estimated_stepping_batches
        if self.options.max_steps >= 0:
            total = min(total, self.options.max_steps)
        if math.isinf(total):
            raise ConfigError("trainer.max_epochs and trainer.max_steps are both without a limit; set one of them")
        per_epoch = self._steps_per_epoch()
        wanted = self.options.schedule.get("warmup_epochs", 0.0)
        warmup = warmup_steps(wanted, int(total), per_epoch)
        if warmup < round(wanted * per_epoch):
            log.info(
                "warm-up: %d steps, %.0f %% of the run, instead of schedule.warmup_epochs=%g",
                warmup,
                100 * WARMUP_SHARE,
                wanted,
            )
        factor = schedule(total_steps=int(total), steps_per_epoch=per_epoch, **self.options.schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}

    @property
    def global_batch(self) -> int:
        """Images of an optimiser step, over all processes."""
        return self.options.batch_size * self.trainer.world_size * self.trainer.accumulate_grad_batches

    def _learning_rate(self) -> float:
        lr, reference = float(self.options.optimizer["lr"]), self.options.optimizer.get("reference_batch")
        return lr if reference is None else lr * self.global_batch / reference

    def _steps_per_epoch(self) -> int:
        batches = int(self.trainer.num_training_batches)
        return -(-batches // self.trainer.accumulate_grad_batches)  # the last one may be short

    def _pace(self) -> dict[str, float]:
        return {
            "steps_per_epoch": self._steps_per_epoch(),
            "global_batch": self.global_batch,
            "lr": self._learning_rate(),
        }

    def on_train_start(self) -> None:
        """Resumed with another global batch, go on at the same epoch of the schedule, at this batch's rate."""
        old, new = self._resumed_pace, self._pace()
        self._resumed_pace = None
        if old is None or old == new:
            return
        scheduler = self.lr_schedulers()
        assert isinstance(scheduler, LambdaLR)
        epochs = scheduler.last_epoch / old["steps_per_epoch"]
        scheduler.last_epoch = round(epochs * new["steps_per_epoch"])
        scheduler.base_lrs = [new["lr"] for _ in scheduler.base_lrs]
        rates = [new["lr"] * factor(scheduler.last_epoch) for factor in scheduler.lr_lambdas]
        for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
            group["initial_lr"], group["lr"] = new["lr"], rate
        scheduler._last_lr = list(rates)
        log.info(
            "resumed after %.4g epochs with a global batch of %d instead of %d: learning rate %.4g",
            epochs,
            new["global_batch"],
            old["global_batch"],
            rates[0],
        )


def find_classes(source: SampleSource, model: VisionModel) -> Sequence[int] | None:
    """Where a data set's labels are among a model's classes; None if they are the same.

    Raises:
        ConfigError: If the model does not know a class of the data set.
    """
    if tuple(source.names) == model.names or (not model.names and len(source.names) == model.num_classes):
        return None
    index = {name: label for label, name in enumerate(model.names)}
    unknown = [name for name in source.names if name not in index]
    if unknown:
        some = ", ".join(unknown[:5]) + (", …" if len(unknown) > 5 else "")
        common = [name for name in source.names if name in index]
        hint = f"train for them with init_from=<the weights>{', or restrict dataset.classes' if common else ''}"
        raise ConfigError(
            f"the model's {model.num_classes} classes do not include {len(unknown)} of the data set's"
            f" {len(source.names)}: {some}; {hint}"
        )
    return [index[name] for name in source.names]
