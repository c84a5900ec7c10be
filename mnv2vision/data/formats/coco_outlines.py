"""Outlines of COCO's objects (polygons or run-length encodings) in flat arrays, and their pixels."""

import math
from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2vision.data.formats.index_cache import Arrays

NONE, POLYGONS, RUNS = 0, 1, 2
PROBLEMS = {
    -1: "is neither polygons nor run-length encoded",
    -2: "has an odd number of coordinates",
    -3: "has a nan or infinite coordinate",
    -4: "is run-length encoded for a size other than the image's",
    -5: "is run-length encoded with runs that do not add up to the image",
}
"""Why an outline cannot be read, by kind."""

_MOST_PIXELS = 2**31 - 1  # of a run; larger images are not decoded

Numbers = NDArray[np.float64]


class Outlines:
    """Outlines in the order they are added.

    Polygons of fewer than three points are dropped. Coordinates farther outside the image than its size are clipped:
    painting them would fill the memory.

    Attributes:
        far: Indices of clipped outlines.
        short: Indices of outlines with a dropped polygon.
    """

    def __init__(self) -> None:
        self._kinds = array("b")
        self._parts, self._ends = array("q", [0]), array("q", [0])
        self._coordinates = array("d")
        self._runs, self._run_ends = array("i"), array("q", [0])
        self.far: list[int] = []
        self.short: list[int] = []

    def add(self, outline: object, height: int, width: int) -> None:
        """Add the `segmentation` of an annotation."""
        kind = NONE
        if isinstance(outline, dict) and outline:
            runs = _runs(outline, height, width)
            if isinstance(runs, int):
                kind = runs
            else:
                kind = RUNS if runs[1::2].any() else NONE
                self._runs.frombytes(runs.astype(np.intc).tobytes())
        elif isinstance(outline, list):
            before = len(self._coordinates), len(self._ends)
            try:
                self._add_polygons(outline, height, width)
                if len(self._ends) > before[1]:
                    kind = POLYGONS
            except _ProblemError as problem:
                kind = problem.kind
                del self._coordinates[before[0] :], self._ends[before[1] :]
        elif outline is not None and outline != {}:
            kind = -1
        self._kinds.append(kind)
        self._parts.append(len(self._ends) - 1)
        self._run_ends.append(len(self._runs))

    def _add_polygons(self, outline: list[Any], height: int, width: int) -> None:
        far = short = False
        near = min(height, width)
        for part in _nested(outline):
            try:
                polygon = array("d", part)
            except OverflowError:
                raise _ProblemError(-3) from None
            except TypeError:
                raise _ProblemError(-1) from None
            if len(polygon) % 2:
                raise _ProblemError(-2)
            if not math.isfinite(sum(polygon)):
                raise _ProblemError(-3)
            if len(polygon) < 6:
                short |= len(polygon) > 0
                continue
            if min(polygon) < -near or max(polygon) > 2 * near:
                points = np.array(polygon).reshape(-1, 2)
                clipped = np.clip(points, (-width, -height), (2 * width, 2 * height))
                far |= bool((clipped != points).any())
                polygon = array("d", clipped.ravel())
            self._coordinates += polygon
            self._ends.append(len(self._coordinates))
        self.far += [len(self._kinds)] * far
        self.short += [len(self._kinds)] * short

    def kind(self, place: int) -> int:
        """NONE, POLYGONS, RUNS, or a key of PROBLEMS."""
        return self._kinds[place]

    def measure(self, place: int, height: int) -> tuple[Numbers, float]:
        """The box (x1, y1, x2, y2) around an outline of polygons or runs, and its area."""
        if self._kinds[place] == RUNS:
            runs = self._runs[self._run_ends[place] : self._run_ends[place + 1]]
            return _measure_runs(np.array(runs, np.int64), height)
        first, last = self._parts[place], self._parts[place + 1]
        parts = [
            np.array(self._coordinates[self._ends[i] : self._ends[i + 1]]).reshape(-1, 2) for i in range(first, last)
        ]
        points = np.concatenate(parts)
        area = sum(abs(float(_cross(part, np.roll(part, -1, axis=0)).sum())) / 2 for part in parts)
        return np.concatenate([points.min(0), points.max(0)]), area

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All outlines, as `paint` reads them."""
        return {
            "outline_kinds": np.frombuffer(self._kinds, np.int8),
            "outline_parts": np.frombuffer(self._parts, np.int64),
            "outline_ends": np.frombuffer(self._ends, np.int64),
            "outline_coordinates": np.frombuffer(self._coordinates, np.float64),
            "outline_runs": np.frombuffer(self._runs, np.intc),
            "outline_run_ends": np.frombuffer(self._run_ends, np.int64),
        }


class _ProblemError(Exception):
    def __init__(self, kind: int) -> None:
        self.kind = kind


def _nested(outline: list[Any]) -> list[list[Any]]:
    """Polygons as flat lists of coordinates, as in COCO; other tools write lists of points."""
    if outline and not isinstance(outline[0], list):
        return [outline]
    if len(outline) >= 3 and all(isinstance(part, list) and len(part) == 2 for part in outline):
        outline = [outline]  # points, not polygons of one point
    return [_flat(part) for part in outline]


def _flat(part: Any) -> list[Any]:
    if not isinstance(part, list):
        raise _ProblemError(-1)
    if part and isinstance(part[0], list):
        if not all(isinstance(point, list) and len(point) == 2 for point in part):
            raise _ProblemError(-1)
        return [side for point in part for side in point]
    return part


def _cross(a: Numbers, b: Numbers) -> Numbers:
    return np.asarray(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])


def _runs(code: Mapping[str, object], height: int, width: int) -> NDArray[np.int64] | int:
    """The run lengths, column by column and starting outside; or a key of PROBLEMS."""
    counts = code.get("counts")
    try:
        runs = np.array(array("q", counts)) if isinstance(counts, list) else _decompressed(counts)
    except (OverflowError, TypeError):
        return -1
    if runs is None:
        return -1
    if code.get("size") != [height, width]:
        return -4
    most = min(height * width, _MOST_PIXELS)
    return runs if ((runs >= 0) & (runs <= most)).all() and sum(runs.tolist()) == height * width else -5


def _decompressed(counts: object) -> NDArray[np.int64] | None:
    """COCO's compressed counts: five bits per character, lowest first; differences from the third count on."""
    if not isinstance(counts, str) or not counts.isascii():
        return None
    characters = np.frombuffer(counts.encode(), np.uint8).astype(np.int64) - 48
    last = np.flatnonzero((characters & 32) == 0)
    if not len(last) or last[-1] != len(characters) - 1 or (characters < 0).any() or (characters > 63).any():
        return None
    first = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(len(characters)) - np.repeat(first, last - first + 1)
    if place.max() > 11:
        return None
    runs = np.add.reduceat((characters & 31) << (5 * place), first)
    runs -= ((characters[last] & 16) > 0) * (np.int64(1) << (5 * (place[last] + 1)))
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])  # the first count takes no part in differences
    return runs


