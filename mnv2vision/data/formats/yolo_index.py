"""YOLO's label files as arrays, cached."""

import json
import math
import os
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2vision.common.text import few
from mnv2vision.data.formats.faults import Fault, note, refuse
from mnv2vision.data.formats.index_cache import Arrays, cached_arrays
from mnv2vision.data.formats.names import FileNames
from mnv2vision.data.formats.voc_lists import read_text
from mnv2vision.errors import DataError

_LAYOUT = "yolo 1"  # increase it when the arrays or their content change
BOX = 5
"""Columns of a box: class, centre x and y, width, height."""
_POLYGON = 7
"""Columns of the smallest polygon: class, and x and y of three points."""
_SHARES = 2.0
"""A coordinate beyond it is no share of the image, however far an object reaches outside."""


def yolo_index(files: Sequence[str], split: str) -> Arrays:
    """The objects of label files.

    Args:
        files: Of a split, each once.
        split: What the list of files belongs to.

    Returns:
        For m files: `files` as texts, relative to `folder`, and `starts` (m + 1,) of their objects. For n objects:
        `classes` (n,), `boxes` (n, 4) float64 (x1, y1, x2, y2) in shares of the image, also around polygons, `lines`
        (n,) in their files, and `ends` (n + 1,) of their polygons' `coordinates` (x, y, x, y, …), which boxes lack.
        `messages` is JSON: what was dropped.

    Raises:
        DataError: Naming the file, the line and the mistake.
    """
    folder = Path(os.path.commonpath([os.path.dirname(file) for file in files]))
    return cached_arrays(f"{_LAYOUT} {split}", files, lambda: _read(files, folder), folder=folder)


def _read(files: Sequence[str], folder: Path) -> dict[str, NDArray[Any]]:
    classes, lines, starts = array("q"), array("q"), array("q", [0])
    boxes, coordinates, ends = array("d"), array("d"), array("q", [0])
    names = FileNames.of([os.path.relpath(file, folder) for file in files])
    repeated = []
    for file, name in zip(files, names, strict=True):
        seen = set()
        for number, line in enumerate(_text(file).splitlines(), 1):
            if not (words := line.split()):
                continue
            try:
                values = numbers(words, f"{file}: line {number}")
            except DataError as error:
                refuse("annotation unreadable", error, name)
                continue
            if tuple(values) in seen:
                note(Fault("box copied", f"line {number} of {name} repeats another one, dropped", name))
                repeated.append(f"line {number} of {name}")
                continue
            seen.add(tuple(values))
            classes.append(int(values[0]))
            lines.append(number)
            boxes.extend(corners(values))
            if len(values) != BOX:
                coordinates.extend(values[1:])
            ends.append(len(coordinates))
        starts.append(len(classes))
    messages = [f"{len(repeated)} lines that repeat another one, dropped ({few(repeated)})"] if repeated else []
    return {
        "files": names.text,
        "files_ends": names.ends,
        "starts": np.array(starts, np.int64),
        "classes": np.array(classes, np.int64),
        "lines": np.array(lines, np.int64),
        "boxes": np.array(boxes, np.float64).reshape(-1, 4),
        "coordinates": np.array(coordinates, np.float64),
        "ends": np.array(ends, np.int64),
        "messages": np.frombuffer(json.dumps(messages).encode(), np.uint8),
    }


def _text(file: str) -> str:
    try:
        return read_text(Path(file))
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from error


def corners(values: Sequence[float]) -> tuple[float, ...]:
    """(x1, y1, x2, y2) of a line's box, or around its polygon, in shares of the image."""
    if len(values) == BOX:
        x, y, width, height = values[1:]
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    xs, ys = values[1::2], values[2::2]
    return (min(xs), min(ys), max(xs), max(ys)) if math.isfinite(sum(values)) else (math.nan,) * 4


def numbers(words: Sequence[str], where: str) -> list[float]:
    """The columns of a line; DataError for what is neither a box nor a polygon."""
    values = []
    for word in words:
        try:
            values.append(float(word))
        except ValueError:
            raise DataError(f"{where}: {word[:40]!r} is not a number") from None
    if not values[0].is_integer() or not 0 <= values[0] < 2**31:
        raise DataError(f"{where}: {words[0][:40]} is not the id of a class")
    count = len(values)
    if count != BOX and (count < _POLYGON or count % 2 == 0):
        raise DataError(
            f"{where}: has {count} columns; a box has {BOX} (class x y width height), a polygon {_POLYGON} or more,"
            " an odd number (class x y x y …)"
        )
    if far := [word for word, value in zip(words[1:], values[1:], strict=True) if abs(value) > _SHARES]:
        raise DataError(f"{where}: {far[0][:40]} is not within 0..1: in pixels? Expected shares of the image")
    return values
