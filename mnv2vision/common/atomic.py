"""Atomic file writes: a file is complete, or absent."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mnv2vision.errors import ConfigError

try:
    import fcntl
except ImportError:  # Windows: leftovers stay
    fcntl = None  # type: ignore[assignment]

_SUFFIX = ".partial"
_cleaned: set[Path] = set()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; renamed to `path` on success, removed on failure.

    Leftovers of killed processes in the same folder are removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if (folder := path.parent.absolute()) not in _cleaned:  # once per process: a folder may hold a million files
        _cleaned.add(folder)
        remove_leftovers(folder)
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_SUFFIX)
        temporary = Path(name)
        try:
            if fcntl is not None:
                with suppress(OSError):  # a file system without locks
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())  # a rename may reach the disk before the data
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
            os.close(descriptor)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of `atomic_path` whose process has died."""
    if fcntl is None or not folder.is_dir():
        return
    for left in folder.iterdir():
        if left.name.startswith(".") and left.name.endswith(_SUFFIX):
            with suppress(OSError), left.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()


def check_writable(path: Path) -> None:
    """Raise ConfigError if this file cannot be written: before long work, not after it."""
    above = next((parent for parent in path.absolute().parents if parent.exists()), path)
    if path.is_dir() or not above.is_dir() or not os.access(above, os.W_OK):
        raise ConfigError(f"output={path} cannot be written; give a file in a writable folder")


def write_text(path: Path, text: str) -> None:
    """Write a text file."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
