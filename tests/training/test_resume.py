"""A run that was interrupted and resumed ends as the one that was not: to the bit."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

Train = Callable[..., int]


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def assert_same(first: Any, second: Any, where: str) -> None:
    assert type(first) is type(second), where
    if isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype, where
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_same(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for index, pair in enumerate(zip(first, second, strict=True)):
            assert_same(*pair, f"{where}[{index}]")
    else:
        assert first == second, where


def assert_same_runs(first: Path, second: Path) -> None:
    """Everything that a run leaves, except where it was and when."""
    assert_same(load_file(first / "model.safetensors"), load_file(second / "model.safetensors"), "model")
    assert json.loads((first / "metrics.json").read_text()) == json.loads((second / "metrics.json").read_text())
    assert read_csv(first / "metrics.csv") == read_csv(second / "metrics.csv")
    assert (first / "per_class.csv").read_text() == (second / "per_class.csv").read_text()
    for name in ("best.ckpt", "last.ckpt"):
        states = [torch.load(run / "checkpoints" / name, weights_only=True) for run in (first, second)]
        for state in states:
            callbacks = state.pop("callbacks")
            state["callbacks"] = {key: value for key, value in callbacks.items() if "Checkpoint" not in key}
            state["scores"] = [value["best_model_score"] for key, value in callbacks.items() if "Checkpoint" in key]
            # How often an epoch was started is not the same, and of no consequence.
            state["loops"] = state["loops"]["fit_loop"]["epoch_progress"]["current"]
        assert_same(*states, name)


VARIANTS = {
    "plain": (),
    "averaged": ("ema.decay=0.9", "schedule.warmup_epochs=0.5"),
    "accumulated": ("trainer.accumulate_grad_batches=2", "ema.decay=0.9"),
    "rmsprop": ("optimizer.name=rmsprop_tf", "schedule.name=exponential", "schedule.decay_epochs=0.3"),
    "mixed": (
        "augmentation.mixup=0.2",
        "augmentation.cutmix=1.0",
        "augmentation.rand_augment=9",
        "augmentation.erasing=0.5",
        "augmentation.color_jitter=0.4",
        "model.dropout=0.5",
        "optimizer.name=adamw",
        "optimizer.lr=0.001",
    ),
    "worker": ("loader.workers=1", "+trainer.limit_train_batches=6"),
    "steps": ("trainer.max_steps=12",),
    "seldom validated": ("trainer.check_val_every_n_epoch=2",),
}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_resumed_amid_epochs(
    variant: str, tmp_path: Path, train: Train, interrupt: Callable[..., None]
) -> None:
    arguments = ("trainer.max_epochs=3", "checkpoint.every_n_steps=2", *VARIANTS[variant])
    assert train(*arguments, f"run_dir={tmp_path / 'whole'}") == 0

    points = [(0, 5), (1, 3), (1, 5), (1, "validation"), (2, 1), (2, 4)]
    interrupt(*points)
    with pytest.raises(InterruptedError):
        train(*arguments, f"run_dir={tmp_path / 'parts'}")
    last = tmp_path / "parts/checkpoints/last.ckpt"
    interruptions = 1
    while True:
        try:
            assert train(f"resume={last}") == 0
        except InterruptedError:
            interruptions += 1
        else:
            break
    assert interruptions >= 4
    assert_same_runs(tmp_path / "whole", tmp_path / "parts")
