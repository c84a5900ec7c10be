"""What a machine does to a run: two runs in a folder, full disks, little shared memory, few descriptors."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from mnv2vision.cli.main import main
from mnv2vision.config.compose import load_config
from mnv2vision.config.schema import Train
from mnv2vision.engine import run_folder
from mnv2vision.engine.run_folder import claimed
from mnv2vision.engine.trainer import create_loggers
from mnv2vision.errors import ConfigError

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
Start = Callable[..., "subprocess.Popen[str]"]
Capture = pytest.CaptureFixture[str]


def mounts() -> bool:
    """Whether a file system can be mounted in a namespace of one's own."""
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


mounted = pytest.mark.skipif(not mounts(), reason="needs the right to mount")


def run_with(place: Path, size: str, arguments: list[str], patience: float) -> "subprocess.CompletedProcess[str]":
    """Train with a small file system at a place."""
    place.mkdir(exist_ok=True)
    script = (
        'mount -t tmpfs -o size="$1" none "$2" && shift 2 && "$@"; status=$?; ls -A run/* 2>/dev/null; exit $status'
    )
    train = [sys.executable, str(ROOT / "tools/train.py"), *arguments]
    command = ["unshare", "--mount", "sh", "-c", script, "sh", size, str(place), *train]
    return subprocess.run(command, cwd=place.parent, capture_output=True, text=True, timeout=patience)


@mounted
def test_full_disk(tmp_path: Path, tiny: tuple[str, ...], patience: float) -> None:
    """With the events of TensorBoard, which a thread of its own writes."""
    arguments = [*tiny, "run_dir=run", "trainer.max_epochs=9", "loggers=[tensorboard]"]
    ended = run_with(tmp_path / "run", "7m", arguments, patience)
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    *_, line = ended.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path}/run/checkpoints/")
    assert ": no space left on the disk; " in line
    assert "last.ckpt" in ended.stdout  # the old one stands, and nothing half written beside it
    assert "go on with resume=run/checkpoints/last.ckpt" in line
    assert ".partial" not in ended.stdout


@mounted
def test_little_shared_memory(tmp_path: Path, tiny: tuple[str, ...], patience: float) -> None:
    """As 64 MB, Docker's default, are for 8 readers of 64 photos of 224 pixels: a seventh of what is under way."""
    arguments = [*tiny, "loader.workers=2", "loader.batch_size=8", "trainer.max_epochs=1"]
    runs = []
    for size in ("400k", "1g"):
        ended = run_with(Path("/dev/shm"), size, [*arguments, f"run_dir={tmp_path / size}"], patience)
        assert ended.returncode == 0, ended.stderr
        assert ended.stderr.count("/dev/shm has no room for the batches") == (size == "400k")
        runs.append((tmp_path / size / "model.safetensors").read_bytes())
    assert runs[0] == runs[1]  # what travels by value is the same to the bit


def test_few_descriptors(tmp_path: Path, tiny: tuple[str, ...], patience: float) -> None:
    for limit in (40, 64):
        run = tmp_path / f"run{limit}"
        train = [sys.executable, str(ROOT / "tools/train.py"), *tiny, "loader.workers=8", f"run_dir={run}"]
        command = ["sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh", *train]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=patience)
        assert ended.returncode == 2, ended.stderr
        assert "Traceback" not in ended.stderr
        *_, line = ended.stderr.splitlines()
        assert line.startswith("error: too many open files: raise the limit (ulimit -n), or lower loader.workers")


def test_two_runs_in_one_folder(tmp_path: Path, tiny: tuple[str, ...], start: Start, patience: float) -> None:
    run = tmp_path / "run"
    first = start("train", *tiny, "trainer.max_epochs=10000", f"run_dir={run}")  # until it is ended
    while not (run / "checkpoints/last.ckpt").exists():
        assert first.poll() is None
        time.sleep(0.01)
    # Another one, one that resumes, and an evaluation whose figures would take the place of the run's.
    for arguments in ([*tiny, f"run_dir={run}"], [f"resume={run / 'checkpoints/last.ckpt'}"]):
        second = start("train", *arguments)
        _, error = second.communicate(timeout=patience)
        assert second.returncode == 2
        assert error.startswith(
            f"error: run_dir={run} is in use by process {first.pid} on {os.uname().nodename} since "
        )
        assert error.endswith(": wait for the end of that run, or give another folder\n")
        assert error.count("\n") == 1
    first.terminate()
    _, error = first.communicate(timeout=patience)
    assert first.returncode == 143, error
    assert not (run / ".lock").exists()


