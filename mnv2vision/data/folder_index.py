"""The files below class folders, found by a walk or in the cached result of one, and held in two arrays."""

import errno
import functools
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2vision.errors import DataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_CACHE_FORMAT = 1
_CLOCK_TICK_NS = 20_000_000


@dataclass(frozen=True, slots=True)
class FileNames:
    """A sequence of names in two arrays: a million Python strings would be copied into every worker.

    Attributes:
        text: (b,) uint8, all the names in a row.
        ends: (n + 1,) where each name begins, and the last one ends.
    """

    text: NDArray[np.uint8]
    ends: NDArray[np.integer]

    @classmethod
    def of(cls, names: Sequence[str]) -> "FileNames":
        """Pack the names."""
        encoded = [os.fsencode(name) for name in names]
        return cls(np.frombuffer(b"".join(encoded), np.uint8), _ends(np.array([len(name) for name in encoded], int)))

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: int) -> str:
        return os.fsdecode(self.text[self.ends[index] : self.ends[index + 1]].tobytes())

    def take(self, order: NDArray[np.integer]) -> "FileNames":
        """The names of these indices."""
        lengths = np.diff(self.ends)[order]
        ends = _ends(lengths)
        source = np.repeat(self.ends[order] - ends[:-1], lengths) + np.arange(ends[-1], dtype=ends.dtype)
        return FileNames(self.text[source], ends)


def _ends(lengths: NDArray[np.integer]) -> NDArray[np.integer]:
    ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return ends.astype(np.int32) if ends[-1] < 2**31 else ends


Index = tuple[tuple[str, ...], NDArray[np.integer], FileNames]
"""Class folders (none if the split is flat), images in each, and all file names relative to their class folder."""


def few(items: Sequence[str], limit: int = 5) -> str:
    """The first names of a list, and how many more there are, for a message."""
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


def load_index(folder: str) -> Index:
    """The index of a split's folder, from the cache where no folder has changed; DataError if it cannot be walked."""
    home = os.environ.get("MNV2VISION_HOME") or os.path.expanduser("~/.cache/mnv2vision")
    key = hashlib.sha256(os.fsencode(f"{_CACHE_FORMAT}:{os.path.realpath(folder)}")).hexdigest()[:32]
    cache = Path(home, "index", f"{key}.npz")
    index = _read_cache(cache, folder)
    if index is None:
        started = time.time_ns()
        visited: dict[str, int] = {}
        try:
            index = _scan(folder, visited)
        except OSError as error:
            reason = "a symbolic link to itself" if error.errno == errno.ELOOP else error.strerror
            raise DataError(f"{error.filename or folder}: cannot be read ({reason})") from error
        # A folder written within the clock's tick may change again under the same time: never trust its entry.
        times = {name: -1 if changed > started - _CLOCK_TICK_NS else changed for name, changed in visited.items()}
        _write_cache(cache, index, times)
    return index


def _scan(folder: str, visited: dict[str, int]) -> Index:
    real = Path(folder).resolve()
    above = tuple(_identity(os.stat(parent)) for parent in real.parents)
    class_folders, images = _list(folder, "", above, visited)
    if not class_folders and not images:
        raise DataError(f"{folder}: expected class folders with images ({' '.join(EXTENSIONS)}), found neither")
    if not class_folders:
        return (), np.zeros(0, np.int64), FileNames.of(images)
    above = (*above, _identity(os.stat(folder)))
    lists = [sorted(_images_below(folder, name, above, visited)) for name in class_folders]
    # The class folder is known by the label: its name is not stored again with every image.
    names = [image[len(name) + 1 :] for name, images in zip(class_folders, lists, strict=True) for image in images]
    return tuple(class_folders), np.array([len(images) for images in lists]), FileNames.of(names)


def _images_below(folder: str, name: str, above: tuple[object, ...], visited: dict[str, int]) -> Iterator[str]:
    subfolders, images = _list(folder, name, above, visited)
    yield from (f"{name}/{image}" for image in images)
    if subfolders:
        above = (*above, _identity(os.stat(os.path.join(folder, name))))
        for subfolder in subfolders:
            yield from _images_below(folder, f"{name}/{subfolder}", above, visited)


def _list(folder: str, name: str, above: tuple[object, ...], visited: dict[str, int]) -> tuple[list[str], list[str]]:
    """List a folder: its subfolders and its images, sorted."""
    path = os.path.join(folder, name) if name else folder
    stat = os.stat(path)
    if _identity(stat) in above:
        raise DataError(f"{path}: this symbolic link leads back to a folder above it")
    visited[name] = stat.st_mtime_ns  # taken before the listing: a later change shows
    with os.scandir(path) as entries:
        visible = [(entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith(".")]
    subfolders = sorted(name for name, is_folder in visible if is_folder)
    return subfolders, sorted(name for name, is_folder in visible if not is_folder and _is_image(name))


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def _identity(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_dev, stat.st_ino


def _read_cache(cache: Path, folder: str) -> Index | None:
    """The cached index, or None if there is none or a folder has changed since."""
    try:
        with np.load(cache) as stored:
            arrays = dict(stored)
        for name, changed in zip(arrays["visited"].tolist(), arrays["times"].tolist(), strict=True):
            if os.stat(os.path.join(folder, name)).st_mtime_ns != changed:
                return None
        return tuple(arrays["folders"].tolist()), arrays["counts"], FileNames(arrays["text"], arrays["ends"])
    except FileNotFoundError:  # no cache yet, or a folder is gone
        return None
    except Exception as error:  # a damaged archive raises of zipfile's, NumPy's and zlib's errors whichever comes first
        _warn(f"the image index {cache} cannot be read and is built anew ({error})")
        return None


def _write_cache(cache: Path, index: Index, visited: dict[str, int]) -> None:
    folders, counts, files = index
    arrays: dict[str, Any] = {
        "folders": np.array(folders, str),
        "counts": counts,
        "text": files.text,
        "ends": files.ends,
        "visited": np.array(list(visited), str),
        "times": np.array(list(visited.values())),
    }
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cache.parent, suffix=".tmp", delete=False) as file:
            try:
                np.savez(file, **arrays)
                os.replace(file.name, cache)  # at once: a process beside this one never reads half a file
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        _warn(f"the image index cannot be kept in {cache.parent} ({error.strerror}): the folders are walked every time")


@functools.cache
def _warn(message: str) -> None:
    """Log a warning, once in a process."""
    logging.getLogger(__name__).warning(message)
