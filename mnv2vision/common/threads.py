"""Cores, work ahead in a thread, and how OpenMP threads wait, which is set before torch is imported."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

WAITING = {
    "OMP_WAIT_POLICY": "passive",
    "GOMP_SPINCOUNT": "1000",  # GNU OpenMP, used by torch on Linux; overrides the policy
}
"""Environment variables, chosen by the measurement in docs/benchmarks.md."""


def set_up_threads() -> None:
    """Let waiting threads spin briefly and then sleep, unless the environment says otherwise.

    Threads that sleep at once slow down small models, which wait a thousand times per step. Threads that spin for long
    block the threads they wait for when other processes are busy as well: a step then takes ten times as long.
    """
    for name, value in WAITING.items():
        os.environ.setdefault(name, value)


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The items, none of which is None, each made in a thread while the one before it is used.

    Args:
        items: To make; what they raise is raised in their place.
    """
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item
