"""What a measurement was made on, and how much memory there is."""

import ctypes
import platform
from contextlib import suppress
from pathlib import Path


def processor() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def memory() -> int | None:
    """Bytes of main memory that this process has or could get now, by the system and its control group; None: unknown.

    Source: proc(5), and the kernel's cgroup-v2 documentation (memory.max, memory.current).
    """
    status, system = Path("/proc/self/status"), Path("/proc/meminfo")
    if not (status.exists() and system.exists()):
        return None
    own = _kilobytes(status, "VmRSS")
    free = _kilobytes(system, "MemAvailable")
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # no such group, or no limit ("max")
        free = min(free, int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return own + free


def forget_peak() -> None:
    """Start `peak_memory` anew (proc(5), /proc/pid/clear_refs).

    Memory that was freed goes back to the system first (malloc_trim(3)): what is taken of it would count as nothing.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """Most bytes of main memory that this process had at once since `forget_peak`."""
    return _kilobytes(Path("/proc/self/status"), "VmHWM")


def _kilobytes(table: Path, name: str) -> int:
    line = next(line for line in table.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
