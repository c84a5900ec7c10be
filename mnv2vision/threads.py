"""How OpenMP's threads wait; to be set before torch is imported."""

import os


def set_up_threads() -> None:
    """Let threads spin for a moment and then sleep, unless the environment says otherwise.

    Threads that sleep at once cost a factor of two where a model is so small that they wait a thousand times a step.
    Threads that spin for longer than the system's time slice stall one another as soon as there are more of them than
    cores: two runs at once then take several times as long as one after the other. Alone on a machine, ten times this
    count is 10 to 25 % faster.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")  # of GNU's OpenMP, torch's on Linux; it stands above the policy
