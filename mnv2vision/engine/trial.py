"""A trial of a search: a training run in a folder of its own that reports its validations, and may be ended early."""

import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.types import STEP_OUTPUT

from mnv2vision.config.compose import load_config
from mnv2vision.config.schema import Train
from mnv2vision.config.space import Dimension
from mnv2vision.engine.train import train
from mnv2vision.errors import ConfigError, DataError, SystemFault

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

log = logging.getLogger(__name__)

REASON = "reason"
"""Attribute of a trial that failed."""
SECONDS = "seconds"
"""Attribute of a trial: how long was worked on it; Optuna's own duration has the time between two processes in it."""


class TimeIsUp(Exception):  # noqa: N818  # a decision, no error
    """The search's time is over: the trial stays as it is, to go on with it."""


class Hopeless(Exception):  # noqa: N818  # likewise
    """The trial is so much worse than others that it ends early."""


class Report(Callback):
    """Tells a trial the monitored metric after each validation, and ends its run where it is told to."""

    def __init__(self, trial: "Trial", known: Sequence[int], worked: float, deadline: float) -> None:
        """Remember whom to tell.

        Args:
            trial: Of the search.
            known: Epochs that it was told of before it was interrupted.
            worked: Seconds that it took until then.
            deadline: By `time.monotonic`.
        """
        self.trial, self.known, self.deadline = trial, set(known), deadline
        self._began = time.monotonic() - worked
        self.started = False
        self.monitor = ""
        self._validated = self._hopeless = False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember what is monitored, also of a run that has nothing left to train but was not evaluated."""
        self.monitor = str(pl_module.monitor)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember that the data and the model were made."""
        self.started = True

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End a hopeless run here, where the last epoch has been saved."""
        if self._hopeless:
            raise Hopeless

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: STEP_OUTPUT, batch: object, batch_idx: int
    ) -> None:
        """Look at the clock."""
        self._look_at_clock()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: STEP_OUTPUT,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Look at the clock, in the evaluation at the end as well: the last checkpoint is from before it."""
        self._look_at_clock()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember that this epoch was validated."""
        self._validated = trainer.state.fn == "fit"

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the epoch's validation."""
        self.note_seconds()  # for the case that the process is killed
        epoch, value = trainer.current_epoch + 1, trainer.callback_metrics.get(self.monitor)
        if not self._validated or value is None or not math.isfinite(value):
            return
        self._validated = False
        if epoch not in self.known:
            self.trial.report(float(value), epoch)
        self._hopeless = self.trial.should_prune()

    def _look_at_clock(self) -> None:
        if time.monotonic() >= self.deadline:
            raise TimeIsUp

    def note_seconds(self) -> None:
        """Tell the trial how long was worked on it."""
        self.trial.set_user_attr(SECONDS, time.monotonic() - self._began)


def arguments_of(space: Sequence[Dimension], trial: "FrozenTrial") -> list[str]:
    """What `train` is told of the values of a trial."""
    return [dimension.typed(trial.params[dimension.key]) for dimension in space]


def run_trial(study: "Study", frozen: "FrozenTrial", arguments: Sequence[str], folder: Path, deadline: float) -> str:
    """Run a trial to its end, or go on with it, and tell the study.

    Args:
        study: The search.
        frozen: The trial as it is now.
        arguments: Of `train`.
        folder: Of the run.
        deadline: By `time.monotonic`.

    Returns:
        The name of what is monitored; empty if it came to no training.

    Raises:
        TimeIsUp: At the deadline, after a step or a batch of validation.
        DataError: For data that the search's first trial cannot begin with; likewise ConfigError.
    """
    from optuna.trial import Trial, TrialState

    trial = Trial(study, frozen._trial_id)  # which may be one that was interrupted
    report = Report(trial, list(frozen.intermediate_values), frozen.user_attrs.get(SECONDS, 0.0), deadline)
    last = folder / "checkpoints/last.ckpt"
    given = [f"resume={last}"] if last.exists() else [*arguments, f"run_dir={folder}"]
    state, value = TrialState.COMPLETE, math.nan
    try:
        metrics = train(load_config(Train, given), callbacks=[report])
        value = metrics[report.monitor]
        if not math.isfinite(value):
            raise DataError(f"{report.monitor} could not be measured")
    except Hopeless:
        state = TrialState.PRUNED
    except (ConfigError, DataError, SystemFault) as error:
        out_of_memory = isinstance(error, SystemFault) and str(error).startswith("out of memory")
        if (isinstance(error, SystemFault) and not out_of_memory) or (frozen.number == 0 and not report.started):
            raise
        state = TrialState.FAIL
        trial.set_user_attr(REASON, str(error))
    finally:
        report.note_seconds()
    study.tell(trial, value if state is TrialState.COMPLETE else None, state)
    return report.monitor
