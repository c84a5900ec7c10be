"""Search for hyper-parameters: what the command `tune` calls. Optuna proposes and stores; every trial is a run."""

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mnv2vision.common import processes
from mnv2vision.common.atomic import write_text
from mnv2vision.common.interruption import Interrupted
from mnv2vision.config.compose import load_config
from mnv2vision.config.schema import Train, Tune
from mnv2vision.config.space import Dimension, check_space, parse_space
from mnv2vision.engine.run_folder import check_unused, choose_folder, claimed
from mnv2vision.engine.search_results import STATES, shown, write_best, write_results
from mnv2vision.engine.trial import REASON, SECONDS, TimeIsUp, arguments_of, run_trial
from mnv2vision.errors import ConfigError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

log = logging.getLogger(__name__)

_FIRST_TRIALS = 5
"""Trials before results count: those before are drawn at random, and none ends early."""
_KEPT = "arguments.json"
_SPENT, _MONITOR = "seconds", "monitor"
_LIMITS = ("tune.trials", "tune.time")
"""What may change when a search goes on."""


def tune(own: Sequence[str], arguments: Sequence[str]) -> Path:
    """Search, or go on with a search.

    Args:
        own: Arguments of the command's own keys.
        arguments: Of all trials, as `train` takes them.

    Returns:
        The recipe with the best values.

    Raises:
        ConfigError: For what cannot work, before anything starts; and if no trial came to its end.
        DataError: For data that the first trial cannot begin with.
    """
    given = load_config(Tune, own)
    if given.resume:
        own, arguments = _kept(given.resume, own, arguments)
    config = load_config(Tune, own)
    space = parse_space(config.tune.space)
    base = load_config(Train, arguments)
    if base.trainer.devices not in ("auto", 1) or base.trainer.num_nodes != 1 or processes.started_outside():
        raise ConfigError("tune runs its trials one after another in one process: give trainer.devices=1")
    if base.debug or base.run_dir or base.resume:
        raise ConfigError("tune takes no debug=, and each trial has a folder of its own")
    arguments = ["trainer.devices=1", *arguments] if base.trainer.devices == "auto" else list(arguments)
    start = check_space(space, arguments)
    run_dir = Path(given.resume) if given.resume else choose_folder(replace(base, run_dir=config.run_dir), "tune")
    with claimed(run_dir), _telling_how_to_go_on(run_dir):
        _keep(run_dir, own, arguments)
        return _Search(config, space, base, arguments, run_dir).run(start)


