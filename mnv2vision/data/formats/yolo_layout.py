"""The folder of a YOLO data set: what data.yaml says, the images of a split, and the label file of each."""

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from mnv2vision.common.text import few
from mnv2vision.data.decoding import IMAGE_EXTENSIONS
from mnv2vision.data.formats.classes import split_names
from mnv2vision.data.formats.faults import Fault, note
from mnv2vision.data.formats.folder_index import load_index
from mnv2vision.data.formats.voc_lists import read_text
from mnv2vision.errors import DataError

log = logging.getLogger(__name__)

_NO_LABELS = frozenset({"classes.txt", "train.txt", "val.txt", "test.txt", "notes.txt"})
"""What else lies in folders of labels, or of images with their labels."""


@dataclass(frozen=True)
class Description:
    """What data.yaml says.

    Attributes:
        file: It, or `classes.txt`.
        base: The folder that its paths are relative to.
        names: Class names by id.
        splits: The folders, lists and images of each split.
    """

    file: Path
    base: Path
    names: tuple[str, ...]
    splits: Mapping[str, Sequence[str]]


def describe(root: Path) -> Description:
    """Read data.yaml, or a folder's only other YAML file with `names`; without one, the names in `classes.txt`.

    Args:
        root: The folder, or the YAML file itself.

    Raises:
        DataError: If there is no such file, or it is invalid.
    """
    if os.path.isfile(root):  # Path.is_file raises for long names
        return _parse(root)
    if not os.path.isdir(root):
        raise DataError(f"{root}: the data set's root folder does not exist")
    files = sorted([*root.glob("*.yaml"), *root.glob("*.yml")])
    known = [file for file in files if file.stem == "data"] or [file for file in files if "names" in _load(file)]
    if len(known) > 1:
        raise DataError(f"{root}: has {few([file.name for file in known])}: give one of them, dataset.root={known[0]}")
    if known:
        return _parse(known[0])
    places = [root / "classes.txt", root / "labels/classes.txt"]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise DataError(f"{root / 'data.yaml'}: no such file, nor classes.txt, for the names of the classes")
    lines = [line.strip() for line in read_text(file).splitlines()]
    return Description(file, root, _checked([line for line in lines if line], file), {})


