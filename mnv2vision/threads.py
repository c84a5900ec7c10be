"""How OpenMP's threads wait; to be set before torch is imported."""

import os

WAITING = {
    "OMP_WAIT_POLICY": "passive",
    "GOMP_SPINCOUNT": "1000",  # of GNU's OpenMP, torch's on Linux; it stands above the policy
}
"""Environment variables; docs/benchmarks.md has the measurement they were chosen by."""


def set_up_threads() -> None:
    """Let threads spin for a moment and then sleep, unless the environment says otherwise.

    Threads that sleep at once make small models slow, as these wait a thousand times a step. Threads that spin for long
    keep a core from whatever they wait for as soon as other processes are busy, too: a step then takes ten times as
    long.
    """
    for name, value in WAITING.items():
        os.environ.setdefault(name, value)
