"""One folder of images per class: ImageNet, data sets in its layout, and ILSVRC's flat validation folder."""

import csv
import functools
import logging
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnv2vision.common.text import few
from mnv2vision.data.decoding import decode_image
from mnv2vision.data.formats.classes import split_names
from mnv2vision.data.formats.faults import are_wanted
from mnv2vision.data.formats.folder_index import load_index, tell_of_left_out
from mnv2vision.data.formats.names import FileNames
from mnv2vision.data.sample import Sample
from mnv2vision.errors import DataError

log = logging.getLogger(__name__)

_GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_SOLUTION = "LOC_val_solution.csv"
_NUM_LEAVES = 1000  # the devkit numbers the classes 1..1000, then the synsets above them


class ImageNet:
    """Images of `root/<split>/<class folder>/**`, labelled by the class folder.

    A class folder has the name of its class, or of an ImageNet synset, for which its name is displayed. Files and
    folders starting with a dot are ignored. If `root/<split>` has images but no folders, like ILSVRC's validation set,
    the labels come from the devkit or from Kaggle's solution file.

    Attributes:
        class_folders: Class folders (of a flat split: synsets) by label, sorted unless `classes` is given.
        names: Display names by label.
        labels: (n,) int16 or int32, the label of every image.
        flat: Whether there are no class folders, and the labels go by the order of files.
        targets: The label only.
    """

    targets: frozenset[str] = frozenset({"label"})

    def __init__(self, root: str | os.PathLike[str], split: str, *, classes: Sequence[str] | None = None) -> None:
        """Find the images, using the cached index if no folder has changed.

        Args:
            root: The folder with the splits.
            split: A folder in it, such as "train" or "val"; "" if the class folders are in the root itself.
            classes: Folders or display names of the classes to keep, in label order.

        Raises:
            DataError: If the images or their classes cannot be found; it says what is expected.
        """
        root = os.path.abspath(root)
        self._folder = _split_folder(root, split)
        index = load_index(self._folder)
        tell_of_left_out(index, self._folder)
        folders, files = index.folders, index.files
        if len(folders) == 1:
            _check_level(folders[0], files, self._folder)
        self.flat = not folders
        labels: NDArray[np.integer] = np.repeat(np.arange(len(index.counts)), index.counts)
        if self.flat:
            folders, labels = _flat_labels(root, self._folder, [files[i] for i in range(len(files))])
        wanted = None if classes is None else [str(name) for name in classes]  # may be numbers
        kept = list(range(len(folders))) if wanted is None else _select(folders, wanted, self._folder)
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
        if empty.size and not self.flat and not are_wanted():  # else said of the classes
            raise DataError(f"{self._folder}: no images in {few([self.class_folders[i] for i in empty])}")

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        path = self.path(index)
        return Sample(decode_image(path), image_id=self.image_id(index), path=path, label=int(self.labels[index]))

    def image_id(self, index: int) -> str:
        """The id of an image: its path below the split's folder."""
        return os.path.relpath(self.path(index), self._folder)

    def path(self, index: int) -> str:
        """The path of an image."""
        index = range(len(self))[index]
        class_folder = "" if self.flat else self.class_folders[self.labels[index]]
        return os.path.join(self._folder, class_folder, self._files[index])


def check_same_classes(train: Sequence[str], val: Sequence[str]) -> None:
    """Raise a DataError, naming the differences, unless both have the same classes in the same order."""
    if tuple(train) == tuple(val):
        return
    only_train = [name for name in train if name not in val]
    only_val = [name for name in val if name not in train]
    parts = [f"{few(only)} only in {kind}" for only, kind in ((only_train, "train"), (only_val, "val")) if only]
    raise DataError(f"the splits have different classes: {'; '.join(parts) or 'the same ones in another order'}")


def imagenet_names() -> tuple[str, ...]:
    """The display names of ILSVRC 2012's classes, by label; all distinct."""
    return tuple(imagenet_classes().values())


