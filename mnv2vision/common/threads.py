"""Cores, and how OpenMP threads wait, which is set before torch is imported."""

import os

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
