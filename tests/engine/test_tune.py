"""Searches: what is proposed, ended early, counted and left behind; with runs that only report, and with real ones."""

import csv
import json
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from mnv2vision.cli.main import main
from mnv2vision.common.interruption import Interrupted
from mnv2vision.config.compose import load_config
from mnv2vision.config.named import named_parts
from mnv2vision.config.options import values
from mnv2vision.config.schema import Train
from mnv2vision.engine.evaluate import write_config
from mnv2vision.engine.trial import Report
from mnv2vision.errors import DataError

pytest.importorskip("optuna")
pytestmark = pytest.mark.slow

Start = Callable[..., "subprocess.Popen[str]"]
SPACE = "tune.space=optimizer.lr=log(1e-4,1)"


class FakeRuns:
    """In the place of training: reports a score that grows from epoch to epoch, best at a rate of 0.02."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.stop_at = -1
        self.diverge_above = 1e9
        self.late = False

    def __call__(self, config: Train, callbacks: Sequence[Any]) -> dict[str, float]:
        (report,) = callbacks
        rate = float(config.optimizer.lr)
        self.rates.append(rate)
        score = 1 / (1 + abs(torch.tensor(rate / 0.02).log10().item()))
        trainer = SimpleNamespace(state=SimpleNamespace(fn="fit"), current_epoch=0, callback_metrics={})
        report.on_fit_start(trainer, SimpleNamespace(monitor="top1"))
        report.on_train_start(trainer, None)
        folder = Path(str(config.run_dir))
        write_config(config, folder)
        for epoch in range(config.trainer.max_epochs):
            trainer.current_epoch = epoch
            report.on_train_epoch_start(trainer, None)
            report.deadline = -1 if self.late else report.deadline
            report.on_train_batch_end(trainer, None, None, None, 0)
            if rate > self.diverge_above:
                raise DataError("the loss became nan")
            if len(self.rates) == self.stop_at and epoch == 2:
                raise Interrupted(signal.SIGTERM)
            trainer.callback_metrics = {"top1": torch.tensor(score * (epoch + 1))}
            report.on_validation_end(trainer, None)
            report.on_train_epoch_end(trainer, None)
            (folder / "checkpoints").mkdir(exist_ok=True)
            (folder / "checkpoints/last.ckpt").touch()
        return {"top1": score * config.trainer.max_epochs}


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> FakeRuns:
    fake = FakeRuns()
    monkeypatch.setattr("mnv2vision.engine.trial.train", fake)
    return fake


def table(folder: Path) -> list[dict[str, str]]:
    """`trials.csv` without the seconds."""
    with (folder / "trials.csv").open() as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def test_a_search(runs: FakeRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search = tmp_path / "search"
    runs.diverge_above = 0.5
    assert main(["tune", SPACE, "tune.trials=14", "trainer.max_epochs=8", f"run_dir={search}"]) == 0
    rows = table(search)
    assert [int(row["trial"]) for row in rows] == list(range(14))
    assert [float(row["optimizer.lr"]) for row in rows] == runs.rates
    assert runs.rates[0] == 0.002  # the recipe's
    assert all(1e-4 <= rate <= 1 for rate in runs.rates)
    states = [row["state"] for row in rows]
    assert {"complete", "pruned", "failed"} == set(states)
    for row in rows:
        assert (row["state"] == "failed") == (float(row["optimizer.lr"]) > 0.5)
        assert row["reason"] == ("the loss became nan" if row["state"] == "failed" else "")
    # By hand: which trials are worse, after an epoch, than the median of those that went on to the end before them.
    for place, row in enumerate(rows):
        before = [float(other["top1"]) / 8 for other in rows[:place] if other["state"] == "complete"]
        if row["state"] == "pruned":
            assert int(row["epochs"]) < 8
            assert float(row["top1"]) / int(row["epochs"]) < median(before)
    best = max((row for row in rows if row["state"] == "complete"), key=lambda row: float(row["top1"]))
    said = capsys.readouterr().err
    assert f"best: trial {best['trial']}, top1" in said
    assert f"{states.count('failed')} failed" in said
    with Image.open(search / "search.png") as picture:
        assert picture.width > picture.height

    found, trial = load_config(Train, [f"recipe={search / 'best.yaml'}"]), search / f"trials/{int(best['trial']):03d}"
    ran = load_config(Train, [f"resume={trial / 'checkpoints/last.ckpt'}"])
    assert float(best["optimizer.lr"]) == found.optimizer.lr == ran.optimizer.lr
    own = ("recipe", "run_dir", "resume")
    kept, was = ({key: value for key, value in values(config).items() if key not in own} for config in (found, ran))
    assert kept == was


def test_an_interrupted_search_proposes_what_it_would_have(
    runs: FakeRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["tune", SPACE, "trainer.max_epochs=4", "seed=3"]
    assert main([*arguments, "tune.trials=8", f"run_dir={tmp_path / 'whole'}"]) == 0
    whole, runs.rates = runs.rates, []
    runs.stop_at, search = 7, tmp_path / "search"  # the seventh: the sixth ends early, before the signal
    assert main([*arguments, "tune.trials=4", f"run_dir={search}"]) == 0
    assert main([*arguments, "tune.trials=8", f"run_dir={search}"]) == 143  # the same command, and more trials
    assert capsys.readouterr().err.splitlines()[-1] == f"interrupted (SIGTERM): go on with resume={search}"
    runs.stop_at = -1
    assert main(["tune", f"resume={search}"]) == 0
    assert runs.rates == [*whole[:7], whole[6], *whole[7:]]  # none that had finished is repeated
    assert table(search) == table(tmp_path / "whole")
    assert main(["tune", f"resume={search}", "tune.trials=9"]) == 0
    assert len(table(search)) == 9


def test_what_cannot_be_changed(runs: FakeRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search = tmp_path / "search"
    assert main(["tune", SPACE, "tune.trials=1", f"run_dir={search}"]) == 0
    capsys.readouterr()
    for arguments, told in (
        ([SPACE, f"run_dir={search}", "seed=1"], f"run_dir={search} holds another search, of {SPACE} tune.trials=1"),
        (
            [f"resume={search}", "seed=1"],
            "seed=1 cannot change a search that goes on; only tune.trials and tune.time can",
        ),
        ([f"resume={search}", SPACE], f"{SPACE} cannot change a search that goes on"),
        ([f"resume={tmp_path}"], f"resume={tmp_path}: no folder of a search"),
        ([f"resume={search}", "tune.trials=0"], "tune.trials=0: tune.trials takes a whole number in 1..1000000000"),
        ([SPACE, "tune.time=soon"], "tune.time=soon: tune.time takes a time above 0, such as 90s, 10m or 1h30m"),
        ([SPACE, "trainer.devices=2"], "tune runs its trials one after another in one process"),
        ([SPACE, "debug=batch"], "tune takes no debug="),
        ([SPACE, "tune.space=lr=log(1,2)"], "tune.space: unknown key lr"),
        (["sead=3", SPACE], "unknown key sead; did you mean seed?"),
        (["seed=3"], "tune.space=<what to search> is required"),
    ):
        assert main(["tune", *arguments]) == 2, arguments
        said = capsys.readouterr().err
        assert said.startswith(f"error: {told}"), said
        assert said.count("\n") == 1
    assert len(runs.rates) == 1


def test_time_is_up(runs: FakeRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The trial stays as it is, and the search goes on with it when there is more time."""
    search = tmp_path / "search"
    runs.late = True
    assert main(["tune", SPACE, "tune.trials=2", "tune.time=30m", f"run_dir={search}"]) == 2
    assert "no trial came to its end (1 stopped); give more tune.time; go on with resume=" in capsys.readouterr().err
    runs.late = False
    assert main(["tune", f"resume={search}", "tune.time=1h30m"]) == 0
    assert runs.rates[:2] == [0.002, 0.002]
    assert [row["state"] for row in table(search)] == ["complete", "complete"]
    assert json.loads((search / "arguments.json").read_text())["tune"][-1] == "tune.time=1h30m"


