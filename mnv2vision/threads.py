"""How OpenMP's threads wait; to be set before torch is imported."""

import os


def set_up_threads() -> None:
    """Let threads spin for a moment and then sleep, unless the environment says otherwise.

    Threads that sleep at once cost a factor of two to three where a model is so small that they wait a thousand times a
    step; threads that never sleep take the cores from the reading processes.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "300000")  # of GNU's OpenMP, torch's on Linux; it stands above the policy
