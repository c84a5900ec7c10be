"""The images below a folder, found by a walk or in its cached result."""

import errno
import hashlib
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2vision.common.atomic import atomic_path
from mnv2vision.common.cache import home
from mnv2vision.common.logs import warn_once
from mnv2vision.common.text import few
from mnv2vision.data.decoding import IMAGE_EXTENSIONS, UNREAD_EXTENSIONS
from mnv2vision.data.formats.faults import Fault, are_wanted, note
from mnv2vision.data.formats.names import FileNames
from mnv2vision.errors import DataError

log = logging.getLogger(__name__)

_CACHE_FORMAT = 2
_CLOCK_TICK_NS = 20_000_000
_UNKNOWN = -(2**62)  # a time that no folder has


@dataclass(frozen=True, slots=True)
class Index:
    """The images of a split's folder.

    Attributes:
        folders: Class folders; none if the split is flat, or they are not wanted.
        counts: (C,) images in each.
        files: All their names, relative to their class folder.
        left_out: Number of ignored files by extension, and of images beside the class folders.
    """

    folders: tuple[str, ...]
    counts: NDArray[np.integer]
    files: FileNames
    left_out: Mapping[str, int]


def load_index(folder: str, *, classes: bool = True) -> Index:
    """The index of a folder, from the cache if no folder's time has changed.

    Where times mean nothing, as in a mounted bucket, or faults are collected, the folders are walked every time.

    Args:
        folder: Of a split.
        classes: Whether the folders in it are classes; else all images below it are alike.

    Raises:
        DataError: If the folder cannot be walked, or has no images.
    """
    key = hashlib.sha256(
        os.fsencode(f"{_CACHE_FORMAT}{'' if classes else ' flat'}:{os.path.realpath(folder)}")
    ).hexdigest()[:32]
    cache = home() / "index" / f"{key}.npz"
    index = None if are_wanted() else _read_cache(cache, folder)  # which does not hold what is left out by name
    if index is None:
        started = time.time_ns()
        walk = _Walk(folder)
        try:
            index = walk.index() if classes else walk.flat_index()
        except OSError as error:
            reason = "a symbolic link to itself" if error.errno == errno.ELOOP else error.strerror
            raise DataError(f"{error.filename or folder}: cannot be read ({reason})") from error
        # A folder written within the clock's tick may change again without a new time: never trust its entry.
        latest = started - _CLOCK_TICK_NS if _has_times(folder, list(walk.visited.values())) else _UNKNOWN
        times = {name: changed if changed <= latest else _UNKNOWN for name, changed in walk.visited.items()}
        _write_cache(cache, index, times)
    return index


def tell_of_left_out(index: Index, folder: str) -> None:
    """Warn of the files that are no images, with their number by extension."""
    kinds = [f"{kind or 'without extension'} {count}" for kind, count in sorted(index.left_out.items()) if count]
    if kinds:
        files = "1 file is" if (count := sum(index.left_out.values())) == 1 else f"{count} files are"
        log.warning("%s: %s ignored, without an image extension (%s)", folder, files, few(kinds, 10))