class _Search:
    """A search in its folder."""

    def __init__(
        self, config: Tune, space: Sequence[Dimension], base: Train, arguments: Sequence[str], run_dir: Path
    ) -> None:
        self.limits, self.space, self.arguments, self.run_dir = config.tune, space, arguments, run_dir
        self.seed, epochs = base.seed, base.trainer.max_epochs
        self.distributions = {dimension.key: _distribution(dimension) for dimension in space}
        import optuna
        from optuna.pruners import MedianPruner

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = optuna.create_study(
            storage=f"sqlite:///{run_dir / 'search.db'}",
            study_name="search",
            direction="maximize",
            # Ranks begin to mean something after some epochs.
            pruner=MedianPruner(n_startup_trials=_FIRST_TRIALS, n_warmup_steps=max(1, epochs // 4)),
            load_if_exists=True,
        )
        self.spent = float(self.study.user_attrs.get(_SPENT, 0.0))  # before an interruption
        self.began = time.monotonic()
        if (every := base.trainer.check_val_every_n_epoch) is None or every >= epochs > 0:
            log.warning(
                "trials are validated at their end only; for some to end early: trainer.check_val_every_n_epoch=1"
            )

    @property
    def seconds(self) -> float:
        """How long the search has taken, over all its processes."""
        return self.spent + time.monotonic() - self.began

    def run(self, start: Mapping[str, float | str]) -> Path:
        """Try until the trials or the time are used up; `start` are the recipe's own values."""
        study = self.study
        if not study.trials and len(start) == len(self.space):
            study.enqueue_trial(dict(start))
        elif not study.trials:
            missing = [dimension.key for dimension in self.space if dimension.key not in start]
            log.info("the recipe's own values are not tried: the space is without that of %s", ", ".join(missing))
        log.info(
            "%s: %d trials, to go on after an interruption: resume=%s", self.run_dir, self.limits.trials, self.run_dir
        )
        while (trial := self._next()) is not None:
            folder = self.run_dir / "trials" / f"{trial.number:03d}"
            log.info("trial %d, of 0 to %d: %s", trial.number, self.limits.trials - 1, shown(trial, self.space))
            typed = [*self.arguments, *arguments_of(self.space, trial)]
            deadline = self.began + (self.limits.time or float("inf")) - self.spent
            try:
                monitor = run_trial(study, trial, typed, folder, deadline)
            except TimeIsUp:
                log.info("trial %d was stopped: tune.time is over", trial.number)
                break
            finally:
                study.set_user_attr(_SPENT, self.seconds)
            if monitor:
                study.set_user_attr(_MONITOR, monitor)
            self._tell(study.trials[trial.number])
            write_results(study, self.space, self.run_dir, picture=False)
        return self._end()

    def _next(self) -> "FrozenTrial | None":
        """A trial that was interrupted, or a new one, if there is still time."""
        from optuna.samplers import TPESampler

        study, trials = self.study, [trial for trial in self.study.trials if trial.state.name in STATES]
        if interrupted := [trial for trial in trials if trial.state.name == "RUNNING"]:
            return interrupted[0]
        if (number := len(trials)) >= self.limits.trials:
            return None
        left = (self.limits.time or float("inf")) - self.seconds
        complete = [trial.user_attrs.get(SECONDS, 0.0) for trial in trials if trial.state.name == "COMPLETE"]
        if left < min(complete, default=0.0) or left <= 0:
            log.info("no other trial would come to its end within tune.time")
            return None
        # A function of the seed and the trial, so that a search that goes on proposes what it would have proposed.
        seed = int(np.random.SeedSequence((self.seed, number)).generate_state(1)[0])
        study.sampler = TPESampler(n_startup_trials=_FIRST_TRIALS, seed=seed)
        asked = study.ask(self.distributions)  # before the list of trials is read
        return study.trials[asked.number]

    def _tell(self, trial: "FrozenTrial") -> None:
        if trial.state.name == "FAIL":
            log.warning("trial %d failed: %s", trial.number, trial.user_attrs[REASON])
        elif trial.state.name == "PRUNED":
            epoch = max(trial.intermediate_values)
            log.info(
                "trial %d ended early, after epoch %d: %.4f", trial.number, epoch, trial.intermediate_values[epoch]
            )
        else:
            best = self.study.best_trial
            log.info(
                "trial %d: %.4f; the best is %.4f, of trial %d", trial.number, trial.value, best.value, best.number
            )

    def _end(self) -> Path:
        counts = write_results(self.study, self.space, self.run_dir, picture=True)
        told = ", ".join(f"{count} {state}" for state, count in counts.items())
        if not counts.get("complete"):
            reasons = [trial.user_attrs[REASON] for trial in self.study.trials if REASON in trial.user_attrs]
            why = f"the last failed: {reasons[-1]}" if reasons else "give more tune.time"
            raise ConfigError(f"no trial came to its end ({told}); {why}; go on with resume={self.run_dir}")
        best = self.study.best_trial
        path = write_best(self.study, self.space, self.run_dir)
        log.info("%d trials in %.0f s: %s", sum(counts.values()), self.seconds, told)
        monitor = self.study.user_attrs[_MONITOR]
        log.info(
            "best: trial %d, %s %.4f: %s  (recipe=%s)", best.number, monitor, best.value, shown(best, self.space), path
        )
        return path


def _distribution(dimension: Dimension) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    low, high = dimension.limits
    if dimension.choices:
        return CategoricalDistribution(dimension.choices)
    if dimension.kind == "int":
        return IntDistribution(int(low), int(high))
    return FloatDistribution(low, high, log=dimension.kind == "log")


def _keep(run_dir: Path, own: Sequence[str], arguments: Sequence[str]) -> None:
    """Write what the search was told, or compare it with what the folder's was told."""
    told = {
        "tune": [item for item in own if item.partition("=")[0] not in ("run_dir", "resume")],
        "train": [*arguments],
    }
    path = run_dir / _KEPT
    if path.exists():
        was = json.loads(path.read_text(encoding="utf-8"))
        if _without_limits(was) != _without_limits(told):
            typed = " ".join([*was["tune"], *was["train"]])
            raise ConfigError(f"run_dir={run_dir} holds another search, of {typed}; give another folder")
    else:
        check_unused(run_dir)
    write_text(path, json.dumps(told, indent=2) + "\n")


def _without_limits(told: Mapping[str, Sequence[str]]) -> list[str]:
    return [item for part in told.values() for item in part if item.partition("=")[0] not in _LIMITS]


def _kept(folder: str, own: Sequence[str], arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments of a search that goes on, with new limits behind them."""
    if not (Path(folder) / _KEPT).is_file():
        raise ConfigError(f"resume={folder}: no folder of a search")
    limits = [item for item in own if item.partition("=")[0] in _LIMITS]
    if others := [item for item in [*own, *arguments] if item not in limits and item != f"resume={folder}"]:
        raise ConfigError(f"{others[0]} cannot change a search that goes on; only {' and '.join(_LIMITS)} can")
    told = json.loads((Path(folder) / _KEPT).read_text(encoding="utf-8"))
    return [*told["tune"], *limits], told["train"]


@contextmanager
def _telling_how_to_go_on(run_dir: Path) -> Iterator[None]:
    """Add to a signal how to go on with the search, in place of how to go on with the trial."""
    try:
        yield
    except Interrupted as interruption:
        interruption.advice = f": go on with resume={run_dir}"
        raise
