"""Arrays made from files, kept in the cache folder and memory-mapped while the files stay unchanged."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from mnv2vision.common.atomic import write_text
from mnv2vision.common.cache import home
from mnv2vision.common.logs import warn_once
from mnv2vision.data.formats.faults import are_wanted
from mnv2vision.errors import DataError

Build = Callable[[], Mapping[str, NDArray[Any]]]
_SETTLED_NS = 2_000_000_000  # FAT has times of two seconds: a younger file may change without a new time


@dataclass(frozen=True)
class Arrays:
    """Read-only arrays by name; other processes are sent only the folder they are mapped from, if any.

    Attributes:
        values: The arrays.
        folder: The folder they are mapped from; None for arrays in memory.
    """

    values: Mapping[str, NDArray[Any]]
    folder: Path | None = None

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.values[name]

    def __reduce__(self) -> tuple[object, ...]:
        return (Arrays, (self.values,)) if self.folder is None else (_mapped, (self.folder,))


@dataclass(frozen=True)
class _Sources:
    paths: Sequence[Path | str]
    folder: Path | None

    def named(self) -> Iterator[tuple[Path | str, bytes]]:
        """Each file and its name in the folder, where files of equal size and time may have been swapped."""
        skipped = len(str(self.folder))
        for path in self.paths:
            yield path, b"" if self.folder is None else os.fsencode(str(path)[skipped:])


def cached_arrays(key: str, sources: Sequence[Path | str], build: Build, *, folder: Path | None = None) -> Arrays:
    """The arrays that `build` makes from files; from the cache if these are unchanged.

    Files are compared by size and time; by hash if times are too recent, or missing (a mounted bucket). Concurrent
    processes wait for the one that builds. Without a writable cache folder, or where faults are collected, the arrays
    are built every time.

    Args:
        key: Kind and version of the arrays' layout, and anything else that `build` depends on.
        sources: The files, in a fixed order.
        build: Makes the arrays; if it raises, nothing is cached.
        folder: The folder of the sources, if files may be added or removed: the new arrays then replace the old ones.

    Raises:
        DataError: If a file cannot be read.
    """
    if are_wanted():  # which an index does not hold
        return Arrays(build())
    cache = home() / "index"
    files = _Sources(sources, folder)
    names = [os.path.realpath(path) for path in (sources if folder is None else [folder])]
    entry = hashlib.sha256(os.fsencode("\n".join([key, *names]))).hexdigest()[:32]
    found = _load(cache, entry, files)
    if found is not None:
        return found
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = FileLock(cache / f"{entry}.lock")
        lock.acquire()
    except OSError as error:
        warn_once(
            __name__,
            f"no index in {cache} ({error.strerror or error}): annotations are read every time",
        )
        return Arrays(build())
    try:
        return _load(cache, entry, files) or _make(cache, entry, files, build)  # perhaps another process has built it
    finally:
        lock.release()


def _make(cache: Path, entry: str, sources: _Sources, build: Build) -> Arrays:
    stamp = _stamp(sources)
    digest = _digest(sources)
    arrays = build()
    if stamp[0] != _stamp(sources)[0]:
        return Arrays(arrays)  # changed meanwhile: unknown which state was read
    folder = cache / f"{entry}-{digest[:32]}"
    try:
        for old in list(cache.glob(f"{entry}-*")):  # outdated, damaged, or left by a killed process
            gone = old.rename(cache / f"{entry}-{uuid.uuid4().hex}")  # atomic, unlike rmtree
            shutil.rmtree(gone, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(dir=cache, prefix=f"{entry}-"))
        try:
            for name, array in arrays.items():
                with (temporary / f"{name}.npy").open("wb") as file:
                    np.save(file, array)
                    file.flush()
                    os.fsync(file.fileno())  # a rename may reach the disk before the data
            temporary.chmod(0o755)  # mkdtemp makes it private
            temporary.rename(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _write_state(cache, entry, stamp, digest)
        return _mapped(folder)
    except OSError as error:
        warn_once(
            __name__,
            f"no index in {cache} ({error.strerror or error}): annotations are read every time",
        )
        return Arrays(arrays)


def _load(cache: Path, entry: str, sources: _Sources) -> Arrays | None:
    stamp = _stamp(sources)
    try:
        state = json.loads((cache / f"{entry}.json").read_text())
        known, digest = str(state["stamp"]), str(state["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # never built, or by a killed process
    trusted = stamp == (known, True)
    if not trusted and _digest(sources) != digest:
        return None
    try:
        arrays = _mapped(cache / f"{entry}-{digest[:32]}")
    except FileNotFoundError:
        return None
    except (DataError, OSError, ValueError) as error:
        warn_once(__name__, f"rebuilding an unreadable index in {cache} ({error})")
        return None
    if not trusted:
        with contextlib.suppress(OSError):
            _write_state(cache, entry, stamp, digest)
    return arrays


def _mapped(folder: Path) -> Arrays:
    """The arrays of a folder, mapped; FileNotFoundError if there are none."""
    values: dict[str, NDArray[Any]] = {}
    for path in sorted(folder.glob("*.npy")):
        array = np.load(path, mmap_mode="r")
        values[path.stem] = np.asarray(array)  # a plain view: slices of np.memmap are slow to make
    if not values:
        raise FileNotFoundError(f"{folder}: the index was removed: the annotations changed while in use")
    return Arrays(values, folder)


def _stamp(sources: _Sources) -> tuple[str, bool]:
    """A hash of the files' sizes and times, and whether these identify the files reliably."""
    now = time.time_ns()
    hasher, settled = hashlib.sha256(), True
    for path, name in sources.named():
        try:
            stat = os.stat(path)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error
        settled &= 0 < stat.st_mtime_ns < now - _SETTLED_NS
        hasher.update(b"%d %d %s\n" % (stat.st_size, stat.st_mtime_ns, name))
    return hasher.hexdigest(), settled


def _write_state(cache: Path, entry: str, stamp: tuple[str, bool], digest: str) -> None:
    times, settled = stamp
    write_text(cache / f"{entry}.json", json.dumps({"stamp": times if settled else "", "digest": digest}))


def _digest(sources: _Sources) -> str:
    hasher = hashlib.sha256()
    for path, name in sources.named():
        try:
            with open(path, "rb") as file:
                hasher.update(hashlib.file_digest(file, "sha256").digest() + name)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return hasher.hexdigest()
