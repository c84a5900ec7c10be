"""Folders of images, a folder a class: ImageNet, whatever is laid out like it, and ILSVRC's flat validation folder."""

import csv
import errno
import functools
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat

from mnv2vision.data.decoding import decode_image
from mnv2vision.data.sample import Sample
from mnv2vision.errors import DataError

_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_SOLUTION = "LOC_val_solution.csv"
_NUM_LEAVES = 1000  # the devkit numbers the classes 1..1000, and the synsets above them from there on
_CACHE_FORMAT = 1
_CLOCK_TICK_NS = 20_000_000


class ImageNet:
    """Images of `root/<split>/<class folder>/**`, labelled by the class folder.

    A class folder is named by its class, or by a synset of ImageNet, which is shown by its name. Files and folders
    whose name begins with a dot are left out. Where `root/<split>` holds images and no folders, as ILSVRC's validation
    set does, the labels come from the devkit or from Kaggle's solution file.

    Attributes:
        class_folders: Class folders (of a flat split: synsets) by label, sorted unless `classes` says otherwise.
        names: Display names by label.
        labels: (n,) int16 or int32, the class of every image.
        targets: The label alone.
    """

    targets: frozenset[str] = frozenset({"label"})

    def __init__(self, root: str | os.PathLike[str], split: str, *, classes: Sequence[str] | None = None) -> None:
        """Find the images, through the cached index if no folder has changed since.

        Args:
            root: The folder of the splits.
            split: A folder in it, such as "train" or "val".
            classes: The classes to keep, in the order of their labels, by folder or by display name.

        Raises:
            DataError: If the images or their classes cannot be found; it says what is expected where.
        """
        root = os.path.abspath(root)
        self._folder = _split_folder(root, split)
        folders, counts, files = _load_index(self._folder)
        self._flat = not folders
        labels: NDArray[np.integer] = np.repeat(np.arange(len(counts)), counts)
        if self._flat:
            folders, labels = _flat_labels(root, self._folder, [files[i] for i in range(len(files))])
        kept = list(range(len(folders))) if classes is None else _select(folders, classes, self._folder)
        if classes is not None:
            new_label = np.full(len(folders), -1)
            new_label[kept] = np.arange(len(kept))
            labels = new_label[labels]
            order = np.argsort(labels, kind="stable")[np.count_nonzero(labels < 0) :]
            labels, files = labels[order], files.take(order)
        self.class_folders = tuple(folders[i] for i in kept)
        self.names = tuple(_display_name(folder) for folder in self.class_folders)
        self.labels = labels.astype(np.int16 if len(kept) < 2**15 else np.int32)
        self._files = files
        empty = np.flatnonzero(np.bincount(self.labels, minlength=len(kept)) == 0)
        if empty.size and not self._flat:
            raise DataError(f"{self._folder}: no images in {_few([self.class_folders[i] for i in empty])}")

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        path = self.path(index)
        image_id = os.path.relpath(path, self._folder)
        return Sample(decode_image(path), image_id=image_id, path=path, label=int(self.labels[index]))

    def path(self, index: int) -> str:
        """The file of an image."""
        index = range(len(self))[index]
        class_folder = "" if self._flat else self.class_folders[self.labels[index]]
        return os.path.join(self._folder, class_folder, self._files[index])


def check_same_classes(train: ImageNet, val: ImageNet) -> None:
    """Raise a DataError that names the differing classes, unless both number the same classes alike."""
    if train.names == val.names:
        return
    only_train = [name for name in train.names if name not in val.names]
    only_val = [name for name in val.names if name not in train.names]
    parts = [f"{_few(only)} only in {kind}" for only, kind in ((only_train, "train"), (only_val, "val")) if only]
    raise DataError(f"the splits differ in their classes: {'; '.join(parts) or 'the same, in another order'}")


@functools.cache
def imagenet_synsets() -> tuple[str, ...]:
    """The WordNet ids (n01440764) of ILSVRC 2012's classes, by label."""
    return tuple(synset for synset, _ in _table())


@functools.cache
def imagenet_names() -> tuple[str, ...]:
    """The display names of ILSVRC 2012's classes, by label; no two are alike."""
    return tuple(name for _, name in _table())


@functools.cache
def _table() -> tuple[tuple[str, str], ...]:
    text = resources.files("mnv2vision.data").joinpath("imagenet_synsets.txt").read_text(encoding="utf-8")
    rows = (line.partition(" ") for line in text.splitlines() if not line.startswith("#"))
    return tuple((synset, name) for synset, _, name in rows)


@functools.cache
def _names_by_synset() -> dict[str, str]:
    return dict(_table())


def _display_name(folder: str) -> str:
    return _names_by_synset().get(folder, folder)


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


_Index = tuple[tuple[str, ...], NDArray[np.integer], FileNames]
"""Class folders (none if the split is flat), images in each, and all file names relative to their class folder."""


