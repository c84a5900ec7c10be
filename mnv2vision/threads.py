"""How OpenMP's threads wait; to be set before torch is imported."""

import os


def set_up_threads() -> None:
    """Let threads spin for a moment and then sleep, unless the environment says otherwise.

    Where reading processes share the cores, threads that spin for milliseconds cost a factor of three to ten on a CPU.
    Threads that sleep at once cost a third, where a model is so small that they wait a thousand times a step.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")  # of GNU's OpenMP, torch's on Linux; it stands above the policy
