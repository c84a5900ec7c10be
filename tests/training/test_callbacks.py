"""History, progress and throughput by themselves."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import nn

from mnv2vision.common.progress import duration
from mnv2vision.training import callbacks
from mnv2vision.training.callbacks import (
    Averaging,
    History,
    PlainProgress,
    ProgressBar,
    StopAtStep,
    StopEarly,
    Throughput,
)
from mnv2vision.training.time_left import TimeLeft, time_left


def fake_trainer(**values: Any) -> Any:
    defaults = {
        "current_epoch": 0,
        "global_step": 5,
        "world_size": 2,
        "max_epochs": 4,
        "is_global_zero": True,
        "num_training_batches": 10,
        "callback_metrics": {},
        "should_stop": False,
        "callbacks": [],
        "accumulate_grad_batches": 1,
        "check_val_every_n_epoch": 1,
        "num_val_batches": [4],
        "state": SimpleNamespace(fn="fit"),
        "datamodule": None,
    }
    return SimpleNamespace(**(defaults | values))


BATCH = SimpleNamespace(image_ids=list(range(8)))


def test_throughput(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    throughput = Throughput()
    throughput.add(30)
    now = 102.0
    throughput.add(10)
    assert throughput.rate == 20
    throughput.start()
    assert throughput.rate == 0


def test_history(tmp_path: Path) -> None:
    history = History(tmp_path / "metrics.csv")
    module: Any = SimpleNamespace(metrics={"top1": 0.5})
    metrics = {"loss": torch.tensor(2.0), "step_loss": torch.tensor(9.0), "top1": torch.tensor(0.5)}
    for epoch in range(2):
        trainer = fake_trainer(current_epoch=epoch, global_step=5 * epoch + 5, callback_metrics=metrics)
        history.on_train_start(trainer, module)
        history.on_train_epoch_start(trainer, module)
        history.on_train_batch_end(trainer, module, None, BATCH, 0)
        if epoch == 1:
            history.on_validation_end(trainer, module)
        history.on_train_epoch_end(trainer, module)
    # The first epoch was not validated: what Lightning still shows is of an earlier one.
    assert (tmp_path / "metrics.csv").read_text().split() == ["epoch,step,loss,top1", "1,5,2.0,", "2,10,2.0,0.5"]

    # A run resumed from an older checkpoint writes the later rows anew.
    resumed = History(tmp_path / "metrics.csv")
    resumed.load_state_dict(history.state_dict())
    resumed.on_train_epoch_end(fake_trainer(current_epoch=1, global_step=11), module)
    assert (tmp_path / "metrics.csv").read_text().split()[2:] == ["2,11,"]

    resumed.on_train_epoch_end(fake_trainer(current_epoch=2, is_global_zero=False), module)
    assert len((tmp_path / "metrics.csv").read_text().split()) == 3


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Its `now` is the time."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    return clock


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of the log."""
    lines: list[str] = []
    monkeypatch.setattr(callbacks.log, "info", lambda text, *values: lines.append(text % values))
    return lines


def test_plain_progress(clock: SimpleNamespace, lines: list[str]) -> None:
    progress, module = PlainProgress(seconds=10), SimpleNamespace()
    progress.on_train_start(fake_trainer(), module)  # type: ignore[arg-type]
    for step in range(7):
        clock.now += 2
        progress.on_train_batch_end(fake_trainer(), module, {"loss": torch.tensor(1.5)}, BATCH, step)  # type: ignore[arg-type]
    assert lines == ["epoch 1  step 5/10  loss 1.5  8 images/s  10 s left in this epoch"]
    clock.now += 20
    progress.on_train_batch_end(fake_trainer(is_global_zero=False), module, None, BATCH, 7)  # type: ignore[arg-type]
    assert len(lines) == 1


