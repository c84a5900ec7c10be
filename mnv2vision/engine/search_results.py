"""What a search leaves: a table of its trials, a picture, and the best one as a recipe."""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from mnv2vision.common import draw
from mnv2vision.common.atomic import atomic_path, write_text
from mnv2vision.config.commands import GROUPS, SECTIONS
from mnv2vision.config.compose import load_config
from mnv2vision.config.named import named_parts
from mnv2vision.config.options import values
from mnv2vision.config.schema import Train
from mnv2vision.config.space import Dimension
from mnv2vision.engine.trial import REASON, SECONDS

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "stopped"}
"""Optuna's states of trials that have begun, in the words of the table."""
_OF_ONE_RUN = ("recipe", "run_dir", "resume")


def shown(trial: "FrozenTrial", space: Sequence[Dimension]) -> str:
    """The values of a trial, for people."""
    found = ((dimension.key, trial.params[dimension.key]) for dimension in space)
    return ", ".join(f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in found)


def write_results(study: "Study", space: Sequence[Dimension], run_dir: Path, *, picture: bool) -> Mapping[str, int]:
    """Write `trials.csv`, a row a trial.

    Args:
        study: The search.
        space: What was searched.
        run_dir: The search's folder.
        picture: Whether to draw `search.png` as well, if anything was measured.

    Returns:
        How many trials there are of each state.
    """
    trials = [trial for trial in study.trials if trial.state.name in STATES]
    keys = [dimension.key for dimension in space]
    monitor = study.user_attrs.get("monitor", "value")
    with atomic_path(run_dir / "trials.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", "state", monitor, "epochs", "seconds", *keys, "reason"])
        for trial in trials:
            seconds = trial.user_attrs.get(SECONDS)
            told = [STATES[trial.state.name], _value(trial), max(trial.intermediate_values, default=0)]
            writer.writerow(
                [
                    trial.number,
                    *told,
                    None if seconds is None else round(seconds),
                    *map(trial.params.get, keys),
                    _reason(trial),
                ]
            )
    points = [
        (trial.params, value, STATES[trial.state.name]) for trial in trials if (value := _value(trial)) is not None
    ]
    if picture and points:
        logarithmic = [dimension.key for dimension in space if dimension.kind == "log"]
        draw.search(points, keys, logarithmic, monitor, run_dir / "search.png")
    return Counter(STATES[trial.state.name] for trial in trials)


def _value(trial: "FrozenTrial") -> float | None:
    """Of the best weights of a complete trial, else the last that was reported."""
    if trial.state.name == "COMPLETE":
        return trial.value
    return trial.intermediate_values[max(trial.intermediate_values)] if trial.intermediate_values else None


def _reason(trial: "FrozenTrial") -> str:
    return str(trial.user_attrs.get(REASON, ""))


def write_best(study: "Study", space: Sequence[Dimension], run_dir: Path) -> Path:
    """Write the best trial as `best.yaml`, which `recipe=` takes: its difference to the defaults.

    Args:
        study: The search, with a trial that is complete.
        space: What was searched.
        run_dir: The search's folder.
    """
    best, path = study.best_trial, run_dir / "best.yaml"
    folder = run_dir / "trials" / f"{best.number:03d}"
    config = load_config(Train, [f"resume={folder / 'checkpoints/last.ckpt'}"])  # as it was decided on
    choice = {
        group: getattr(config, group)["name"] if group in SECTIONS else getattr(config, group) for group in GROUPS
    }
    if named_parts(config.data.more):  # in the place of the data set
        del choice["dataset"]
    defaults = values(load_config(Train, ["recipe=null", *(f"{group}={name}" for group, name in choice.items())]))
    told = _difference(values(config), defaults)
    told = {key: value for key, value in told.items() if key not in (*_OF_ONE_RUN, "task")}
    recipe = {"defaults": [{f"override /{group}": name} for group, name in choice.items()], **told}
    monitor = study.user_attrs["monitor"]
    ended = sum(trial.state.name in ("COMPLETE", "PRUNED") for trial in study.trials)
    lines = [
        "# @package _global_",
        f"# The best of {ended} trials that were searched for {monitor}: {shown(best, space)}.",
        f"#   mnv2vision train recipe={path}",
        f"# Measured: {monitor} {best.value:.4f} in trial {best.number}, the best of all, so chance has a part in it:",
        "# another seed tells more.",
    ]
    write_text(path, "\n".join(lines) + "\n" + OmegaConf.to_yaml(recipe))
    return path


def _difference(config: Mapping[str, object], defaults: Mapping[str, object]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in config.items():
        was = defaults.get(key)
        if isinstance(value, dict) and isinstance(was, dict):
            if inner := _difference(value, was):
                found[key] = inner
        elif key not in defaults or value != was:
            found[key] = value
    return found
