"""Checkpoint files by themselves: whole or absent, and those of the last epochs."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from mnv2vision.training.checkpoints import AtomicCheckpointIO, LastEpochs, checkpoint_callbacks, last_epochs


def test_checkpoints_are_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "folder/last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)

    write = Path.write_bytes

    def fail(target: Path, data: Any) -> int:
        write(target, b"the first half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="No space left"):
        AtomicCheckpointIO().save_checkpoint({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert list(path.parent.iterdir()) == [path]


def test_states_of_the_checkpoints_are_apart(tmp_path: Path) -> None:
    keys = [callback.state_key for callback in checkpoint_callbacks(tmp_path, "top1", 10, 3)]
    assert len(set(keys)) == 4


def test_the_last_epochs_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest by number, not by name; of a run resumed at an earlier step, none that it has not done."""

    def save(callback: ModelCheckpoint, trainer: Any, module: Any) -> None:
        (tmp_path / f"step_{trainer.global_step}.ckpt").touch()

    monkeypatch.setattr(ModelCheckpoint, "on_train_epoch_end", save)
    for name in ("last.ckpt", "best.ckpt", "step_x.ckpt", "step_7.txt"):
        (tmp_path / name).touch()
    callback = LastEpochs(tmp_path, 3)

    def end(step: int) -> list[int]:
        trainer: Any = SimpleNamespace(global_step=step, is_global_zero=True)
        module: Any = None
        callback.on_train_epoch_end(trainer, module)
        return list(last_epochs(tmp_path))

    assert [end(step) for step in (8, 9, 10, 11, 100)] == [[8], [8, 9], [8, 9, 10], [9, 10, 11], [10, 11, 100]]
    assert end(50) == [10, 11, 50]
    assert len(list(tmp_path.iterdir())) == 4 + 3
    assert last_epochs(tmp_path)[50] == tmp_path / "step_50.ckpt"
