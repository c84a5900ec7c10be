"""`resume=auto`: the same command starts a run, goes on with it after a kill, and says so when it has ended."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from safetensors.torch import load_file

from mnv2vision.cli.main import main

pytestmark = pytest.mark.slow


def test_killed(
    tmp_path: Path, tiny: tuple[str, ...], start: Callable[..., "subprocess.Popen[str]"], patience: float
) -> None:
    command = ["task=classification", *tiny, "checkpoint.every_n_steps=2", "trainer.max_epochs=6", "resume=auto"]
    run, whole = tmp_path / "run", tmp_path / "whole"
    process = start("train", *command, f"run_dir={run}")
    deadline = time.monotonic() + patience
    while not (run / "checkpoints/last.ckpt").exists():
        assert time.monotonic() < deadline, "waited in vain"
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.kill()
    process.wait()
    for folder in (run, whole):
        process = start("train", *command, f"run_dir={folder}")
        _, error = process.communicate(timeout=patience)
        assert process.returncode == 0, error
        assert ("resumed" in error) == (folder == run)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (run, whole))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)


def test_what_the_run_has_decided(tmp_path: Path, tiny: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """A rate that it found is kept, and more epochs are trained; other groups are refused, and no folder at all."""
    own = [item for item in tiny if not item.startswith("optimizer.lr")]
    command = ["train", *own, "optimizer.lr=auto", f"run_dir={tmp_path / 'run'}", "resume=auto"]
    assert main([*command, "trainer.max_epochs=1"]) == 0
    found = OmegaConf.load(tmp_path / "run/config.yaml").optimizer.lr
    assert isinstance(found, float)
    assert main([*command, "trainer.max_epochs=2"]) == 0
    assert "epoch 2/2" in capsys.readouterr().err
    assert OmegaConf.load(tmp_path / "run/config.yaml").optimizer.lr == found
    assert main([*command, "trainer.max_epochs=2"]) == 0
    assert "the run was complete after epoch 2" in capsys.readouterr().err
    assert main([*command, "backbone=mobilenet_v1"]) == 2
    assert "backbone=mobilenet_v1 cannot change a resumed run" in capsys.readouterr().err
    assert main(["train", *tiny, "resume=auto"]) == 2
    assert "error: resume=auto: give run_dir=<folder>, where the run is or will be" in capsys.readouterr().err
