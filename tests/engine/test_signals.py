"""Signals to real processes: what is saved, what is said, how they end, and what goes on."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from mnv2vision.cli.main import main

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at /proc")]

ROOT = Path(__file__).parents[2]
Start = Callable[..., "subprocess.Popen[str]"]
LONG = ("trainer.max_epochs=3", "dataset.train_size=160", "loader.workers=2", "ema.decay=0.9")


@pytest.fixture(autouse=True)
def _signals_as_in_a_shell() -> Iterator[None]:
    """Processes inherit what is ignored, as it is where nohup or a script's background started the tests."""
    ignored = [number for number in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(number) == signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


def processes_of(marker: str) -> list[int]:
    """The processes with a word in their command line; readers have that of their main process."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and marker in (entry / "cmdline").read_bytes().decode():
                found.append(int(entry.name))
        except (OSError, UnicodeDecodeError):  # it has ended
            continue
    return found


def wait_until(reached: Callable[[], object], patience: float) -> None:
    deadline = time.monotonic() + patience
    while not reached():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def history(run: Path) -> list[str]:
    """metrics.csv without the images per second, of which it has none."""
    return (run / "metrics.csv").read_text().splitlines()


def assert_goes_on_as_if_nothing_had_been(run: Path, start: Start, tiny: tuple[str, ...], patience: float) -> None:
    """Resume, and compare with a run that was left alone."""
    whole = run.parent / "whole"
    for process in (
        start("train", f"resume={run / 'checkpoints/last.ckpt'}"),
        start("train", *tiny, *LONG, f"run_dir={whole}"),
    ):
        _, error = process.communicate(timeout=patience)
        assert process.returncode == 0, error
    first, second = (load_file(folder / "model.safetensors") for folder in (run, whole))
    assert all(first[name].equal(second[name]) for name in second)
    assert (run / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert history(run) == history(whole)
    assert json.loads((run / "metrics.json").read_text()) == json.loads((whole / "metrics.json").read_text())


def amid_an_epoch(run: Path) -> Callable[[], bool]:
    """The first epoch's row is written, and a step or two of the second are done."""
    return lambda: (run / "metrics.csv").exists() and (run / "checkpoints/last.ckpt").exists()


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_training_stops_and_goes_on(
    signum: signal.Signals, status: int, tmp_path: Path, tiny: tuple[str, ...], start: Start, patience: float
) -> None:
    run = tmp_path / "run"
    process = start("train", *tiny, *LONG, f"run_dir={run}")
    wait_until(amid_an_epoch(run), patience)
    process.send_signal(signum)
    _, error = process.communicate(timeout=patience)
    assert process.returncode == status, error
    *_, line = error.splitlines()
    last = run / "checkpoints/last.ckpt"
    assert re.fullmatch(
        rf"interrupted \({signum.name}\): go on with resume={re.escape(str(last))}, written \d+ s ago", line
    )
    assert "Traceback" not in error
    wait_until(lambda: not processes_of(str(run)), patience)
    assert not (run / "model.safetensors").exists()
    assert_goes_on_as_if_nothing_had_been(run, start, tiny, patience)


def test_the_whole_group_is_told(tmp_path: Path, tiny: tuple[str, ...], patience: float) -> None:
    """As schedulers do: the readers get the signal, too, and are still needed for the step."""
    run = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tools/train.py"), *tiny, *LONG, f"run_dir={run}"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        wait_until(amid_an_epoch(run), patience)
        os.killpg(process.pid, signal.SIGTERM)
        _, error = process.communicate(timeout=patience)
    finally:
        process.kill()
    assert process.returncode == 143, error
    assert error.splitlines()[-1].startswith("interrupted (SIGTERM): go on with resume=")
    assert "Traceback" not in error
    wait_until(lambda: not processes_of(str(run)), patience)


def test_during_validation(tmp_path: Path, tiny: tuple[str, ...], start: Start, patience: float) -> None:
    """The validation comes to its end, or the epoch would be lost; its result is in the checkpoint."""
    run = tmp_path / "run"
    mostly = ("trainer.limit_train_batches=1", "dataset.val_size=3000", "trainer.max_epochs=50")
    process = start("train", *tiny, *mostly, f"run_dir={run}")
    wait_until(amid_an_epoch(run), patience)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=patience)
    assert process.returncode == 143, error
    progress = "validation: "  # of one that takes long, on a busy machine
    *_, notice, row, line = (line for line in error.splitlines() if not line.startswith(progress))
    assert notice == "SIGTERM: stopping after this validation; press Ctrl-C again to stop now"
    assert row.startswith("epoch 2/50")
    assert line.startswith("interrupted (SIGTERM): go on with resume=")
    state = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert state["global_step"] == 2
    assert len(history(run)) == 3