def test_started_at_once(tmp_path: Path, tiny: tuple[str, ...], start: Start, patience: float) -> None:
    run = tmp_path / "run"
    processes = [start("train", *tiny, f"seed={seed}", f"run_dir={run}") for seed in (1, 2)]
    errors = [process.communicate(timeout=patience)[1] for process in processes]
    assert sorted(process.returncode for process in processes) == [0, 2], errors
    refused = errors[[process.returncode for process in processes].index(2)]
    assert "is in use by process" in refused or "holds a run" in refused
    assert refused.count("\n") == 1


def _claim(folder: Path, rounds: int, ends: "Connection") -> None:
    """Be in a folder some times; tell how often, and how often another process was in it."""
    inside = folder.parent / "inside"
    alone = shared = 0
    for _ in range(rounds):
        try:
            with claimed(folder):
                try:
                    os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    shared += 1
                else:
                    alone += 1
                    inside.unlink()
        except ConfigError:
            pass  # it was in use
    ends.send((alone, shared))


def test_a_folder_is_one_run_s_whoever_ends_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    """The lock's file goes with the run that held it: who waits for it then must not take the next one's folder."""
    monkeypatch.setattr(run_folder, "_LINGER", 0.05)
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe() for _ in range(3)]
    processes = [context.Process(target=_claim, args=(tmp_path / "run", 300, pipe[1])) for pipe in pipes]
    for process in processes:
        process.start()
    for _, end in pipes:
        end.close()  # else a process that fails is waited for
    counts = [pipe[0].recv() for pipe in pipes if pipe[0].poll(patience)]
    for process in processes:
        process.join(patience)
    assert len(counts) == 3
    assert [shared for _, shared in counts] == [0, 0, 0]
    assert sum(alone for alone, _ in counts) > 300


def test_a_folder_removed_while_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`mkdir(exist_ok=True)` fails where a folder was there and, a moment later, is not."""
    mkdir, left = Path.mkdir, [1, 2]

    def racing(self: Path, *arguments: Any, **options: Any) -> None:
        if left:
            left.pop()
            raise FileExistsError(17, "File exists", str(self))
        mkdir(self, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", racing)
    with claimed(tmp_path / "run"):
        assert (tmp_path / "run/.lock").exists()
        assert not left
    left = [1] * 1000
    with pytest.raises(ConfigError, match="others make and remove it again and again"), claimed(tmp_path / "run"):
        pass
    monkeypatch.undo()
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError), claimed(tmp_path / "file"):
        pass
    assert (tmp_path / "file").exists()


def test_what_a_killed_save_left_is_removed(tmp_path: Path, train: Callable[..., int]) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    left = [run / "checkpoints/.last.ckpt.abcdefgh.partial", run / ".metrics.csv.abcdefgh.partial"]
    for path in left:
        path.write_bytes(b"half")
    assert train(f"run_dir={run}", "trainer.max_epochs=1") == 0
    assert not any(path.exists() for path in left)
    assert sorted(path.name for path in run.iterdir() if path.name.startswith(".")) == []


def test_resumed_with_other_data(tmp_path: Path, train: Callable[..., int], capsys: Capture) -> None:
    run = tmp_path / "run"
    assert train(f"run_dir={run}", "trainer.max_epochs=1") == 0
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    resume = f"resume={run / 'checkpoints/last.ckpt'}"
    capsys.readouterr()
    assert train(resume, "dataset.train_size=66", "dataset.val_size=9", "trainer.max_epochs=2") == 2
    error = capsys.readouterr().err
    assert error == (
        f"error: {resume}: other data than the run's: dataset.train_size was 58, is 66; dataset.val_size was 17, is 9;"
        " training images was 58, is 66; validation images was 17, is 9; they need a folder of their own:"
        " give run_dir=<folder>\n"
    )
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    other = tmp_path / "other"
    assert train(resume, "dataset.train_size=66", "trainer.max_epochs=2", f"run_dir={other}") == 0
    assert "other data than the run's: dataset.train_size was 58, is 66" in capsys.readouterr().err
    assert (other / "model.safetensors").exists()
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_finished_run_without_its_checkpoints_is_one(
    tmp_path: Path, train: Callable[..., int], capsys: Capture
) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"mine")
    assert train(f"run_dir={tmp_path}") == 2
    assert "holds a run" in capsys.readouterr().err
    assert (tmp_path / "model.safetensors").read_bytes() == b"mine"


def test_figures_without_a_value_are_null(
    tmp_path: Path, train: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mnv2vision.tasks.base import Task

    end = Task.on_validation_epoch_end

    def undefined(task: Task) -> None:
        end(task)
        task.metrics["top5"] = float("nan")

    monkeypatch.setattr(Task, "on_validation_epoch_end", undefined)
    assert train(f"run_dir={tmp_path}", "trainer.max_epochs=1") == 0

    def refuse(word: str) -> float:
        raise AssertionError(word)

    assert json.loads((tmp_path / "metrics.json").read_text(), parse_constant=refuse)["top5"] is None


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_logger_that_is_not_installed(
    name: str, train: Callable[..., int], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert train(f"loggers=[{name}]") == 2
    assert capsys.readouterr().err == f"error: loggers: {name} is not installed: pip install 'mnv2vision[{name}]'\n"


def test_keys_of_the_loggers_stand_above_their_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[Any, ...]] = []
    for kind in ("WandbLogger", "MLFlowLogger"):
        monkeypatch.setattr(f"pytorch_lightning.loggers.{kind}", lambda *args, **given: made.append((*args, given)))
    for key in ("WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_NAME", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(key, key)
    create_loggers(load_config(Train, ["loggers=[wandb,mlflow]"]), tmp_path)
    keys = ["logging.project=p", "logging.name=n", "logging.address=http://a"]
    create_loggers(load_config(Train, ["loggers=[wandb,mlflow]", *keys]), tmp_path)
    assert made == [
        (None, tmp_path, {"project": "WANDB_PROJECT"}),
        ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_NAME", "MLFLOW_TRACKING_URI", {}),
        ("n", tmp_path, {"project": "p", "settings": {"base_url": "http://a"}}),
        ("p", "n", "http://a", {}),
    ]


@pytest.mark.parametrize(
    ("variables", "refused"),
    [
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "train"}, True),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "bash"}, False),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "interactive"}, False),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "train"}, False),
        ({"WORLD_SIZE": "2", "RANK": "0"}, True),
    ],
)
def test_processes_started_from_outside(
    variables: dict[str, str], refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mnv2vision.config.schema import Train
    from mnv2vision.engine.run_folder import choose_folder
    from mnv2vision.errors import ConfigError

    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    config = Train(dataset={"name": "shapes"})
    if refused:
        with pytest.raises(ConfigError, match=r"must share a folder: give run_dir=<folder>"):
            choose_folder(config, "classification")
    else:
        assert choose_folder(config, "classification").parts[:3] == ("runs", "classification", "shapes")


FAILING = """
import os, sys
from mnv2vision.cli.main import main
from mnv2vision.config.compose import load_config
from mnv2vision.config.schema import Train
from mnv2vision.errors import DataError
from mnv2vision.tasks.base import Task
step = Task.training_step
def broken(task, batch, batch_idx):
    if task.global_rank == {rank} and batch_idx == 2:
        {what}
    return step(task, batch, batch_idx)