def test_progress_of_a_validation(clock: SimpleNamespace, lines: list[str]) -> None:
    progress = PlainProgress(seconds=10)
    module: Any = SimpleNamespace()

    def validation(seconds: float, trainer: Any) -> list[str]:
        lines.clear()
        progress.on_validation_start(trainer, module)
        for number in range(4):
            clock.now += seconds
            progress.on_validation_batch_end(trainer, module, None, BATCH, number)
        progress.on_validation_epoch_end(trainer, module)
        return list(lines)

    alone = {"world_size": 1, "state": SimpleNamespace(fn=TrainerFn.VALIDATING)}
    assert validation(1, fake_trainer(**alone)) == []
    samples = SimpleNamespace(val_samples=range(30))
    assert validation(8, fake_trainer(**alone, datamodule=samples)) == [
        "validation: 16 of 30 images  1 images/s  14 s left",
        "validation: 30 images seen, computing the figures",
    ]
    left = TimeLeft()
    trainer = fake_trainer(callbacks=[left], state=SimpleNamespace(fn=TrainerFn.FITTING))
    left.on_train_start(trainer, module)
    clock.now += 1
    left.on_train_batch_end(trainer, module, None, BATCH, 9)
    left.on_validation_start(trainer, module)
    # 16 s of this one, 30 s of training, and the validations of three epochs and of the best, each taken for 4 s.
    assert validation(8, trainer)[0] == "validation: 32 of 64 images  2 images/s  16 s left, 62 s in all"


def said(trainer: Any) -> str:
    return "" if (seconds := time_left(trainer)) is None else duration(seconds)


class Run:
    """A run by a clock: steps of 2 s and validations of 30 s; what it says is left after each."""

    def __init__(self, clock: SimpleNamespace, max_steps: int = -1, **values: Any) -> None:
        self.clock, self.left = clock, TimeLeft(max_steps)
        self.trainer = fake_trainer(callbacks=[self.left], global_step=0, **values)
        self.module: Any = SimpleNamespace()
        self.left.on_train_start(self.trainer, self.module)  # type: ignore[arg-type]

    def train(self, first: int = 0, last: int = 9) -> str:
        if first == 0:
            self.left.on_train_epoch_start(self.trainer, self.module)
        for index in range(first, last + 1):
            self.clock.now += 2
            accumulated = (index + 1) % self.trainer.accumulate_grad_batches == 0
            self.trainer.global_step += accumulated or index + 1 == self.trainer.num_training_batches
            self.left.on_train_batch_end(self.trainer, self.module, None, BATCH, index)
        return said(self.trainer)

    def validate(self) -> str:
        self.left.on_validation_start(self.trainer, self.module)
        self.clock.now += 30
        self.left.on_validation_end(self.trainer, self.module)
        return said(self.trainer)

    def next(self) -> None:
        self.trainer.current_epoch += 1


def test_time_left_by_epochs(clock: SimpleNamespace) -> None:
    run = Run(clock)
    assert said(run.trainer) == ""
    assert run.train(last=4) == f"{35 * 2 + 5 * 8} s"  # no validation yet: one is taken for four steps
    assert run.train(5) == f"{30 * 2 + 5 * 8} s"
    assert run.validate() == "3 min"  # 60 s of training, three validations, and one of the best weights
    for _ in range(3):
        run.next()
        run.train()
        left = run.validate()
    assert left == "30 s"


def test_time_left_with_few_validations(clock: SimpleNamespace) -> None:
    run = Run(clock, check_val_every_n_epoch=3, max_epochs=7)
    for epoch in range(7):
        run.train()
        left = run.validate() if epoch in (2, 5, 6) else said(run.trainer)
        if epoch == 2:
            assert left == "3 min"  # 80 s, after the sixth and the seventh epoch, and at the end: 170 s
        if epoch == 4:
            assert left == "2 min"  # 40 s and the same
        run.next()
    assert left == "30 s"


def test_time_left_by_steps(clock: SimpleNamespace) -> None:
    run = Run(clock, max_steps=25, max_epochs=-1)
    run.train()
    assert run.validate() == "2 min"  # 30 s, two validations, and the one at the end
    for last in (9, 4):
        run.next()
        run.train(last=last)
        run.trainer.should_stop = run.trainer.global_step == 25
        left = run.validate()
    assert left == "30 s"

    run = Run(clock, max_steps=8, max_epochs=-1, accumulate_grad_batches=3)  # 4 steps of each 10 batches
    run.train()
    assert run.validate() == "80 s"
    run.next()
    assert run.train(last=3) == "72 s"

    assert Run(clock, max_epochs=-1).train() == ""