def test_before_the_first_checkpoint(tmp_path: Path, tiny: tuple[str, ...], start: Start, patience: float) -> None:
    """And a run that was killed there can be started again in its folder."""
    run = tmp_path / "run"
    process = start("train", *tiny, f"run_dir={run}")
    wait_until(lambda: (run / ".lock").exists(), patience)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=patience)
    assert process.returncode == 143, error
    assert error.splitlines()[-1].startswith("interrupted (SIGTERM): ")

    again = tmp_path / "again"
    process = start("train", *tiny, f"run_dir={again}")
    wait_until(lambda: (again / "config.yaml").exists(), patience)
    process.kill()
    process.wait()
    assert not list(again.glob("checkpoints/*.ckpt"))
    process = start("train", *tiny, f"run_dir={again}")
    _, error = process.communicate(timeout=patience)
    assert process.returncode == 0, error
    assert (again / "metrics.json").exists()


class Terminal:
    """A terminal with a command in it, as someone sits before it."""

    def __init__(self, *arguments: str) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execv(sys.executable, [sys.executable, *arguments])
        self.text = ""

    def read(self, seconds: float) -> None:
        while select.select([self.fd], [], [], seconds)[0]:
            try:
                data = os.read(self.fd, 1 << 16)
            except OSError:  # all on the other side have gone
                return
            if not data:
                return
            self.text += data.decode(errors="replace")

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def end(self, patience: float) -> int:
        """The exit status; what is written meanwhile is read, or the other side would wait."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if self.fd >= 0:
                self.read(0.05)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
        os.kill(self.pid, signal.SIGKILL)
        raise AssertionError(f"does not end: {self.text}")


@pytest.fixture
def terminal(tmp_path: Path, tiny: tuple[str, ...], patience: float) -> tuple[Terminal, Path]:
    run = tmp_path / "run"
    screen = Terminal(str(ROOT / "tools/train.py"), *tiny, *LONG, f"run_dir={run}")

    def ready() -> bool:
        screen.read(0)
        return amid_an_epoch(run)()

    wait_until(ready, patience)
    return screen, run


def test_ctrl_c(
    terminal: tuple[Terminal, Path], tiny: tuple[str, ...], start: Start, tmp_path: Path, patience: float
) -> None:
    screen, run = terminal
    screen.type("\x03")
    assert screen.end(patience) == 130
    assert "interrupted (SIGINT): go on with resume=" in screen.text
    assert "Traceback" not in screen.text
    wait_until(lambda: not processes_of(str(run)), patience)
    assert_goes_on_as_if_nothing_had_been(run, start, tiny, patience)


def test_second_ctrl_c(terminal: tuple[Terminal, Path], patience: float) -> None:
    screen, run = terminal
    screen.type("\x03")
    screen.type("\x03")
    assert screen.end(patience) == 130
    assert "Traceback" not in screen.text
    wait_until(lambda: not processes_of(str(run)), patience)


def test_the_terminal_is_closed(
    terminal: tuple[Terminal, Path], tiny: tuple[str, ...], start: Start, patience: float
) -> None:
    screen, run = terminal
    os.close(screen.fd)
    screen.fd = -1
    assert screen.end(patience) == 129
    wait_until(lambda: not processes_of(str(run)), patience)
    assert_goes_on_as_if_nothing_had_been(run, start, tiny, patience)


def test_main_process_killed(tmp_path: Path, tiny: tuple[str, ...], start: Start, patience: float) -> None:
    """Its readers, which wait for someone to take their batch, end with it."""
    run = tmp_path / "run"
    process = start("train", *tiny, *LONG, f"run_dir={run}")
    wait_until(amid_an_epoch(run), patience)
    assert len(processes_of(str(run))) >= 3
    process.kill()
    process.wait()
    wait_until(lambda: not processes_of(str(run)), patience)


def test_a_reader_killed(tmp_path: Path, tiny: tuple[str, ...], start: Start, patience: float) -> None:
    run = tmp_path / "run"
    process = start("train", *tiny, *LONG, f"run_dir={run}")
    wait_until(amid_an_epoch(run), patience)
    reader = next(pid for pid in processes_of(str(run)) if pid != process.pid)
    os.kill(reader, signal.SIGKILL)
    _, error = process.communicate(timeout=patience)
    assert process.returncode == 2, error
    *_, line = error.splitlines()
    assert line.startswith(
        f"error: data-loading worker (pid {reader}) was killed (Killed), probably out of memory; go on"
    )
    assert f"resume={run / 'checkpoints/last.ckpt'}" in line
    assert "Traceback" not in error
    wait_until(lambda: not processes_of(str(run)), patience)


def test_first_of_several_killed(tmp_path: Path, tiny: tuple[str, ...], start: Start, patience: float) -> None:
    run = tmp_path / "run"
    two = ("trainer.devices=2", "trainer.strategy=ddp", "trainer.max_epochs=40", "loader.workers=1")
    process = start("train", *tiny, *two, f"run_dir={run}")
    wait_until(amid_an_epoch(run), patience)
    process.kill()
    _, error = process.communicate(timeout=patience)
    assert "Traceback" not in error
    wait_until(lambda: not processes_of(str(run)), patience)


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_several_processes(
    signum: signal.Signals, status: int, tmp_path: Path, tiny: tuple[str, ...], start: Start, patience: float
) -> None:
    """The first one is told; all end after the same step, and the run goes on."""
    run = tmp_path / "run"
    two = ("trainer.devices=2", "trainer.strategy=ddp", "trainer.max_epochs=40", "checkpoint.every_n_steps=3")
    process = start("train", *tiny, *two, f"run_dir={run}")
    wait_until(amid_an_epoch(run), patience)
    process.send_signal(signum)
    _, error = process.communicate(timeout=patience)
    assert process.returncode == status, error
    assert [line for line in error.splitlines() if "interrupted" in line] == [error.splitlines()[-1]]
    assert "Traceback" not in error
    wait_until(lambda: not processes_of(str(run)), patience)
    process = start(
        "train", f"resume={run / 'checkpoints/last.ckpt'}", "trainer.max_epochs=41", "+trainer.limit_train_batches=1"
    )
    wait_until(lambda: process.poll() is not None or len(history(run)) > 2, patience)
    process.kill()
    _, error = process.communicate(timeout=patience)
    assert "error" not in error


def test_commands_without_checkpoints(tmp_path: Path, tiny: tuple[str, ...], start: Start, patience: float) -> None:
    """One line, and the status of the signal."""
    assert main(["train", *tiny, "trainer.max_epochs=1", f"run_dir={tmp_path / 'run'}"]) == 0
    checkpoint = f"checkpoint={tmp_path / 'run/model.safetensors'}"
    out = tmp_path / "eval"
    many = ("dataset.val_size=100000", "dataset.image_size=48", "loader.workers=1", f"run_dir={out}")
    process = start("eval", checkpoint, *many)
    wait_until(lambda: (out / "config.yaml").exists(), patience)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=patience)
    assert (process.returncode, error) == (130, "interrupted (SIGINT)\n")
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(2000):
        Image.new("RGB", (8, 8)).save(photos / f"{index}.png")
    output = tmp_path / "predictions"
    process = start("predict", checkpoint, f"images={photos}", f"output={output}")
    wait_until(lambda: output.exists() and any(output.iterdir()), patience)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=patience)
    assert process.returncode == 130, error
    assert error.splitlines()[-1] == "interrupted (SIGINT)"
    assert "Traceback" not in error
    assert not any(path.name.startswith(".") for path in output.iterdir())
    for tool in ("reproduce", "benchmark"):
        process = start(tool)
        maps = Path(f"/proc/{process.pid}/maps")
        wait_until(lambda maps=maps: "libtorch" in maps.read_text(), patience)  # type: ignore[misc]
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=patience)
        assert (process.returncode, error) == (130, "interrupted (SIGINT)\n")