def _measure_runs(runs: NDArray[np.int64], height: int) -> tuple[Numbers, float]:
    ends = np.cumsum(runs)
    inside = runs[1::2] > 0
    first, last = (ends - runs)[1::2][inside], ends[1::2][inside] - 1
    column, row = first // height, first % height
    last_column, last_row = last // height, last % height
    whole = column != last_column  # a run into the next column reaches the bottom and the top
    top = np.where(whole, 0, row).min()
    bottom = np.where(whole, height - 1, last_row).max()
    box = np.array([column.min(), top, last_column.max() + 1, bottom + 1], np.float64)
    return box, float(runs[1::2].sum())


def paint(arrays: Arrays, place: int, box: NDArray[np.float32], height: int, width: int) -> NDArray[np.bool_]:
    """The pixels of an outline, by COCO's own rules; of the box if there is no outline."""
    if arrays["outline_kinds"][place] == RUNS:
        ends = arrays["outline_run_ends"]
        runs = arrays["outline_runs"][ends[place] : ends[place + 1]]
        return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T
    from hotcoco import mask as rle

    if arrays["outline_kinds"][place] == POLYGONS:
        ends, parts = arrays["outline_ends"], arrays["outline_parts"]
        values = arrays["outline_coordinates"]
        polygons = [values[ends[i] : ends[i + 1]].tolist() for i in range(parts[place], parts[place + 1])]
    else:
        x1, y1, x2, y2 = box.tolist()
        polygons = [[x1, y1, x2, y1, x2, y2, x1, y2]]
    return np.asarray(rle.decode(rle.merge(rle.frPyObjects(polygons, height, width)))).astype(bool)