def test_time_left_of_a_resumed_run(clock: SimpleNamespace) -> None:
    run = Run(clock, current_epoch=3)
    clock.now += 2
    assert run.train(8, 8) == f"{4 + 2 * 4 * 4} s"  # a batch that took four seconds
    run.train(9)
    assert run.validate() == "30 s"

    stopped = Run(clock, should_stop=True)
    stopped.train(last=0)
    assert stopped.validate() == "30 s"


def test_lines_tell_the_time_left_of_the_run(clock: SimpleNamespace, lines: list[str], tmp_path: Path) -> None:
    run, progress, history = Run(clock), PlainProgress(seconds=10), History(tmp_path / "metrics.csv")
    progress.on_train_start(run.trainer, run.module)
    history.on_train_start(run.trainer, run.module)
    run.train(last=4)
    progress.on_train_batch_end(run.trainer, run.module, None, BATCH, 4)
    history.on_train_batch_end(run.trainer, run.module, None, BATCH, 4)
    run.train(5)
    run.validate()
    history.on_train_epoch_end(run.trainer, run.module)
    assert lines[0].endswith("2 images/s  50 s left in this epoch, 110 s in all")
    assert lines[1].endswith("images/s  3 min left")


def test_progress_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    bar = ProgressBar()
    bar.throughput.images = 500
    monkeypatch.setattr(Throughput, "rate", 123.4)
    monkeypatch.setattr(
        "pytorch_lightning.callbacks.ProgressBar.get_metrics", lambda *args: {"v_num": 1, "step_loss": 2}
    )
    module: Any = SimpleNamespace()
    assert bar.get_metrics(fake_trainer(), module) == {"step_loss": 2, "images/s": 123}
    monkeypatch.setattr(callbacks, "time_left", lambda trainer: 125.0)
    assert bar.get_metrics(fake_trainer(), module)["in all"] == "2 min left"


def test_stopping() -> None:
    module: Any = SimpleNamespace()
    trainer = fake_trainer(global_step=4)
    callback = StopAtStep(5)
    callback.on_train_start(trainer, module)
    callback.on_train_batch_end(trainer, module, None, BATCH, 3)
    assert not trainer.should_stop
    trainer.global_step = 5
    callback.on_train_batch_end(trainer, module, None, BATCH, 4)
    assert trainer.should_stop

    early = StopEarly("top1", mode="max", patience=3)
    state = {**early.state_dict(), "wait_count": 2, "patience": 2}
    early.load_state_dict(state)
    trainer = fake_trainer()
    early.on_train_start(trainer, module)
    assert not trainer.should_stop  # the configuration has more patience now
    early.wait_count = 3
    early.on_train_start(trainer, module)
    assert trainer.should_stop


# ---- averages ----


class Averaged(pl.LightningModule):
    """A weight, a frozen one, and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0]))
        self.frozen = nn.Parameter(torch.tensor(0.1), requires_grad=False)
        self.register_buffer("counter", torch.tensor(0))


def test_averages_are_where_the_model_is_going_to_be() -> None:
    """Lightning moves the model after it has set the callbacks up."""
    averaging, module = Averaging(0.9), Averaged()
    averaging.setup(fake_trainer(strategy=SimpleNamespace(root_device=torch.device("meta"))), module, "fit")
    average = averaging._average_model
    assert average is not None
    assert {tensor.device.type for tensor in (*average.module.parameters(), *average.module.buffers())} == {"meta"}
    assert {parameter.device.type for parameter in module.parameters()} == {"cpu"}
    module.to("meta")
    for _ in range(3):
        average.update_parameters(module)  # which looks at no value, else this would be an error
    assert average.n_averaged == 3


def test_what_is_averaged() -> None:
    averaging, module = Averaging(0.75), Averaged()
    averaging.setup(fake_trainer(strategy=SimpleNamespace(root_device=torch.device("cpu"))), module, "fit")
    average = averaging._average_model
    assert average is not None
    wanted = None
    for step in range(1, 5):
        with torch.no_grad():
            module.weight += step
            module.counter += 7  # type: ignore[operator]
        average.update_parameters(module)
        wanted = module.weight.detach().clone() if wanted is None else 0.75 * wanted + 0.25 * module.weight.detach()
        torch.testing.assert_close(average.module.weight.detach(), wanted)
        assert torch.equal(average.module.frozen, module.frozen)
        assert average.module.counter == 7 * step
    assert set(average.state_dict()) == {"n_averaged", "module.weight", "module.frozen", "module.counter"}