Task.training_step = broken
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("rank", "what", "line"),
    [
        (0, "raise DataError('photo.jpg: broken')", "error: photo.jpg: broken"),
        (1, "raise DataError('photo.jpg: broken')", "error: photo.jpg: broken"),
        (1, "os.kill(os.getpid(), 9)", "error: process 2 of 2 was killed (SIGKILL), probably out of memory"),
    ],
)
def test_one_process_fails(
    rank: int, what: str, line: str, tmp_path: Path, tiny: tuple[str, ...], patience: float
) -> None:
    script = tmp_path / "failing.py"
    script.write_text(FAILING.format(rank=rank, what=what))
    two = ("trainer.devices=2", "trainer.strategy=ddp", f"run_dir={tmp_path / 'run'}")
    ended = subprocess.run(
        [sys.executable, str(script), "train", *tiny, *two], capture_output=True, text=True, timeout=patience
    )
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    errors = [said for said in ended.stderr.splitlines() if "rror" in said]
    assert len(errors) == 1, ended.stderr
    assert errors[0].startswith(line)


def test_evaluations_do_not_mix(tmp_path: Path, tiny: tuple[str, ...], capsys: Capture) -> None:
    from mnv2vision.engine.run_folder import claimed

    assert main(["train", *tiny, "trainer.max_epochs=1", f"run_dir={tmp_path / 'run'}"]) == 0
    out = tmp_path / "out"
    code = "import sys, time; from pathlib import Path; from mnv2vision.engine.run_folder import claimed\n"
    code += f"with claimed(Path({str(out)!r})): print('held', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        capsys.readouterr()
        assert main(["eval", f"checkpoint={tmp_path / 'run/model.safetensors'}", f"run_dir={out}"]) == 2
        assert f"run_dir={out} is in use by process {holder.pid} on " in capsys.readouterr().err
        holder.kill()
    with claimed(out):  # what a killed process holds is free
        assert (out / ".holder").read_text().startswith(f"process {os.getpid()} on ")
    assert not (out / ".holder").exists()
