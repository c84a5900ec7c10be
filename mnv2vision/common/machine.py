"""What a measurement was made on, and how much memory there is."""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath


def processor() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def memory(root: Path = Path("/")) -> int | None:
    """Bytes of main memory that this process has or could get now, by the system and its control groups; None: unknown.

    Args:
        root: Where /proc and /sys are.
    """
    status, system = root / "proc/self/status", root / "proc/meminfo"
    if not (status.exists() and system.exists()):
        return None
    own = _kilobytes(status, "VmRSS")
    free = _kilobytes(system, "MemAvailable")
    return own + min([free, *_left_to_groups(root)])


def _left_to_groups(root: Path) -> Iterator[int]:
    """Bytes that the limits of this process's control groups leave: its own, and those around it.

    Source: cgroups(7), and the kernel's documentation of cgroup-v2 (memory.max) and cgroup-v1 (memory.limit_in_bytes).
    """
    table = root / "proc/self/cgroup"
    lines = table.read_text().splitlines() if table.exists() else []
    for controller, mount, limit, used in (
        ("", "sys/fs/cgroup", "memory.max", "memory.current"),
        ("memory", "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        found = {PurePosixPath("/")}  # in a container often its own, whatever the table says
        for _, controllers, path in (line.split(":", 2) for line in lines):
            if controller in controllers.split(","):
                found |= {PurePosixPath(path), *PurePosixPath(path).parents}
        for group in found:
            folder = root / mount / group.relative_to("/")
            with suppress(OSError, ValueError):  # no such group, or no limit ("max")
                yield int((folder / limit).read_text()) - int((folder / used).read_text())


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
