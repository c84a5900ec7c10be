"""The folders, image lists and photos of VOC's layout."""

import codecs
import logging
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from mnv2vision.common.text import few
from mnv2vision.data.decoding import IMAGE_EXTENSIONS
from mnv2vision.data.formats.faults import are_wanted
from mnv2vision.data.formats.names import leads_out
from mnv2vision.errors import DataError

log = logging.getLogger(__name__)

_SECOND_COLUMN = re.compile(r"\s+(-1|0|1)$")  # in lists of a single class: whether it occurs
_LONGEST_NAME = 255  # bytes, on most file systems
_LONGEST_PATH = 1000


class Files:
    """The files of a folder and its sub-folders by name without extension; each folder is listed once."""

    def __init__(self, folder: Path, extensions: tuple[str, ...]) -> None:
        self.folder = folder
        self._extensions = extensions
        self._listed: dict[str, dict[str, str]] = {}

    def find(self, image_id: str) -> str | None:
        """The file of an image, such as "2007_000032" or "camera1/0001"; None if there is none."""
        below, _, name = image_id.rpartition("/")
        if below not in self._listed:
            self._listed[below] = self._list(below)
        found = self._listed[below].get(name)
        return None if found is None else os.path.join(self.folder, below, found)

    def _list(self, below: str) -> dict[str, str]:
        try:
            names = sorted(os.listdir(self.folder / below), reverse=True)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise DataError(f"{self.folder / below}: cannot be read ({error.strerror})") from error
        stems = [(os.path.splitext(name), name) for name in names]
        order = {extension: rank for rank, extension in enumerate(self._extensions)}
        known = [(order[parts[1].lower()], parts[0], name) for parts, name in stems if parts[1].lower() in order]
        return {stem: name for _, stem, name in sorted(known, reverse=True)}  # by earliest extension


def photos(folder: Path) -> Files:
    """The photos of a VOC folder."""
    return Files(folder / "JPEGImages", IMAGE_EXTENSIONS)


def photo_path(files: Files, image_id: str) -> str:
    """The photo of an image.

    Raises:
        DataError: If it does not exist.
    """
    path = files.find(image_id)
    if path is None and are_wanted():  # missed when it is read
        return os.path.join(files.folder, f"{image_id}{IMAGE_EXTENSIONS[0]}")
    if path is None:
        raise DataError(f"{files.folder / image_id}: no such image ({' '.join(IMAGE_EXTENSIONS)})")
    return path


def split_folders(
    root: str | os.PathLike[str], split: str | None, year: int | None
) -> Iterator[tuple[Path, str | None]]:
    """The VOC folders and list names of a split such as "train" or "2007/trainval+2012/trainval".

    If the year's folder is missing and there is a single other one, it is used with a warning.

    Raises:
        DataError: If a folder does not exist.
    """
    top = Path(root)
    if not os.path.isdir(top):  # Path.is_dir raises for long names
        raise DataError(f"{top}: the data set's root folder does not exist")
    if split is None:
        yield _folder(top, "", year), None
        return
    for part in split.split("+"):
        given, _, name = part.rpartition("/")
        yield _folder(top, given, year), name


def _folder(top: Path, given: str, year: int | None) -> Path:
    if (top / "JPEGImages").is_dir() and not given:
        return top
    folder = top / f"VOC{given or year}"
    if os.path.isdir(folder):
        return folder
    below = sorted(path.name for path in top.iterdir() if path.is_dir())
    years = [name for name in below if re.fullmatch(r"VOC\d{4}", name)]
    if len(years) == 1 and not given:
        log.warning("%s: no VOC%s; using %s instead (dataset.year=%s)", top, year, years[0], years[0][3:])
        return top / years[0]
    inner = [name for name in below if (top / name / "JPEGImages").is_dir() or any((top / name).glob("VOC[0-9]*"))]
    hint = f": is the root one level too high? try dataset.root={top / inner[0]}" if inner and not years else ""
    raise DataError(f"{folder}: no such folder; {top} contains {few(below) or 'none'}{hint}")


def read_list(folder: Path, kind: str, split: str, files: Files) -> list[str]:
    """The image ids of a list in `ImageSets/<kind>`.

    Names may be quoted and have spaces, Windows separators, the photo's extension, and a second column of -1, 0 or 1,
    as in VOC's lists of single classes.

    Args:
        folder: The year's folder.
        kind: "Main" or "Segmentation".
        split: The list's name.
        files: The photos, to tell a name with a space from a name and a second column.

    Raises:
        DataError: Naming the list, and the invalid line.
    """
    path = folder / "ImageSets" / kind / f"{split}.txt"
    try:
        text = read_text(path)
    except FileNotFoundError as error:
        there = few(sorted(item.stem for item in path.parent.glob("*.txt")), 12)
        raise DataError(f"{path}: no split {split!r}; available: {there or 'none'}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    ids = []
    for line in filter(None, map(str.strip, text.splitlines())):
        if "\0" in line or len(line) > _LONGEST_PATH or _longest_part(line) > _LONGEST_NAME:
            raise DataError(f"{path}: {line[:40]!r}… is not an image name")
        if any(leads_out(name) for name in (line, line.replace("\\", "/"), _SECOND_COLUMN.sub("", line))):
            raise DataError(f"{path}: the image {line!r} points outside the data set's folder")
        ids.append(image_of(line, files))
    return ids


def image_of(line: str, files: Files) -> str:
    """The image id that a line of a list means."""
    return next((name for name in _readings(line) if files.find(name) is not None), _plain(line))


def _longest_part(line: str) -> int:
    return max(len(part.encode()) for part in re.split(r"[/\\]", line))


def _readings(line: str) -> Iterable[str]:
    """Possible meanings of a line, the most literal first."""
    whole = line.replace("\\", "/")
    plain = _plain(line)
    yield from dict.fromkeys([line, whole, plain])
    for name in (whole, plain):
        stem, extension = os.path.splitext(name)
        if extension.lower() in IMAGE_EXTENSIONS:
            yield stem


def _plain(line: str) -> str:
    """A line without its second column and quotes, with / between folders."""
    return _SECOND_COLUMN.sub("", line).strip().strip("\"'").replace("\\", "/")


def read_text(path: Path) -> str:
    """A text in UTF-8, with or without a byte order mark, or in UTF-16 with one.

    Raises:
        OSError: If the file cannot be read.
        DataError: If its encoding is another one.
    """
    data = path.read_bytes()
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8: save the list as UTF-8") from error