def _load(file: Path) -> dict[str, object]:
    try:
        # Everything as it is written: a class may be named no, or 01.
        content = yaml.load(read_text(file), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise DataError(f"{file}: is not valid YAML ({' '.join(str(error).split())})") from error
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from error
    if not isinstance(content, dict):
        raise DataError(f"{file}: expected names, train and val, as in YOLO's data.yaml")
    return content


def _parse(file: Path) -> Description:
    content = _load(file)
    if content.get("kpt_shape"):
        raise DataError(f"{file}: has kpt_shape: key points are not read; export the boxes or outlines without them")
    given = content.get("names")
    if isinstance(given, dict):
        order = {str(number): number for number in range(len(given))}
        if unknown := [key for key in given if key not in order]:
            raise DataError(
                f"{file}: names has the id {unknown[0]}, but ids are 0 to {len(given) - 1}, as there are {len(given)}"
            )
        given = [given[key] for key in order]
    if not isinstance(given, list) or not given or not all(isinstance(name, str) and name.strip() for name in given):
        raise DataError(f"{file}: needs names, a list of class names, or a mapping of ids to names")
    count = content.get("nc")
    if count is not None and count != str(len(given)):
        raise DataError(f"{file}: nc is {count}, but there are {len(given)} names")
    path = content.get("path") or ""
    base = file.parent / str(path)
    splits = {key: _entries(value) for key, value in content.items() if key not in ("names", "nc", "path")}
    return Description(file, base if base.is_dir() else file.parent, _checked(given, file), splits)


def _entries(value: object) -> list[str]:
    items = value if isinstance(value, list) else [value]
    return [item for item in items if isinstance(item, str) and item]


def _checked(given: Sequence[str], file: Path) -> tuple[str, ...]:
    names = tuple(name.strip() for name in given)
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{file}: several classes are named {twice[0]}")
    return names


def has_yolo_split(description: Description, split: str) -> bool:
    """Whether there are images of a split; those that are also the training images are none."""
    names = split_names(split)
    entries = _entries_of(description, names)
    if split != "train" and entries is not None and entries == _entries_of(description, ("train",)):
        return False
    found = (find(description, entry, description.base) for entry in entries or ())
    return any(found) or _split_folder(description, names) is not None


def _entries_of(description: Description, names: Sequence[str]) -> Sequence[str] | None:
    return next((description.splits[name] for name in names if description.splits.get(name)), None)


def list_images(description: Description, split: str | None) -> list[str]:
    """The image files of a split: those of data.yaml, else of the folders `images/<split>` or `<split>/images`.

    Without a split, those of the folder `images`, or of data.yaml's own.

    Raises:
        DataError: If the split, a folder, a list or an image cannot be found, or an image is there twice.
    """
    if split is None:
        folder = description.file.parent
        split, names = "all", split_names("all")
        entries: Sequence[str] | None = [str(next(filter(os.path.isdir, (folder / "images", folder))))]
    else:
        names = split_names(split)
        entries = _entries_of(description, names)
    if entries is None:
        place = _split_folder(description, names)
        if place is None:
            there = few([name for name in description.splits if description.splits[name]])
            raise DataError(f"{description.file}: no split {split!r}; it has {there or 'none'}")
        entries = [str(place)]
    images = [image for entry in entries for image in _images(description, entry, names)]
    if twice := [image for image, count in Counter(images).items() if count > 1]:
        raise DataError(f"{description.file}: the split {split} has images twice: {few(twice)}")
    if not images:
        raise DataError(f"{description.file}: the split {split} has no images")
    return images


def _split_folder(description: Description, names: Sequence[str]) -> Path | None:
    folder = description.file.parent
    places = [place for name in names for place in (folder / "images" / name, folder / name / "images", folder / name)]
    return next((place for place in places if os.path.isdir(place)), None)


def _images(description: Description, entry: str, names: Sequence[str]) -> Iterator[str]:
    """The images of a folder or a list."""
    place = find(description, entry, description.base) or _split_folder(description, names)
    if place is None:
        raise DataError(f"{description.file}: {entry}: no such folder or list in {description.base}")
    literal = os.path.normpath(description.base / entry)
    if os.path.normpath(place) != literal:
        log.warning("%s: there is no %s; reading %s as %s", description.file, literal, entry, place)
    if place.is_dir():
        index = load_index(str(place), classes=False)
        yield from (os.path.normpath(os.path.join(place, name)) for name in index.files)
    elif _is_image(str(place)):
        yield os.path.normpath(place)
    else:
        for line in filter(None, map(str.strip, read_text(place).splitlines())):
            image = find(description, line.replace("\\", "/"), place.parent)
            if image is None or not image.is_file():
                raise DataError(f"{place}: {line}: no such image")
            yield os.path.normpath(image)


def find(description: Description, name: str, folder: Path) -> Path | None:
    """What a path means: relative to a folder, or to the data set's; there, too, if it was another one once."""
    places = [folder / name, description.base / name, description.file.parent / name]
    parts = [part for part in Path(name).parts if part not in ("..", os.sep)]
    # A download's own folder may have another name here: /content/coins/train/images, ../train/images.
    places += [description.base.joinpath(*parts[start:]) for start in range(len(parts) - 1)]
    return next((place for place in places if os.path.exists(place)), None)  # Path.exists raises for long names


def label_files(images: Sequence[str], where: str) -> list[str]:
    """The label file of each image, in the folder `labels` for one named `images`, or beside it; empty if it has none.

    Args:
        images: Their files.
        where: The data set, for messages.

    Raises:
        DataError: If there is none at all, or two images would have the same.
    """
    folders: dict[str, tuple[str, frozenset[str]]] = {}
    paths, lonely = [], list[str]()
    for image in images:
        folder, name = os.path.split(image)
        if folder not in folders:
            place = _label_folder(folder)
            folders[folder] = place, frozenset(os.listdir(place))
            stems = {os.path.splitext(other)[0] for other in os.listdir(folder) if _is_image(other)}
            labels = (other for other in folders[folder][1] if other.endswith(".txt") and other not in _NO_LABELS)
            alone = sorted(label for label in labels if label[:-4] not in stems)
            lonely += alone
            for label in alone:
                told = f"no image of this name in {folder}"
                note(Fault("annotation of no image", told, os.path.join(place, label)))
        place, there = folders[folder]
        own = f"{os.path.splitext(name)[0]}.txt"
        paths.append(os.path.join(place, own) if own in there else "")
    first: dict[str, str] = {}
    for image, path in zip(images, paths, strict=True):
        if path and (other := first.setdefault(path, image)) != image:
            raise DataError(f"{where}: {other} and {os.path.basename(image)} have the same label file, {path}")
    if not first:
        stem = os.path.splitext(os.path.basename(images[0]))[0]
        looked = os.path.join(_label_folder(os.path.dirname(images[0])), f"{stem}.txt")
        raise DataError(f"{where}: none of {len(images)} images has a label file, such as {looked}")
    if missing := [os.path.basename(image) for image, path in zip(images, paths, strict=True) if not path]:
        told = "%s: %d of %d images have no label file, and no objects then: %s"
        log.warning(told, where, len(missing), len(images), few(missing))
    if lonely:
        log.warning("%s: %d label files have no image, and are not read: %s", where, len(lonely), few(lonely))
    return paths


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_EXTENSIONS)


def _label_folder(folder: str) -> str:
    parts = folder.split(os.sep)
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        place = os.sep.join([*parts[:last], "labels", *parts[last + 1 :]])
        if os.path.isdir(place):
            return place
    return folder
