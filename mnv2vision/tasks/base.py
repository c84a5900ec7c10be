"""What training is for every task: normalisation on the device, optimiser and schedule, exact evaluation."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric

from mnv2vision.common.distributed import gather
from mnv2vision.common.html import Section
from mnv2vision.contracts import ClassFigures, HeadTraining, Raw, Recommended
from mnv2vision.data.batch import Batch, sample_seed
from mnv2vision.errors import ConfigError, DataError
from mnv2vision.models.shared_pass import shared_pass
from mnv2vision.models.vision_model import VisionModel
from mnv2vision.tasks.objective import Objective
from mnv2vision.tasks.options import Part, TrainingOptions
from mnv2vision.tasks.teachers import Teacher
from mnv2vision.training.balance import cosine_names
from mnv2vision.training.optim import WARMUP_SHARE, build_optimizer, group_rate, schedule, warmup_steps
from mnv2vision.training.quantization import FakeQuantization

log = logging.getLogger(__name__)

COSINES_EVERY = 50
"""Steps from one comparison of the heads' gradients to the next."""
LOSSES_AT_ONCE = 50
"""Steps after which a GPU is asked whether its losses are finite."""


class Task(pl.LightningModule):
    """A model in training or evaluation, with any number of heads."""

    def __init__(
        self,
        model: VisionModel,
        heads: Mapping[str, HeadTraining] | Sequence[Part],
        options: TrainingOptions | None = None,
        teachers: Mapping[str, Teacher] | None = None,
    ) -> None:
        """Set up training or evaluation.

        Args:
            model: The model.
            heads: Objective, evaluator and reports of each of its heads; or the data sets of a mixture, each with
                those of the heads that it serves.
            options: See `TrainingOptions`; only evaluation is possible without.
            teachers: Of heads.
        """
        super().__init__()
        self.options = options or TrainingOptions()
        self.model = model
        self.parts = [Part("", heads)] if isinstance(heads, Mapping) else list(heads)
        self.objective = Objective(model, self.parts, self.options, teachers)
        self.heads, self.balance, self.adapters = (
            self.objective.heads,
            self.objective.balance,
            self.objective.adapters,
        )
        self._optimizer: dict[str, Any] = dict(self.options.optimizer)
        self._reference: int | None = self._optimizer.pop("reference_batch", None)
        self._schedule: dict[str, Any] = dict(self.options.schedule)
        if self.options.channels_last:
            self.model.to(memory_format=torch.channels_last)
        model.backbone.freeze(self.options.freeze)
        # To look for NaN would mean to wait for the device.
        self.epoch_means = nn.ModuleDict({name: MeanMetric(nan_strategy="disable") for name in self._mean_names()})
        self.quantization = FakeQuantization(model, model.preprocessing.image_size) if self.options.quantize else None
        self._compiled: Callable[[Tensor], Raw] | None = None
        self.metrics: dict[str, float] = {}
        self._remarked: set[str] = set()
        self._labelled: dict[str, Tensor | int] = {}
        self._taught: dict[str, bool] = {}
        self._losses: list[tuple[Tensor, list[int | str]]] = []
        self._resumed_pace: dict[str, float] | None = None

    @property
    def monitor(self) -> str:
        """The metric that decides which epoch is best; the larger the better."""
        return "monitor" if self._several else next(iter(self.heads.values())).monitor

    @property
    def _several(self) -> bool:
        return len(self.model.heads) > 1 or sum(part.measured for part in self.parts) > 1

    def _measured(self) -> Iterator[tuple[str, str, HeadTraining]]:
        """What is evaluated: the head's name, what stands before its metrics, and it."""
        for part in (part for part in self.parts if part.measured):
            for name, head in part.heads.items():
                places = [name] if len(self.model.heads) > 1 else []
                places += [part.name] if sum(name in other.heads for other in self.parts) > 1 else []
                yield name, "".join(f"{place}/" for place in places), head

    def draw_batch(self, batch: Batch) -> list[NDArray[np.uint8]]:
        """Pictures (H, W, 3) of a training batch with its targets."""
        return [
            picture
            for name, head in self.heads.items()
            for picture in head.draw_batch(self.objective.seen(name, batch))
        ]

    def remember(self) -> None:
        """Keep in the model what the last evaluation found best for prediction, of heads measured on one data set."""
        found: dict[str, list[HeadTraining]] = {}
        for name, _, head in self._measured():
            found.setdefault(name, []).append(head)
        heads = {}
        for name, config in self.model.config.heads.items():
            measured = found.get(name, [])
            kept = measured[0].recommended() if len(measured) == 1 else Recommended()
            heads[name] = replace(config, **kept._asdict())
        self.model.config = replace(self.model.config, heads=heads)

    def write_report(self, folder: Path) -> None:
        """Write tables and pictures of the last evaluation; of several heads in a folder each."""
        for _, place, head in self._measured():
            (folder / place).mkdir(parents=True, exist_ok=True)
            head.write_report(folder / place)

    def class_figures(self) -> Iterator[tuple[str, ClassFigures]]:
        """Of each head that was evaluated what stands before its metrics, and the figures of its classes."""
        for _, place, head in self._measured():
            yield place, head.evaluator.class_figures()

    def reports(self, folder: Path) -> Iterator[tuple[str, list[Section], list[str]]]:
        """Of each head that was evaluated its name, what a report tells of it, and what to try next."""
        for name, place, head in self._measured():
            yield place.strip("/") or name, head.sections(folder / place), head.advice()

    def forward(self, images: Tensor) -> Raw | dict[str, Raw]:
        """The model's raw output; compiled in training, rounded as in int8, where asked for."""
        if self.quantization is not None:
            rounded: Raw | dict[str, Raw] = self.quantization(self.model, images)
            return rounded
        network = self._compiled if self.training and self._compiled is not None else self.model
        raw: Raw | dict[str, Raw] = network(images)
        return raw

    def on_fit_start(self) -> None:
        """Compile here: averaged copies of the model are made before and need not be compiled."""
        if self.options.compile:
            # Not as an attribute: a compiled module would be a submodule with parameters of its own.
            self.__dict__["_compiled"] = torch.compile(self.model)

    def on_train_epoch_start(self) -> None:
        """Start the mean loss anew; not called where an epoch is resumed in its middle."""
        for loss in self.epoch_means.values():
            loss.reset()  # type: ignore[operator]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss; what is drawn in a step depends on the seed, the epoch, the batch and the process alone."""
        torch.manual_seed(sample_seed(self.options.seed, self.current_epoch, batch_idx, self.global_rank))
        compare = batch_idx % COSINES_EVERY == 0
        found = self.objective(self, batch, compare)
        loss: Tensor = found.total
        self._losses.append((loss.detach(), batch.image_ids))
        if self.device.type == "cpu" or len(self._losses) >= LOSSES_AT_ONCE:
            self._check_losses()
        self.log("step_loss", loss.detach(), prog_bar=True)
        count = len(batch.image_ids)
        for name, labelled in found.labelled.items():
            self._labelled[name] = self._labelled.get(name, 0) + labelled
        for name, taught in found.taught.items():
            self._taught[name] = self._taught.get(name, False) or taught
        for name, value in found.parts.items():
            self.log(f"step_{name}", value.detach())
        means = {"loss": loss, **{f"{name}/loss": value for name, value in found.heads.items()}, **found.cosines}
        for name, metric in self.epoch_means.items():
            assert isinstance(metric, MeanMetric)
            if (told := name.replace(":", "/")) in means:  # gradients are compared now and then
                metric.update(means[told].detach(), count)
            self.log(told, metric, on_step=False, on_epoch=True)
        return loss

    def _mean_names(self) -> list[str]:
        """Of the means over an epoch: of the loss, and of several heads their losses and the gradients' cosines."""
        if len(self.heads) == 1:
            return ["loss"]
        cosines = cosine_names(self.heads) if not self.options.compile else []
        return ["loss", *(f"{name}:loss" for name in self.heads), *(name.replace("/", ":") for name in cosines)]

    def on_train_epoch_end(self) -> None:
        """Look at the last losses, too, and say which heads had nothing to learn from, or nothing from a teacher."""
        self._check_losses()
        here = {name: float(count) for name, count in self._labelled.items()}, self._taught
        self._labelled, self._taught = {}, {}
        everywhere = gather(here)
        counts, taught = here
        for name in counts:
            if not sum(own[name] for own, _ in everywhere):
                log.warning(
                    "epoch %d: no image had labels for the head %s, which learned nothing", self.current_epoch + 1, name
                )
        for name in taught:
            if not any(own[name] for _, own in everywhere):
                self._remark(f"teachers.{name}: all images have labels for the head, so that its teacher is not asked")

    def _remark(self, remark: str) -> None:
        """Warn of something, once."""
        if remark not in self._remarked:
            log.warning(remark)
            self._remarked.add(remark)

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

    def on_save_checkpoint(self, checkpoint: MutableMapping[str, object]) -> None:
        """Keep what Lightning forgets: the mean loss so far, and what the optimiser's state belongs to."""
        self._check_losses()
        checkpoint["fixed_options"] = self.fixed_options
        checkpoint["pace"] = self._pace()
        # What the weights to start from decided, which need not be there when the run is resumed.
        checkpoint["model"] = self.model.config.to_dict()
        means = [(float(loss.mean_value), float(loss.weight)) for loss in self.epoch_means.values()]  # type: ignore[arg-type]
        checkpoint["epoch_losses"] = gather(means)

    def on_load_checkpoint(self, checkpoint: Mapping[str, object]) -> None:
        """Go on with the mean loss of an epoch that is resumed in its middle."""
        kept: Mapping[str, Any] = checkpoint
        self._resumed_pace = kept.get("pace")  # which checkpoints of 0.1.0's first days lack
        states = kept["epoch_losses"] if "epoch_losses" in kept else [[mean] for mean in kept["epoch_loss"]]  # 0.1.0
        if len(states) == self.trainer.world_size:
            for loss, (total, weight) in zip(self.epoch_means.values(), states[self.trainer.global_rank], strict=True):
                loss.mean_value = torch.tensor(total, device=self.device)
                loss.weight = torch.tensor(weight, device=self.device)

    @property
    def fixed_options(self) -> dict[str, object]:
        """The options that a resumed run cannot change, as the checkpoint's optimiser would overrule them."""
        optimizer = dict(self.options.optimizer)
        if not optimizer.get("layer_rates"):  # which earlier checkpoints do not name
            optimizer.pop("layer_rates", None)
        return {
            "optimizer": optimizer,
            "freeze": self.options.freeze,
            "quantize": self.options.quantize,
            **({"loss.balance": self.options.balance} if len(self.heads) > 1 else {}),
            **({"distill.features": list(self.options.distillation.features)} if len(self.adapters) else {}),
        }

    def on_validation_epoch_start(self) -> None:
        """Start counting, with rank 0's batch norm statistics everywhere: they are the ones a checkpoint keeps."""
        for _, _, head in self._measured():
            head.start()
        if self.trainer.world_size > 1:
            for buffer in self.buffers():
                torch.distributed.broadcast(buffer, 0)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Predict in float32, whatever training uses, so that an evaluation repeats the figures of training."""
        with torch.autocast(self.device.type, enabled=False):
            images = self.model.preprocessing.normalize(batch.images)
            part = self.parts[int(batch.parts[0]) if batch.parts is not None and len(self.parts) > 1 else 0]
            networks = shared_pass(self, part.heads)
            for name, head in part.heads.items():
                head.evaluate(networks[name], images, batch)

    def on_validation_epoch_end(self) -> None:
        """Metrics over all processes; every process computes the same, so none waits for another to log."""
        self.metrics = {}
        main: dict[str, list[float]] = {}
        for name, place, head in self._measured():
            # COCO says -1 where nothing could be measured, which would pass for a figure.
            found = {key: math.nan if value == -1 else value for key, value in head.evaluator.compute().items()}
            self.metrics |= {f"{place}{key}": value for key, value in found.items()}
            main.setdefault(name, []).append(found[head.monitor])
            for remark in head.evaluator.remarks():
                self._remark(f"{place.strip('/')}: {remark}".removeprefix(": "))
        if self._several:
            self.metrics["monitor"] = self._monitored(main)
        self.log_dict(self.metrics)

    def _monitored(self, main: Mapping[str, Sequence[float]]) -> float:
        """The weighted mean of the heads' main metrics, of those that could be measured."""
        pairs = [
            (self.options.monitor.get(name, 1.0), value)
            for name, values in main.items()
            for value in [np.mean([value for value in values if math.isfinite(value)] or [math.nan])]
            if math.isfinite(value)
        ]
        total = sum(weight for weight, _ in pairs)
        return float(sum(weight * value for weight, value in pairs) / total) if total else math.nan

    def check_options(self) -> None:
        """Raise ConfigError for options that cannot work, before anything is written."""
        if self.options.quantize and self.options.compile:
            raise ConfigError("quantize=true: cannot be compiled; give compile=false")
        if self.options.balance == "gradient" and self.options.compile:
            raise ConfigError("loss.balance=gradient: looks at features, which compile=true hides; give compile=false")
        if self.options.distillation.features and self.options.compile:
            raise ConfigError("distill.features: looks at features, which compile=true hides; give compile=false")
        self.objective.check_teachers()
        build_optimizer(self.model, **self._optimizer)
        schedule(total_steps=1, steps_per_epoch=1, **self._schedule)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimiser, with the learning rate for the global batch, and a schedule by steps."""
        trainer = self.trainer
        options = {**self._optimizer, "lr": self._learning_rate()}
        if self._reference is not None:
            log.info(
                "learning rate %.4g = %.4g x global batch %d / %d",
                options["lr"],
                self._optimizer["lr"],
                self.global_batch,
                self._reference,
            )
        # Lightning cannot clip the gradients of fused optimisers in mixed precision.
        optimizer = build_optimizer(self.model, **options, fused=not trainer.gradient_clip_val)
        if (learned := self.balance.log_variances) is not None:
            optimizer.add_param_group({"params": [learned], "weight_decay": 0.0})
        if len(self.adapters):
            optimizer.add_param_group({"params": list(self.adapters.parameters()), "weight_decay": 0.0})
        trainer.fit_loop.setup_data()  # the number of batches is not known before
        total = trainer.estimated_stepping_batches
        if self.options.max_steps >= 0:
            total = min(total, self.options.max_steps)
        if math.isinf(total):
            raise ConfigError("trainer.max_epochs and trainer.max_steps are both without a limit; set one of them")
        per_epoch = self._steps_per_epoch()
        wanted = self._schedule.get("warmup_epochs", 0.0)
        warmup = warmup_steps(wanted, int(total), per_epoch)
        if warmup < round(wanted * per_epoch):
            log.info(
                "warm-up: %d steps, %.0f %% of the run, instead of schedule.warmup_epochs=%g",
                warmup,
                100 * WARMUP_SHARE,
                wanted,
            )
        factor = schedule(total_steps=int(total), steps_per_epoch=per_epoch, **self._schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}

    @property
    def global_batch(self) -> int:
        """Images of an optimiser step, over all processes."""
        return self.options.batch_size * self.trainer.world_size * self.trainer.accumulate_grad_batches

    def _learning_rate(self) -> float:
        lr = float(self._optimizer["lr"])
        return lr if self._reference is None else lr * self.global_batch / self._reference

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
        groups = scheduler.optimizer.param_groups
        scheduler.base_lrs = [new["lr"] * group_rate(group) for group in groups]
        factor = scheduler.lr_lambdas[0](scheduler.last_epoch)
        scheduler._last_lr = [base * factor for base in scheduler.base_lrs]
        for group, base, rate in zip(groups, scheduler.base_lrs, scheduler._last_lr, strict=True):
            group["initial_lr"], group["lr"] = base, rate
        log.info(
            "resumed after %.4g epochs with a global batch of %d instead of %d: learning rate %.4g",
            epochs,
            new["global_batch"],
            old["global_batch"],
            new["lr"] * factor,
        )
