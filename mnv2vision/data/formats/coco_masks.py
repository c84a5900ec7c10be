"""COCO's instances, painted as class masks."""

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mnv2vision.data.formats.boxes import Names, counted
from mnv2vision.data.formats.coco_outlines import NONE, PROBLEMS, paint
from mnv2vision.data.formats.index_cache import Arrays
from mnv2vision.data.sample import IGNORE_INDEX, Boxes
from mnv2vision.errors import DataError

log = logging.getLogger(__name__)


def check_outlines(
    arrays: Arrays, objects: NDArray[np.int32], categories: Sequence[str], names: Names, where: str
) -> None:
    """Check that all outlines can be painted, and warn of objects without one.

    Args:
        arrays: See `coco_index`.
        objects: (n,) indices of the data set's objects in it.
        categories: Names by label.
        names: Names of `objects` for messages.
        where: The annotation file, for messages.

    Raises:
        DataError: If outlines cannot be painted, or there are too many categories for an 8-bit mask.
    """
    if len(categories) > IGNORE_INDEX - 1:
        raise DataError(
            f"{where}: {len(categories)} categories are too many for an 8-bit mask (at most {IGNORE_INDEX - 1});"
            " select some with dataset.classes"
        )
    kinds = arrays["outline_kinds"][arrays["outlines"][objects]]
    for kind, problem in PROBLEMS.items():
        if broken := counted("outlines cannot be painted", kinds == kind, names):
            raise DataError(f"{where}: {broken}: each {problem}")
    if rectangles := counted("objects without an outline, painted as their boxes", kinds == NONE, names):
        log.warning("%s: %s", where, rectangles)


def paint_mask(
    arrays: Arrays, outlines: NDArray[np.integer], objects: Boxes, size: tuple[int, int]
) -> NDArray[np.uint8]:
    """A mask (H, W) of an image's instances: 0 is background, labels start at 1.

    Where instances overlap, the one with the smaller annotated area wins, as it is usually in front. Crowds are ignored
    (255) where no other instance covers them. An instance without an outline is painted as its box.

    Args:
        arrays: See `coco_index`.
        outlines: (n,) indices of the outlines in it.
        objects: The n instances, with areas.
        size: Annotated (H, W) of the image.
    """
    mask = np.zeros(size, np.uint8)
    areas = np.zeros(len(objects)) if objects.areas is None else objects.areas
    crowd = objects.crowd
    for i in np.lexsort((-areas, ~crowd)):  # crowds first, then from large to small
        value = IGNORE_INDEX if crowd[i] else objects.labels[i] + 1
        mask[paint(arrays, int(outlines[i]), objects.boxes[i], *size)] = value
    return mask
