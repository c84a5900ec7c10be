"""Numbers that a run finds before it begins: the batch size that fits, the learning rate, the steps for a time.

Each is measured on a model and data of their own; the run then is the one that these numbers, typed, would give.
"""

import contextlib
import io
import logging
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.tuner.tuning import Tuner
from pytorch_lightning.utilities.types import STEP_OUTPUT
from torch.optim import Optimizer

from mnv2vision.common import machine
from mnv2vision.config.annotations import AUTO
from mnv2vision.config.schema import Train
from mnv2vision.config.sections import Trainer
from mnv2vision.data.loader import DataModule
from mnv2vision.engine.trainer import create_trainer, refused_options
from mnv2vision.errors import ConfigError
from mnv2vision.tasks.base import Task
from mnv2vision.training.callbacks import Averaging
from mnv2vision.training.optim import group_rate

log = logging.getLogger(__name__)

_SIZES = (8, 32)
"""Batch sizes whose memory is measured."""
_MEMORY_SHARE = 0.8
"""Of the memory there is; the rest is for reading processes, validation, and what is not measured."""
_LEAST_STEPS = 10
"""Steps that an epoch has at least, however much memory there is."""
_RANGE_STEPS = 100
_RATES = (1e-6, 10.0)
_TIME_SHARE = 0.95
"""Of the time asked for, that is planned."""
_FIRST_STEPS, _MEASURED_STEPS = 3, 10
"""Steps that are not measured, as much is set up in them; and those that are, at least."""
_VAL_BATCHES = 5
"""Batches of validation that are measured, at most."""
_MANY = 10**9


class Assemble(Protocol):
    """Makes the model with its objectives, and the data, as they are at the beginning of a run."""

    def __call__(self, config: Train) -> tuple[Task, DataModule]:
        """Make them anew."""
        ...


def undecided(config: Train) -> bool:
    """Whether a run has to find numbers of its own."""
    return AUTO in (config.loader.batch_size, config.optimizer.lr) or config.time is not None


def decide(config: Train, assemble: Assemble, began: float) -> Train:
    """Find the numbers that a configuration leaves open.

    Args:
        config: Of the command `train`.
        assemble: Makes what is measured.
        began: When the run began, by `time.monotonic`.

    Returns:
        The configuration with numbers in their places, and without `time`.

    Raises:
        ConfigError: Where that cannot be done.
    """
    if config.loader.batch_size == AUTO:
        config = _with_batch(config, _largest_batch(config, assemble))
    if config.optimizer.lr == AUTO:
        config = _with_rate(config, _best_rate(config, assemble))
    if config.time is not None:
        config = _fit_time(config, config.time, assemble, began)
    return config


def _with_batch(config: Train, size: int) -> Train:
    return replace(config, loader=replace(config.loader, batch_size=size))


def _with_rate(config: Train, rate: float) -> Train:
    return replace(config, optimizer=replace(config.optimizer, lr=rate))


def _averaging(config: Train) -> list[Callback]:
    return [Averaging(config.ema.decay)] if config.ema.decay else []


@contextmanager
def _probe(section: Trainer, callbacks: Sequence[Callback] = ()) -> Iterator[pl.Trainer]:
    """A Trainer for a few steps, in silence, whose files are removed."""
    package = logging.getLogger("mnv2vision")
    level = package.level
    with tempfile.TemporaryDirectory() as folder, refused_options():
        trainer = create_trainer(section, Path(folder), callbacks)
        if trainer.world_size > 1:
            raise ConfigError("auto and time= are measured by one process: give trainer.devices=1, or numbers")
        package.setLevel(logging.ERROR)
        try:
            yield trainer
        finally:
            package.setLevel(level)


# ---- batch size ----