class _Walk:
    """A walk through a split's folder.

    Attributes:
        visited: Folder times by name.
    """

    def __init__(self, folder: str) -> None:
        self.visited: dict[str, int] = {}
        self._folder = folder
        self._left_out: Counter[str] = Counter()

    def index(self) -> Index:
        """Walk it."""
        above = self._parents()
        class_folders, images = self._list("", above)
        if not class_folders and not images:
            raise DataError(f"{self._folder}: no class folders and no images ({' '.join(IMAGE_EXTENSIONS)})")
        if not class_folders:
            return Index((), np.zeros(0, np.int64), FileNames.of(images), self._left_out)
        self._left_out["beside the class folders"] += len(images)
        for name in images:
            told = "lies beside the class folders, and has no class"
            note(Fault("unlabelled image", told, os.path.join(self._folder, name)))
        above = (*above, _identity(os.stat(self._folder)))
        lists = [sorted(self._images_below(name, above)) for name in class_folders]
        # The label gives the class folder: its name is not stored with every image.
        names = [image[len(name) + 1 :] for name, images in zip(class_folders, lists, strict=True) for image in images]
        counts = np.array([len(images) for images in lists])
        return Index(tuple(class_folders), counts, FileNames.of(names), self._left_out)

    def flat_index(self) -> Index:
        """Walk it, whatever its folders mean."""
        images = sorted(self._images_below("", self._parents()))
        if not images:
            raise DataError(f"{self._folder}: no images ({' '.join(IMAGE_EXTENSIONS)})")
        return Index((), np.zeros(0, np.int64), FileNames.of(images), self._left_out)

    def _parents(self) -> tuple[object, ...]:
        return tuple(_identity(os.stat(parent)) for parent in Path(self._folder).resolve().parents)

    def _images_below(self, name: str, above: tuple[object, ...]) -> Iterator[str]:
        subfolders, images = self._list(name, above)
        prefix = f"{name}/" if name else ""
        yield from (f"{prefix}{image}" for image in images)
        if subfolders:
            above = (*above, _identity(os.stat(os.path.join(self._folder, name))))
            for subfolder in subfolders:
                yield from self._images_below(f"{prefix}{subfolder}", above)

    def _list(self, name: str, above: tuple[object, ...]) -> tuple[list[str], list[str]]:
        """List a folder: its subfolders and its images, sorted."""
        path = os.path.join(self._folder, name) if name else self._folder
        stat = os.stat(path)
        if _identity(stat) in above:
            raise DataError(f"{path}: this symbolic link points to a folder above it")
        self.visited[name] = stat.st_mtime_ns  # before listing, so that a later change shows
        with os.scandir(path) as entries:
            visible = [(entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith(".")]
        subfolders = sorted(name for name, is_folder in visible if is_folder)
        files = [name for name, is_folder in visible if not is_folder]
        images = sorted(name for name in files if name.lower().endswith(IMAGE_EXTENSIONS))
        others = [name for name in files if not name.lower().endswith(IMAGE_EXTENSIONS)]
        for other in sorted(others):
            extension = os.path.splitext(other)[1].lower()
            self._left_out[extension] += 1
            if extension in UNREAD_EXTENSIONS:
                note(Fault("image not read", f"{extension} is ignored", os.path.join(path, other)))
        return subfolders, images


def _has_times(folder: str, times: Sequence[int]) -> bool:
    """Whether folder times show changes: not if they are missing, or all are the time of mounting."""
    alike = len(times) > 1 and len(set(times)) == 1
    return min(times) > 0 and not alike and "fuse" not in _file_system(os.path.realpath(folder)).split(".")


def _file_system(path: str) -> str:
    """The type of a path's file system on Linux; empty elsewhere."""
    try:
        lines = Path("/proc/self/mounts").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ""
    mounts = [(fields[1].replace("\\040", " "), fields[2]) for line in lines if len(fields := line.split()) > 2]
    holding = [(len(place), kind) for place, kind in mounts if f"{path}/".startswith(f"{place.rstrip('/')}/")]
    return max(holding, default=(0, ""))[1]


def _identity(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_dev, stat.st_ino


def _read_cache(cache: Path, folder: str) -> Index | None:
    """The cached index; None if there is none, or a folder has changed."""
    try:
        with np.load(cache) as stored:
            arrays = dict(stored)
        for name, changed in zip(arrays["visited"].tolist(), arrays["times"].tolist(), strict=True):
            if os.stat(os.path.join(folder, name)).st_mtime_ns != changed:
                return None
        files = FileNames(arrays["text"], arrays["ends"])
        left_out = dict(zip(arrays["left_out"].tolist(), arrays["left_out_counts"].tolist(), strict=True))
        return Index(tuple(arrays["folders"].tolist()), arrays["counts"], files, left_out)
    except FileNotFoundError:  # no cache yet, or a folder is gone
        return None
    except Exception as error:  # damaged archives raise errors of zipfile, NumPy and zlib
        warn_once(__name__, f"rebuilding the unreadable image index {cache} ({error})")
        return None


def _write_cache(cache: Path, index: Index, visited: dict[str, int]) -> None:
    arrays: dict[str, Any] = {
        "folders": np.array(index.folders, str),
        "counts": index.counts,
        "text": index.files.text,
        "ends": index.files.ends,
        "left_out": np.array(list(index.left_out), str),
        "left_out_counts": np.array(list(index.left_out.values()), int),
        "visited": np.array(list(visited), str),
        "times": np.array(list(visited.values())),
    }
    try:
        with atomic_path(cache) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)
    except OSError as error:
        warn_once(
            __name__,
            f"no image index in {cache.parent} ({error.strerror}): folders are walked every time",
        )