def _split_folder(root: str, split: str) -> str:
    if not os.path.isdir(root):
        raise DataError(f"{root}: the data set's root folder does not exist")
    folder = os.path.join(root, split)
    if not os.path.isdir(folder):
        try:
            splits = sorted(entry.name for entry in Path(root).iterdir() if entry.is_dir())
        except OSError as error:
            raise DataError(f"{root}: cannot be read ({error.strerror})") from error
        raise DataError(f"{folder}: there is no split {split!r}; the folders there are: {_few(splits) or 'none'}")
    return folder


def _select(folders: Sequence[str], classes: Sequence[str], where: str) -> list[int]:
    by_name = {_display_name(folder): i for i, folder in enumerate(folders)}
    by_name |= {folder: i for i, folder in enumerate(folders)}
    unknown = [name for name in classes if name not in by_name]
    if unknown:
        raise DataError(f"{where}: no class {_few(unknown)}; the classes are: {_few(folders, 20)}")
    kept = [by_name[name] for name in classes]
    if not kept or len(set(kept)) < len(kept):
        raise DataError(f"{where}: `classes` must name one class or more, and none twice: {_few(classes, 20)}")
    return kept


def _few(items: Sequence[str], limit: int = 5) -> str:
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


# ---- the index: a walk over the folders, or the cached result of one ----


def _load_index(folder: str) -> _Index:
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


def _scan(folder: str, visited: dict[str, int]) -> _Index:
    real = Path(folder).resolve()
    above = tuple(_identity(os.stat(parent)) for parent in real.parents)
    class_folders, images = _list(folder, "", above, visited)
    if not class_folders and not images:
        raise DataError(f"{folder}: expected class folders with images ({' '.join(_EXTENSIONS)}), found neither")
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
    return name.lower().endswith(_EXTENSIONS)


def _identity(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_dev, stat.st_ino


def _read_cache(cache: Path, folder: str) -> _Index | None:
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


def _write_cache(cache: Path, index: _Index, visited: dict[str, int]) -> None:
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


# ---- ILSVRC's flat validation folder ----


def _flat_labels(root: str, folder: str, names: Sequence[str]) -> tuple[tuple[str, ...], NDArray[np.integer]]:
    """The synsets and the label of every image (sorted by name) of a split without class folders."""
    devkit = [os.path.join(root, part) for part in ("", "data", "ILSVRC2012_devkit_t12/data")]
    for place in devkit:
        if os.path.isfile(os.path.join(place, _GROUND_TRUTH)):
            return _devkit_labels(place, folder, len(names))
    solution = os.path.join(root, _SOLUTION)
    if os.path.isfile(solution):
        return _solution_labels(solution, folder, names)
    raise DataError(
        f"{folder}: images without class folders need their labels: {_GROUND_TRUTH} and meta.mat of the devkit"
        f" in {_few(devkit)}, or Kaggle's {solution}"
    )


def _devkit_labels(place: str, folder: str, count: int) -> tuple[tuple[str, ...], NDArray[np.integer]]:
    truth, meta = os.path.join(place, _GROUND_TRUTH), os.path.join(place, "meta.mat")
    if not os.path.isfile(meta):
        raise DataError(f"{meta}: expected beside {_GROUND_TRUTH}, to tell its class numbers")
    try:
        synsets = np.atleast_1d(loadmat(meta, squeeze_me=True)["synsets"])
        by_number = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
    except Exception as error:  # SciPy's reader raises of many kinds
        raise DataError(f"{meta}: not the devkit's meta.mat ({type(error).__name__}: {error})") from error
    try:
        numbers = [int(line) for line in Path(truth).read_text().split()]
    except (OSError, ValueError) as error:
        raise DataError(f"{truth}: expected a class number a line ({error})") from error
    leaves = {number: synset for number, synset in by_number.items() if number <= _NUM_LEAVES}
    if unknown := sorted(set(numbers) - set(leaves)):
        raise DataError(f"{truth}: class {unknown[0]} is not among the {len(leaves)} of {meta}")
    if len(numbers) != count:
        raise DataError(f"{folder}: {count} images, but {len(numbers)} lines in {truth}: expected one a line")
    classes = sorted(leaves.values())
    return tuple(classes), np.searchsorted(classes, [leaves[number] for number in numbers])


def _solution_labels(path: str, folder: str, names: Sequence[str]) -> tuple[tuple[str, ...], NDArray[np.integer]]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            synsets = {row["ImageId"]: row["PredictionString"].split()[0] for row in csv.DictReader(file)}
    except (OSError, ValueError, KeyError, IndexError, AttributeError, csv.Error) as error:
        raise DataError(f"{path}: expected the columns ImageId,PredictionString ({error!r})") from error
    stems = [os.path.splitext(name)[0] for name in names]
    if missing := [stem for stem in stems if stem not in synsets]:
        raise DataError(f"{path}: no row for {_few(missing)} of {folder}")
    if len(stems) != len(synsets):
        raise DataError(f"{folder}: {len(stems)} images, but {len(synsets)} rows in {path}: expected one a row")
    classes = sorted(set(synsets.values()))
    return tuple(classes), np.searchsorted(classes, [synsets[stem] for stem in stems])
