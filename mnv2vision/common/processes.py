"""Processes: which one of a run is first, what happens when one of them dies, and modules run in their own."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

_CHECK = 0.5
"""Seconds between two checks of another process."""
_GRACE = 10.0
"""Seconds that a process has to exit by itself after losing a partner: it may be waiting for a GPU."""
_LOST = (
    "closed by peer",
    "reset by peer",
    "Broken pipe",
    "remote process exited",
    "Socket closed",
    "Connection refused",
)
"""Messages of torch's back ends in a process whose partner has died."""

_children: Sequence["subprocess.Popen[bytes]"] = ()
_is_one_of_several = False


def in_srun() -> bool:
    """Whether SLURM started this process as a task, by Lightning's rule; interactive shells have its variables too."""
    return "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")


def started_outside() -> bool:
    """Whether torchrun, SLURM or Lightning started this process together with others, by their variables."""
    tasks = os.environ.get("SLURM_NTASKS", "1") if in_srun() else "1"
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 or int(tasks) > 1


def is_first() -> bool:
    """Whether this is the process that writes files and logs."""
    names = ["RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", *(["SLURM_PROCID"] if in_srun() else [])]
    return all(os.environ.get(name, "0") == "0" for name in names)


def run_module(name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a module of this package in a process of its own, whose output is kept.

    Args:
        name: The module's, in full.
        arguments: Of its command line.
    """
    package = str(Path(__file__).parents[2])
    return subprocess.run(
        [sys.executable, "-m", name, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )


def watch_parent() -> None:
    """Exit when the launcher that started this process dies."""
    global _is_one_of_several
    _is_one_of_several = "LOCAL_RANK" in os.environ or started_outside()  # Lightning removes the variables at its end
    if "LOCAL_RANK" in os.environ:
        threading.Thread(target=_outlive, args=(os.getppid(),), daemon=True).start()


def _outlive(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_CHECK)
    os._exit(2)


def watch_children(children: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Exit when a child process fails; Lightning's own watcher would kill this process without a message.

    Args:
        children: The other processes of the run on this machine.
    """
    global _children
    _children = children
    threading.Thread(target=_fail_with, args=(children,), daemon=True).start()


def _fail_with(children: Sequence["subprocess.Popen[bytes]"]) -> None:
    while (failed := _failed(children)) is None:
        time.sleep(_CHECK)
    time.sleep(_GRACE)
    if failed:
        print(f"error: {failed}", file=sys.stderr, flush=True)
    os._exit(2)


def _failed(children: Sequence["subprocess.Popen[bytes]"]) -> str | None:
    """The message for a failed process, empty if it has printed one itself; None if none failed."""
    for rank, child in enumerate(children, start=1):
        status = child.poll()
        if status is not None and status < 0:
            name = signal.Signals(-status).name
            return f"process {rank + 1} of {len(children) + 1} was killed ({name}), probably out of memory"
        if status:
            return ""
    return None


def ended_by_another(error: BaseException) -> str | None:
    """Whether an error only follows from the death of another process.

    Args:
        error: What was raised in this process.

    Returns:
        A message, empty if another process has printed it; None for an error of this process itself.
    """
    if not (_children or _is_one_of_several) or not any(words in str(error) for words in _LOST):
        return None
    if not _children:
        return "another process of the run failed; see its message" if is_first() else ""
    deadline = time.monotonic() + _GRACE
    while (failed := _failed(_children)) is None and time.monotonic() < deadline:
        time.sleep(_CHECK)
    return failed
