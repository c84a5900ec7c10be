"""Numbers that a run finds before it begins; the run is then the one that these numbers, typed, give."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from mnv2vision.common import machine
from mnv2vision.engine import decide
from mnv2vision.engine.decide import steps_within

pytestmark = pytest.mark.slow

Train = Callable[..., int]
Start = Callable[..., "subprocess.Popen[str]"]
GB = 10**9


def config_of(run: Path) -> dict[str, dict[str, object]]:
    config: dict[str, dict[str, object]] = yaml.safe_load((run / "config.yaml").read_text())
    return config


def test_steps_within() -> None:
    """Against a walk through a run, step by step: what is planned fits, and a tenth more would not."""
    generator = np.random.default_rng(0)
    for _ in range(200):
        step, validation = generator.uniform(0.01, 2), generator.uniform(0, 20)
        every, seconds = int(generator.integers(1, 50)), generator.uniform(200, 1000)

        def takes(steps: int, step: float = step, validation: float = validation, every: int = every) -> float:
            validations = -(-steps // every) + 1  # one at the end
            return steps * step + validations * validation

        steps = steps_within(seconds, step, validation, every)
        assert takes(steps) <= seconds
        assert takes(int(1.1 * steps) + 1 + every) > seconds
    assert steps_within(5, 1, 3, 10) == 0


@pytest.mark.skipif(machine.memory() is None, reason="looks at /proc")
def test_memory() -> None:
    machine.forget_peak()
    before = machine.peak_memory()
    block = np.ones(300 * 2**17)  # 300 MiB
    assert 250 * 2**20 < machine.peak_memory() - before < 400 * 2**20
    assert (machine.memory() or 0) > block.nbytes


@pytest.mark.parametrize(
    ("table", "limits", "left"),
    [
        ("0::/\n", {"memory.max": "max", "memory.current": "100"}, 9000),
        ("0::/\n", {"memory.max": "3000", "memory.current": "1000"}, 2000),
        (
            "0::/a/b\n",
            {"a/memory.max": "5000", "a/memory.current": "900", "a/b/memory.max": "max", "a/b/memory.current": "800"},
            4100,
        ),
        (
            "12:cpu,memory:/docker/x\n1:name=systemd:/docker/y\n0::/\n",
            {
                "memory/memory.limit_in_bytes": str(2**63 - 4096),
                "memory/memory.usage_in_bytes": "7000",
                "memory/docker/x/memory.limit_in_bytes": "4000",
                "memory/docker/x/memory.usage_in_bytes": "500",
                "memory/docker/y/memory.limit_in_bytes": "1",
                "memory/docker/y/memory.usage_in_bytes": "0",
            },
            3500,
        ),
        # Docker without a namespace of control groups: the path is the host's.
        (
            "12:memory:/docker/x\n",
            {"memory/memory.limit_in_bytes": "4000", "memory/memory.usage_in_bytes": "500"},
            3500,
        ),
        (None, {}, 9000),
    ],
)
def test_memory_by_control_groups(table: str | None, limits: dict[str, str], left: int, tmp_path: Path) -> None:
    files = {f"sys/fs/cgroup/{path}": text for path, text in limits.items()}
    files |= {"proc/self/status": "Name:\tx\nVmRSS:\t 2 kB\n", "proc/meminfo": "MemAvailable:  9 kB\n"}
    files |= {} if table is None else {"proc/self/cgroup": table}
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert machine.memory(tmp_path) == 2048 + (9 * 1024 if left == 9000 else left)
    assert machine.memory(tmp_path / "proc") is None


def test_rate_with_layer_rates(train: Train, tmp_path: Path) -> None:
    """Each step of the range test, too, is with the layers' shares of the rate."""
    seen: list[dict[float, float]] = []

    def look(optimizer: Optimizer, args: object, options: object) -> None:
        seen.append({group["layer_rate"]: group["lr"] for group in optimizer.param_groups})

    handle = register_optimizer_step_post_hook(look)
    try:
        rates = ("optimizer.layer_rates=[0.1,0.5]", "trainer.max_epochs=1")
        assert train("optimizer.lr=auto", *rates, f"run_dir={tmp_path / 'run'}") == 0
    finally:
        handle.remove()
    assert len(seen) > 20  # the run itself has seven
    for step in seen:
        assert step == pytest.approx({factor: factor * step[1.0] for factor in (0.1, 0.5, 1.0)})
    assert seen[20][1.0] > seen[0][1.0] >= 1e-6


