"""A folder of VOC annotation files as arrays, cached."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from mnv2vision.data.formats.index_cache import Arrays, cached_arrays
from mnv2vision.data.formats.names import FileNames
from mnv2vision.errors import DataError

_LAYOUT = "voc 1"  # increase it when the arrays or their content change
_MISSING = "nan"
_DIFFICULT = {"": 0, "0": 0, "false": 0, "no": 0, "1": 1, "true": 1, "yes": 1}
ODD = 2
"""`difficult` for any other word, such as Unspecified."""
SIDES = ("xmin", "ymin", "xmax", "ymax")


class _Object(NamedTuple):
    name: str
    box: tuple[float, ...]
    difficult: int


class _Annotation(NamedTuple):
    size: tuple[float, float]
    objects: list[_Object]


def voc_index(folder: Path) -> Arrays:
    """The annotations of `folder` and its sub-folders.

    Returns:
        For n files: `ids` (relative paths without .xml) and `errors` (empty if there is none) as texts, `sizes` (n, 2)
        height and width or 0, `starts` (n + 1,) of their objects. For m objects: `boxes` (m, 4) (x1, y1, x2, y2),
        counted from 0, `classes` (m,) indices of the texts `names`, and `difficult` (m,) 0, 1 or `ODD`.

    Raises:
        DataError: If the folder cannot be read.
    """
    paths = sorted(_annotation_files(folder))  # not pathlib, which takes seconds for tens of thousands
    return cached_arrays(_LAYOUT, paths, lambda: _read_all(folder, paths), folder=folder)


def _annotation_files(folder: Path) -> Iterator[str]:
    def failed(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from error

    for place, _, names in os.walk(folder, followlinks=False, onerror=failed):
        yield from (os.path.join(place, name) for name in names if name.endswith(".xml") and not name.startswith("._"))


def _read_all(folder: Path, paths: list[str]) -> dict[str, NDArray[Any]]:
    annotations, errors = [], []
    for path in paths:
        try:
            annotations.append(_read(path))
            errors.append("")
        except DataError as error:  # irrelevant unless the split lists the file
            annotations.append(_Annotation((0, 0), []))
            errors.append(str(error).removeprefix(f"{path}: "))
    objects = [item for annotation in annotations for item in annotation.objects]
    names = sorted({item.name for item in objects})
    place_of = {name: place for place, name in enumerate(names)}
    boxes = np.array([item.box for item in objects], np.float64).reshape(-1, 4)
    boxes[:, :2] -= 1
    ids = [path[len(str(folder)) + 1 : -len(".xml")].replace(os.sep, "/") for path in paths]
    packed = {"ids": FileNames.of(ids), "errors": FileNames.of(errors), "names": FileNames.of(names)}
    return {
        **{name: texts.text for name, texts in packed.items()},
        **{f"{name}_ends": texts.ends for name, texts in packed.items()},
        "sizes": np.array([annotation.size for annotation in annotations], np.float64).reshape(-1, 2),
        "starts": np.cumsum([0, *(len(annotation.objects) for annotation in annotations)]),
        "boxes": boxes,
        "classes": np.array([place_of[item.name] for item in objects], np.int64),
        "difficult": np.array([item.difficult for item in objects], np.uint8),
    }


def _read(path: str) -> _Annotation:
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise DataError(f"{path}: line {error.position[0]} is not valid XML ({error.msg})") from error
    except (OSError, ValueError, LookupError) as error:  # LookupError: an encoding unknown to Python
        raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error

    objects = []
    for item in root.iter("object"):
        name = name_of(item)
        if not name:
            raise DataError(f"{path}: an <object> has no <name>")
        difficult = _DIFFICULT.get((item.findtext("difficult") or "").strip().lower(), ODD)
        objects.append(_Object(name, sides_of(item), difficult))
    size = root.find("size")
    height, width = _number(size, "height"), _number(size, "width")
    known = 0 < height < np.inf and 0 < width < np.inf
    return _Annotation((height, width) if known else (0, 0), objects)


def name_of(item: ElementTree.Element) -> str:
    """The class of an <object>; empty if it has none."""
    return (item.findtext("name") or "").strip("\ufeff \t\r\n")


def sides_of(item: ElementTree.Element) -> tuple[float, ...]:
    """The `SIDES` of an <object>, as annotated; NaN for those that are missing or no numbers."""
    box = item.find("bndbox")
    return tuple(_number(box, side) for side in SIDES)


def _number(parent: ElementTree.Element | None, name: str) -> float:
    text = parent.findtext(name) if parent is not None else None
    try:
        return float(text or _MISSING)
    except ValueError:
        return float(_MISSING)
