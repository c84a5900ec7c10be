"""Speed and memory of a model, measured in a process of its own: python -m mnv2vision.deploy.timing <model>."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2vision.common.processes import run_module
from mnv2vision.common.threads import set_up_threads, usable_cores
from mnv2vision.errors import ExportError
from mnv2vision.inference.bundle import Bundle, is_bundle
from mnv2vision.inference.exported import open_runtime
from mnv2vision.preprocessing import Preprocessing

Run = Callable[[NDArray[np.uint8]], object]

LARGE_BATCH = 32
_LONG_ENOUGH = 3.0
"""Seconds of calls, of which there are at least a few."""


@dataclass(frozen=True)
class Timing:
    """A process's measurements.

    Attributes:
        single: Seconds of each call with one image.
        batch: Seconds of each call with `LARGE_BATCH` images.
        peak_memory: Bytes that the process held at most, from its start to the calls with one image.
        threads: That it ran with.
    """

    single: tuple[float, ...]
    batch: tuple[float, ...]
    peak_memory: int
    threads: int


def time_model(model: Path) -> Timing:
    """Measure an exported model's folder, or a model file in PyTorch, as it is, in a new process.

    Raises:
        ExportError: If the process fails.
    """
    done = run_module("mnv2vision.deploy.timing", str(model))
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise ExportError(f"{model}: cannot be timed ({said[-1]})")
    measured = json.loads(done.stdout.splitlines()[-1])
    return Timing(tuple(measured["single"]), tuple(measured["batch"]), measured["peak_memory"], measured["threads"])


def _measure(model: Path) -> Timing:
    threads = usable_cores()
    run, (height, width) = _exported(model, threads) if is_bundle(model) else _eager(model, threads)
    images = np.random.default_rng(0).integers(0, 256, (LARGE_BATCH, height, width, 3), np.uint8)
    single = _times(run, images[:1], least=10)
    peak = _peak_memory()
    return Timing(single, _times(run, images, least=1), peak, threads)


def _exported(folder: Path, threads: int) -> tuple[Run, tuple[int, int]]:
    bundle = Bundle.read(folder)
    given: Any = bundle.preprocessing
    return open_runtime(folder, bundle, threads).run, Preprocessing.from_dict(given).image_size


def _eager(path: Path, threads: int) -> tuple[Run, tuple[int, int]]:
    import torch

    from mnv2vision.weights.file import load

    torch.set_num_threads(threads)
    model = load(path)

    def run(images: NDArray[np.uint8]) -> object:
        with torch.inference_mode():
            batch = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
            return model(model.preprocessing.normalize(batch))

    return run, model.preprocessing.image_size


def _times(run: Run, images: NDArray[np.uint8], least: int) -> tuple[float, ...]:
    run(images)  # memory is laid out, weights are packed
    times: list[float] = []
    while len(times) < least or sum(times) < _LONG_ENOUGH:
        start = time.perf_counter()
        run(images)
        times.append(time.perf_counter() - start)
    return tuple(times)


def _peak_memory() -> int:
    status = Path("/proc/self/status")
    if status.exists():  # where getrusage counts what the parent held when it started this process
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        if "VmHWM" in lines:
            return int(lines["VmHWM"].split()[0]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    set_up_threads()
    print(json.dumps(asdict(_measure(Path(sys.argv[1])))))
