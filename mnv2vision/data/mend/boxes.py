"""The boxes of an image mended: clipped, or left out."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnv2vision.data.check.boxes import copies
from mnv2vision.data.formats.boxes import judge, kind_of

CLIPPED = "box reaching beyond the image"
"""The kind of finding that leaves a box, smaller."""


class Mended(NamedTuple):
    """Boxes after mending.

    Attributes:
        boxes: (n, 4) float64 (x1, y1, x2, y2) in pixels; those of kind `CLIPPED` end with the image.
        kinds: (n,) of findings, empty for boxes that are right; but for `CLIPPED`, the box is left out.
    """

    boxes: NDArray[np.float64]
    kinds: list[str]


def mend(boxes: NDArray[np.float64], sizes: NDArray[np.float64], classes: Sequence[Hashable], *, merge: bool) -> Mended:
    """Mend the boxes of an image as its reader does, and keep one of copies.

    Args:
        boxes: (n, 4) (x1, y1, x2, y2) in pixels, counted from 0.
        sizes: (n, 2) height and width of the image.
        classes: Of the boxes; None for one that is no copy of any, such as a crowd.
        merge: Whether copies are left out, by the rule of the finding.
    """
    clipped, kept, faults = judge(boxes, sizes)
    kinds = [""] * len(boxes)
    for told, found in faults.items():
        for place in np.flatnonzero(found).tolist():
            kinds[place] = kind_of(told)
    limits = sizes[:, [1, 0, 1, 0]]
    own = np.flatnonzero(kept & np.array([name is not None for name in classes], bool))
    for one, other in copies(clipped[own] / limits[own]) if merge else ():
        first, second = int(own[one]), int(own[other])
        if classes[first] == classes[second] and "box copied" not in (kinds[first], kinds[second]):
            kinds[second] = "box copied"
    beyond = np.array([kind == CLIPPED for kind in kinds], bool)
    return Mended(np.where(beyond[:, None], np.clip(boxes, 0, limits), boxes), kinds)


def told(kind: str) -> str:
    """What is done about a box."""
    return "clipped" if kind == CLIPPED else "left out"


def plain(value: float) -> int | float:
    """A number as annotation files have it: whole where it is."""
    return int(value) if float(value).is_integer() else float(value)
