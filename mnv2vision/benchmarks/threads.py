"""How torch's threads should wait: training and inference speed by setting, alone and beside busy processes."""

import json
import logging
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from mnv2vision.common.threads import WAITING

log = logging.getLogger(__name__)

SETTINGS: dict[str, dict[str, str]] = {
    "mnv2vision": WAITING,
    "spin 30000": {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "30000"},
    "spin 0": {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
"""Environment variables of OpenMP, by name."""
OTHERS = (0, 1, 2, 4)
"""Busy processes beside the measured one."""


class Row(NamedTuple):
    """Images per second of a workload at a setting, by the number of busy processes (see `OTHERS`); medians."""

    workload: str
    setting: str
    rates: tuple[float, ...]


def measure(rounds: int = 1, seconds: float = 3.0) -> list[Row]:
    """Measure all workloads at all settings, each setting in its own process, one after another.

    Args:
        rounds: Processes per setting and number of busy processes.
        seconds: Per workload and process.
    """
    found: dict[tuple[str, str, int], list[float]] = {}
    for _ in range(rounds):
        for others in OTHERS:
            with _busy(others):
                for setting, variables in SETTINGS.items():
                    rates = _run(variables, seconds)
                    log.info("%s beside %d: %s", setting, others, [f"{rate:.3g}" for rate in rates.values()])
                    for workload, rate in rates.items():
                        found.setdefault((workload, setting, others), []).append(rate)
    workloads = dict.fromkeys(workload for workload, _, _ in found)
    return [
        Row(workload, setting, tuple(statistics.median(found[workload, setting, others]) for others in OTHERS))
        for workload in workloads
        for setting in SETTINGS
    ]


def shares(rows: Sequence[Row], workload: str, setting: str) -> tuple[float, ...]:
    """A setting's rate as a share of the best one's, by the number of busy processes."""
    of_workload = {row.setting: row.rates for row in rows if row.workload == workload}
    best = [max(rates) for rates in zip(*of_workload.values(), strict=True)]
    return tuple(rate / top for rate, top in zip(of_workload[setting], best, strict=True))


@contextmanager
def _busy(count: int) -> Iterator[None]:
    with ExitStack() as stack:
        for _ in range(count):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(process.kill)
        yield


def _run(variables: dict[str, str], seconds: float) -> dict[str, float]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "MKL_"))}
    command = [sys.executable, "-m", "mnv2vision.benchmarks.threads", str(seconds)]
    done = subprocess.run(command, env=clean | variables, capture_output=True, text=True, check=True)
    rates: dict[str, float] = json.loads(done.stdout)
    return rates


# ---- in the measured process ----


def _rates(seconds: float) -> dict[str, float]:
    return {
        "training, shapes (0.35, 96 pixels, batch 24)": _rate(_detection_step(24), 24, seconds),
        "training, 224 pixels, width 1.0, batch 8": _rate(_classification_step(8), 8, seconds),
        "inference, 224 pixels, width 1.0, batch 1": _rate(_inference(), 1, seconds),
    }


def _rate(call: Callable[[], object], images: int, seconds: float) -> float:
    call()
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        call()
        calls += 1
    return images * calls / (time.perf_counter() - start)


def _detection_step(batch_size: int) -> Callable[[], None]:
    import torch

    import mnv2vision as mv
    from mnv2vision.benchmarks.detection import random_targets
    from mnv2vision.detection.loss import detection_loss

    model = mv.create_model("detection", width=0.35, num_classes=6, image_size=96, output_stride=16).train()
    model.to(memory_format=torch.channels_last)
    images = torch.randn(batch_size, 3, 96, 96).to(memory_format=torch.channels_last)
    targets = random_targets(batch_size, num_classes=6)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)

    def step() -> None:
        losses = detection_loss(model(images), targets)
        optimizer.zero_grad()
        (losses.classes + losses.boxes).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()

    return step


def _classification_step(batch_size: int) -> Callable[[], None]:
    import torch
    from torch.nn import functional as F

    import mnv2vision as mv

    model = mv.create_model("classification").train().to(memory_format=torch.channels_last)
    images = torch.randn(batch_size, 3, 224, 224).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 1000, (batch_size,))
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()

    return step


def _inference() -> Callable[[], object]:
    import torch

    import mnv2vision as mv
    from mnv2vision.benchmarks.speed import settle
    from mnv2vision.inference.predictor import Predictor

    model = mv.create_model("classification")
    settle(model, 224)
    predictor = Predictor(model, device="cpu")
    images = torch.randn(1, 3, 224, 224).to(memory_format=torch.channels_last)

    def call() -> object:
        with torch.inference_mode():
            return predictor.model(images)

    return call


if __name__ == "__main__":
    print(json.dumps(_rates(float(sys.argv[1]))))