def test_time_is_up_in_validation(
    train: Callable[..., int],
    tiny: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It ends after a batch of three, in an epoch as in the evaluation at the end, and both are done again."""
    search, ended = tmp_path / "search", Report.on_validation_batch_end
    seen: list[tuple[str, int]] = []
    stop = ("fit", 0)

    def late(report: Report, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        seen.append((trainer.state.fn.value, batch_idx))
        report.deadline = -1 if seen[-1] == stop else report.deadline
        ended(report, trainer, module, outputs, batch, batch_idx)

    monkeypatch.setattr(Report, "on_validation_batch_end", late)
    own = ("trainer.max_epochs=1", SPACE, "tune.trials=1", "tune.time=30m", f"run_dir={search}")
    assert main(["tune", *tiny, *own]) == 2
    assert seen == [("fit", 0)]
    stop = ("validate", 1)
    assert main(["tune", f"resume={search}"]) == 2
    assert seen[1:] == [*(("fit", batch) for batch in range(3)), ("validate", 0), ("validate", 1)]
    assert "(1 stopped); give more tune.time" in capsys.readouterr().err
    stop = ("", 0)
    assert main(["tune", f"resume={search}"]) == 0
    assert seen[6:] == [("validate", batch) for batch in range(3)]
    assert [row["state"] for row in table(search)] == ["complete"]


@pytest.mark.parametrize("task", ["classification", "joint"])
def test_a_search_over_several_data_sets(runs: FakeRuns, tmp_path: Path, task: str) -> None:
    """Its best values are a recipe alone, as with the same data sets, or with one elsewhere."""
    search = tmp_path / "search"
    data = ["data.mine.dataset=imagenet", f"data.mine.root={tmp_path}", "data.more.dataset=shapes"]
    data += ["data.mine.heads=[classification]"] if task == "joint" else []
    assert main(["tune", f"task={task}", *data, SPACE, "tune.trials=2", f"run_dir={search}"]) == 0
    recipe = f"recipe={search / 'best.yaml'}"
    alone, same = load_config(Train, [recipe]), load_config(Train, [recipe, *data])
    assert alone == same
    assert alone.task == task
    assert alone.optimizer.lr in runs.rates
    parts = named_parts(alone.data.more)
    assert {name: part["dataset"] for name, part in parts.items()} == {"mine": "imagenet", "more": "shapes"}
    assert parts["mine"]["root"] == str(tmp_path)
    elsewhere = load_config(Train, [recipe, "data.mine.root=elsewhere"])
    assert named_parts(elsewhere.data.more)["mine"]["root"] == "elsewhere"


def test_time_between_two_processes_is_not_worked(
    runs: FakeRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search = tmp_path / "search"
    runs.stop_at = 1
    assert main(["tune", SPACE, "tune.trials=3", "tune.time=30m", "trainer.max_epochs=4", f"run_dir={search}"]) == 143
    with closing(sqlite3.connect(search / "search.db")) as storage, storage:
        storage.execute("UPDATE trials SET datetime_start = '2020-01-01 00:00:00.000000'")  # a night, and more
    runs.stop_at = -1
    assert main(["tune", f"resume={search}"]) == 0
    assert "no other trial" not in capsys.readouterr().err
    assert [row["state"] for row in table(search)] == ["complete"] * 3
    with (search / "trials.csv").open() as file:
        assert all(0 <= int(row["seconds"]) < 30 * 60 for row in csv.DictReader(file))


def test_data_that_cannot_be_used_end_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["dataset=imagenet", f"dataset.root={tmp_path}", "init_from=none", "trainer.accelerator=cpu"]
    assert main(["tune", *arguments, SPACE, f"run_dir={tmp_path / 'search'}"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("error: ")
    assert str(tmp_path) in said[-1]
    assert sum(line.startswith("trial ") for line in said) == 1


def test_killed(tmp_path: Path, tiny: tuple[str, ...], start: Start, patience: float) -> None:
    """kill -9 amid the second trial: the first is not repeated, the second goes on; all is as if nothing had been."""
    arguments = (*tiny, "trainer.max_epochs=4", "checkpoint.every_n_steps=1", SPACE, "tune.trials=3")
    search, whole = tmp_path / "search", tmp_path / "whole"
    process = start("tune", *arguments, f"run_dir={search}")
    deadline = time.monotonic() + patience
    while not (search / "trials/001/checkpoints/last.ckpt").exists():
        assert time.monotonic() < deadline, "waited in vain"
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.kill()
    process.wait()
    first = (search / "trials/000/model.safetensors").stat().st_mtime_ns
    for process in (start("tune", f"resume={search}"), start("tune", *arguments, f"run_dir={whole}")):
        _, error = process.communicate(timeout=patience)
        assert process.returncode == 0, error
    assert (search / "trials/000/model.safetensors").stat().st_mtime_ns == first
    assert table(search) == table(whole)
    for number in range(3):
        ours, theirs = (folder / f"trials/{number:03d}/model.safetensors" for folder in (search, whole))
        if theirs.exists():  # it was not ended early
            assert ours.read_bytes() == theirs.read_bytes()
    assert not list(search.rglob("*.partial"))