def _largest_batch(config: Train, assemble: Assemble) -> int:
    """The batch size that fits, and of which an epoch still has some steps."""
    limits = replace(config.trainer, max_epochs=1, max_steps=-1, limit_train_batches=2, limit_val_batches=0)
    used: dict[int, int] = {}
    images, total = 0, 0
    for size in (_SIZES[0], *_SIZES):  # at first, much is set up that stays
        task, data = assemble(_with_rate(_with_batch(config, size), _RATES[0]))  # memory does not depend on the rate
        images = len(data.train_samples)
        with _probe(limits, _averaging(config)) as trainer:
            device = trainer.strategy.root_device
            total = _memory(device)
            _forget_peak(device)
            trainer.fit(task, data)
            used[size] = _peak(device)
        del task, data, trainer
    one = (used[_SIZES[1]] - used[_SIZES[0]]) / (_SIZES[1] - _SIZES[0])
    if one <= 0:
        raise ConfigError("loader.batch_size=auto: an image's memory could not be measured here; give a number")
    base = used[_SIZES[0]] - one * _SIZES[0]
    fit = int((_MEMORY_SHARE * total - base) / one)
    if fit < 1:
        raise ConfigError(f"loader.batch_size=auto: no image fits into {total / 1e9:.1f} GB; lower model.image_size")
    most = max(1, images // (_LEAST_STEPS * config.trainer.accumulate_grad_batches))
    log.info(
        "loader.batch_size=%d: %s (%.1f MB an image and %.2f GB besides, averaged model and optimiser among it;"
        " %d fit into %.0f %% of %.1f GB)",
        min(fit, most),
        "the largest that fits" if fit <= most else f"the largest of which an epoch has {_LEAST_STEPS} steps",
        one / 1e6,
        base / 1e9,
        fit,
        100 * _MEMORY_SHARE,
        total / 1e9,
    )
    return min(fit, most)


def _memory(device: torch.device) -> int:
    """Bytes that this process has or could get."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    found = machine.memory() if device.type == "cpu" else None
    if found is None:
        raise ConfigError(
            f"loader.batch_size=auto: memory can be measured on Linux and CUDA, not for {device.type} here"
        )
    return found


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        machine.forget_peak()


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else machine.peak_memory()


# ---- learning rate ----


def _best_rate(config: Train, assemble: Assemble) -> float:
    """The rate at which the loss falls fastest, by Lightning's range test; for `optimizer.reference_batch`.

    The rate rises from step to step; the test ends where the loss is four times the lowest. Source: Smith, Cyclical
    learning rates for training neural networks, 2017, section 3.3.
    """
    plan = replace(config.trainer, max_epochs=-1, max_steps=_RANGE_STEPS, check_val_every_n_epoch=_MANY)
    task, data = assemble(_with_rate(replace(config, trainer=plan), _RATES[0]))
    task.__dict__["_check_losses"] = task._losses.clear  # the loss is to become large
    task.__dict__["on_before_optimizer_step"] = _apply_layer_rates  # the test's schedule gives all groups one rate
    with _probe(plan) as trainer, contextlib.redirect_stderr(io.StringIO()):  # Lightning's bar
        found = Tuner(trainer).lr_find(
            task, datamodule=data, min_lr=_RATES[0], max_lr=_RATES[1], num_training=_RANGE_STEPS, update_attr=False
        )
        rate = None if found is None else found.suggestion()
        batch = task.global_batch
    if rate is None or not math.isfinite(rate):
        raise ConfigError("optimizer.lr=auto: the loss was not finite at any rate; give a number")
    reference = config.optimizer.reference_batch
    own = float(f"{rate * (reference / batch if reference else 1):.2g}")
    log.info(
        "optimizer.lr=%g: the loss falls fastest there, of rates from %g to %g%s",
        own,
        *_RATES,
        f" ({rate:.2g} at the batch of {batch})" if reference not in (None, batch) else "",
    )
    return own


def _apply_layer_rates(optimizer: Optimizer) -> None:
    for group in optimizer.param_groups:
        group["lr"] *= group_rate(group)


# ---- time ----


class _Clock(Callback):
    """Measures steps and batches of validation, and ends the probe when it has enough."""

    def __init__(self, least: float) -> None:
        """Set how long to measure.

        Args:
            least: Seconds of steps.
        """
        self.least = least
        self.train: list[float] = []
        self.val: list[float] = []
        self.batches_of_epoch = 0
        self._last = time.monotonic()

    def _lap(self, module: pl.LightningModule) -> float:
        if module.device.type == "cuda":
            torch.cuda.synchronize(module.device)
        before, self._last = self._last, time.monotonic()
        return self._last - before

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: STEP_OUTPUT, batch: object, batch_idx: int
    ) -> None:
        """Note the time since the last one, in which this one was waited for as well."""
        self.batches_of_epoch = int(trainer.num_training_batches)
        self.train.append(self._lap(pl_module))
        measured = self.train[_FIRST_STEPS:]
        trainer.should_stop = len(measured) >= _MEASURED_STEPS and sum(measured) >= self.least

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start measuring a validation."""
        self._lap(pl_module)
        self.val = []

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: STEP_OUTPUT,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Note the time."""
        self.val.append(self._lap(pl_module))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the validation out of the next step."""
        self._lap(pl_module)


def steps_within(seconds: float, step: float, validation: float, every: int) -> int:
    """How many steps there is time for.

    Args:
        seconds: For all.
        step: Seconds of one.
        validation: Seconds of one; one more comes after the last step, and one at the end of the run.
        every: Steps from one validation to the next.
    """
    return max(0, int((seconds - 2 * validation) / (step + validation / every)))


def _fit_time(config: Train, seconds: float, assemble: Assemble, began: float) -> Train:
    """As many steps as fit, with the run's validations and the evaluation at its end."""
    section = config.trainer
    task, data = assemble(config)
    val_batches = -(-len(data.val_samples) // config.loader.size)
    if (limit := section.limit_val_batches) is not None:
        val_batches = min(val_batches, limit) if isinstance(limit, int) else int(val_batches * limit)
    plan = replace(
        section,
        max_epochs=_MANY,
        max_steps=-1,
        check_val_every_n_epoch=1,
        limit_val_batches=min(val_batches, _VAL_BATCHES),
    )
    clock = _Clock(min(10.0, seconds / 20))
    with _probe(plan, [*_averaging(config), clock]) as trainer:
        trainer.fit(task, data)
    step = float(np.mean(clock.train[_FIRST_STEPS:])) * section.accumulate_grad_batches
    validation = float(np.mean(clock.val[1:] or clock.val or [0.0])) * val_batches  # the first one sets much up
    per_epoch = -(-clock.batches_of_epoch // section.accumulate_grad_batches)
    left = _TIME_SHARE * seconds - (time.monotonic() - began)
    every = per_epoch * (section.check_val_every_n_epoch or 1)
    if (steps := steps_within(left, step, validation, every)) < 1:
        raise ConfigError(
            f"time={seconds:.0f}s: too short for a step of {step:.2g} s, two validations of {validation:.2g} s and the"
            f" {time.monotonic() - began:.0f} s before them"
        )
    log.info(
        "time=%.0fs: trainer.max_steps=%d, %.1f epochs, by %.3g s a step and %.3g s a validation",
        seconds,
        steps,
        steps / per_epoch,
        step,
        validation,
    )
    return replace(config, time=None, trainer=replace(section, max_steps=steps, max_epochs=-(-steps // per_epoch)))
