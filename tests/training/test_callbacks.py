"""History, progress and throughput by themselves."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

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


def test_plain_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(callbacks.log, "info", lambda text, *values: lines.append(text % values))
    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    progress, module = PlainProgress(seconds=10), SimpleNamespace()
    progress.on_train_start(fake_trainer(), module)  # type: ignore[arg-type]
    for step in range(7):
        now += 2
        progress.on_train_batch_end(fake_trainer(), module, {"loss": torch.tensor(1.5)}, BATCH, step)  # type: ignore[arg-type]
    assert lines == ["epoch 1  step 5/10  loss 1.5  8 images/s  10 s left in this epoch"]
    now += 20
    progress.on_train_batch_end(fake_trainer(is_global_zero=False), module, None, BATCH, 7)  # type: ignore[arg-type]
    assert len(lines) == 1


def test_progress_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    bar = ProgressBar()
    bar.throughput.images = 500
    monkeypatch.setattr(Throughput, "rate", 123.4)
    monkeypatch.setattr(
        "pytorch_lightning.callbacks.ProgressBar.get_metrics", lambda *args: {"v_num": 1, "step_loss": 2}
    )
    assert bar.get_metrics(fake_trainer(), SimpleNamespace()) == {"step_loss": 2, "images/s": 123}  # type: ignore[arg-type]


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