@pytest.mark.skipif(machine.memory() is None, reason="looks at /proc")
def test_rate_and_batch_size(
    train: Train,
    start: Start,
    tiny: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    patience: float,
) -> None:
    own, typed = tmp_path / "own", tmp_path / "typed"
    auto = ("optimizer.lr=auto", "loader.batch_size=auto", "ema.decay=0.5", "optimizer.reference_batch=10")
    process = start("train", *tiny, *auto, f"run_dir={own}")  # this one has memory left from other tests
    _, said = process.communicate(timeout=patience)
    assert process.returncode == 0, said
    batch = re.search(r"^loader.batch_size=(\d+): the largest of which an epoch has 10 steps \(.* \d+ fit", said, re.M)
    rate = re.search(r"^optimizer.lr=(\S+): the loss falls fastest there, of rates from 1e-06 to 10", said, re.M)
    assert batch is not None
    assert rate is not None
    assert int(batch[1]) == 5  # of 58 images
    assert 1e-6 < float(rate[1]) < 20
    config = config_of(own)
    assert config["loader"]["batch_size"] == 5
    assert config["optimizer"]["lr"] == float(rate[1])
    assert not list(own.glob(".*"))
    numbers = (f"optimizer.lr={rate[1]}", "loader.batch_size=5", *auto[2:])
    process = start("train", *tiny, *numbers, f"run_dir={typed}")
    assert process.wait(patience) == 0
    assert (own / "model.safetensors").read_bytes() == (typed / "model.safetensors").read_bytes()
    capsys.readouterr()
    assert (
        train(f"resume={own / 'checkpoints/last.ckpt'}", "trainer.max_epochs=3") == 0
    )  # with the numbers, as they are
    assert "falls fastest" not in capsys.readouterr().err
    for value in ("optimizer.lr=auto", "loader.batch_size=auto", "time=10m"):
        assert train(f"resume={own / 'checkpoints/last.ckpt'}", value) == 2
        assert "a resumed run keeps its numbers, and takes no auto and no time=" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("memory", "images", "told"),
    [
        (2 * GB, 6000, r"loader.batch_size=300: the largest that fits \(2.0 MB an image and 1.00 GB besides"),
        (
            2 * GB,
            100,
            r"loader.batch_size=10: the largest of which an epoch has 10 steps .* 300 fit into 80 % of 2.0 GB",
        ),
        (GB, 100, r"loader.batch_size=auto: no image fits into 1.0 GB; lower model.image_size"),
    ],
)
def test_the_batch_that_fits(
    memory: int,
    images: int,
    told: str,
    train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of a machine where the process needs a gigabyte, and two megabytes more an image: 0.8 * 2 GB leave 600 MB."""
    peaks = iter([5 * GB, GB + 8 * 2_000_000, GB + 32 * 2_000_000])
    monkeypatch.setattr(decide, "_memory", lambda device: memory)
    monkeypatch.setattr(decide, "_forget_peak", lambda device: None)
    monkeypatch.setattr(decide, "_peak", lambda device: next(peaks))
    arguments = (f"dataset.train_size={images}", "trainer.limit_train_batches=1", "trainer.max_epochs=1")
    assert train("loader.batch_size=auto", *arguments, f"run_dir={tmp_path / 'run'}") in (0, 2)
    assert re.search(told, capsys.readouterr().err)


def test_time(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a machine where whatever is measured takes 10^6 s, so that the real time before it counts for nothing."""
    monkeypatch.setattr(decide._Clock, "_lap", lambda clock, module: 1e6)
    run = tmp_path / "run"
    # 0.95 * 25 - 2 validations of 3 batches = 17.75; a step takes 1 + 3 / 7: 12.4 of them (all in 10^6 s).
    assert train("time=25000000s", f"run_dir={run}") == 0
    said = capsys.readouterr().err
    assert "time=25000000s: trainer.max_steps=12, 1.7 epochs, by 1e+06 s a step and 3e+06 s a validation" in said
    config = config_of(run)
    assert config["time"] is None
    assert config["trainer"]["max_steps"] == 12
    assert config["trainer"]["max_epochs"] == 2
    rows = [line.split(",")[:2] for line in (run / "metrics.csv").read_text().splitlines()]
    assert rows == [["epoch", "step"], ["1", "7"], ["2", "12"]]
    assert train("time=1h", f"run_dir={tmp_path / 'short'}") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: time=3600s: too short for a step of 1e+06 s, two validations of 3e+06 s")
    assert not (tmp_path / "short").exists()