@functools.cache
def imagenet_classes() -> dict[str, str]:
    """The display names of ILSVRC 2012's classes by WordNet id (n01440764), in label order."""
    text = resources.files("mnv2vision.data.formats").joinpath("imagenet_synsets.txt").read_text(encoding="utf-8")
    rows = (line.partition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {synset: name for synset, _, name in rows}


def _display_name(folder: str) -> str:
    return imagenet_classes().get(folder, folder)


def find_imagenet_split(root: str | os.PathLike[str], split: str) -> str | None:
    """The folder of a split, if there is one."""
    folders = (os.path.join(root, name) for name in split_names(split))
    return next(filter(os.path.isdir, folders), None)


def _split_folder(root: str, split: str) -> str:
    if not os.path.isdir(root):
        raise DataError(f"{root}: the data set's root folder does not exist")
    folder = find_imagenet_split(root, split)
    if folder is None:
        try:
            splits = sorted(entry.name for entry in Path(root).iterdir() if entry.is_dir())
        except OSError as error:
            raise DataError(f"{root}: cannot be read ({error.strerror})") from error
        raise DataError(f"{os.path.join(root, split)}: no split {split!r}; folders found: {few(splits) or 'none'}")
    return folder


def _check_level(folder: str, files: FileNames, where: str) -> None:
    """DataError for a single class that has only sub-folders, which are probably the classes."""
    parts = {files[i].rpartition("/")[0].partition("/")[0] for i in range(len(files))}
    if "" not in parts and len(parts) > 1:
        raise DataError(
            f"{where}: a single class {folder}, with sub-folders {few(sorted(parts))}:"
            " is dataset.root, or the split, one level too high?"
        )


def _select(folders: Sequence[str], classes: Sequence[str], where: str) -> list[int]:
    by_name = {_display_name(folder): i for i, folder in enumerate(folders)}
    by_name |= {folder: i for i, folder in enumerate(folders)}
    unknown = [name for name in classes if name not in by_name]
    if unknown:
        raise DataError(f"{where}: no class {few(unknown)}; the classes are: {few(folders, 20)}")
    kept = [by_name[name] for name in classes]
    if not kept or len(set(kept)) < len(kept):
        raise DataError(f"{where}: `classes` must be one or more distinct names, not {few(classes, 20)}")
    return kept


def _flat_labels(root: str, folder: str, names: Sequence[str]) -> tuple[tuple[str, ...], NDArray[np.integer]]:
    """The synsets, and the label of every image (sorted by name), of a split without class folders."""
    devkit = [os.path.join(root, part) for part in ("", "data", "ILSVRC2012_devkit_t12/data")]
    for place in devkit:
        if os.path.isfile(os.path.join(place, _GROUND_TRUTH)):
            return _devkit_labels(place, folder, len(names))
    solution = os.path.join(root, _SOLUTION)
    if os.path.isfile(solution):
        return _solution_labels(solution, folder, names)
    raise DataError(
        f"{folder}: images without class folders need labels: the devkit's {_GROUND_TRUTH} and meta.mat in"
        f" {few(devkit)}, or Kaggle's {solution}"
    )


def _devkit_labels(place: str, folder: str, count: int) -> tuple[tuple[str, ...], NDArray[np.integer]]:
    from scipy.io import loadmat  # prediction does without it

    truth, meta = os.path.join(place, _GROUND_TRUTH), os.path.join(place, "meta.mat")
    if not os.path.isfile(meta):
        raise DataError(f"{meta}: missing; it explains the class numbers of {_GROUND_TRUTH}")
    try:
        synsets = np.atleast_1d(loadmat(meta, squeeze_me=True)["synsets"])
        by_number = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
    except Exception as error:  # SciPy's reader raises errors of many kinds
        raise DataError(f"{meta}: not the devkit's meta.mat ({type(error).__name__}: {error})") from error
    try:
        numbers = [int(line) for line in Path(truth).read_text().split()]
    except (OSError, ValueError) as error:
        raise DataError(f"{truth}: expected one class number per line ({error})") from error
    leaves = {number: synset for number, synset in by_number.items() if number <= _NUM_LEAVES}
    if unknown := sorted(set(numbers) - set(leaves)):
        raise DataError(f"{truth}: class {unknown[0]} is not among the {len(leaves)} of {meta}")
    if len(numbers) != count:
        raise DataError(f"{folder}: {count} images, but {len(numbers)} lines in {truth}: expected one line per image")
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
        raise DataError(f"{path}: no row for {few(missing)} of {folder}")
    if len(stems) != len(synsets):
        raise DataError(f"{folder}: {len(stems)} images, but {len(synsets)} rows in {path}: expected one row per image")
    classes = sorted(set(synsets.values()))
    return tuple(classes), np.searchsorted(classes, [synsets[stem] for stem in stems])
