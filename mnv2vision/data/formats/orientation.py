"""Annotations of photos with an EXIF orientation: for the upright photo, or for the stored pixels."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mnv2vision.data.decoding import decode_oriented, peek_orientation
from mnv2vision.errors import ConfigError, DataError

log = logging.getLogger(__name__)

Orientation = Literal["upright", "stored"]
"""What a data set's boxes, masks and sizes refer to. Samples are upright in either case."""

_LOOKED_AT = 2000  # headers, in a tenth of a second
_MIRRORED_COLUMNS = (2, 3, 6, 7)  # after swapping rows and columns, from 5 on
_MIRRORED_ROWS = (3, 4, 7, 8)


def check_orientation(orientation: str) -> None:
    """Raise ConfigError for an unknown value of `dataset.orientation`."""
    if orientation not in get_args(Orientation):
        raise ConfigError(f"dataset.orientation={orientation} is unknown; valid: {', '.join(get_args(Orientation))}")


def read_photo(
    path: str | Path,
    size: NDArray[np.float64] | NDArray[np.int64] | None,
    annotations: str,
    orientation: Orientation,
) -> tuple[NDArray[np.uint8], int]:
    """An annotated photo, upright.

    Args:
        path: The file.
        size: Annotated (height, width); None if unknown.
        annotations: The source of the size, for messages.
        orientation: What the annotations refer to.

    Returns:
        The photo (H, W, 3), and the EXIF orientation to apply to its annotations: 1 if they are upright.

    Raises:
        DataError: If the photo cannot be read, or its size differs from the annotated one.
    """
    image, turned = decode_oriented(path)
    shape, other = (image.shape[0], image.shape[1]), "stored"
    if orientation == "stored":
        shape, other = stored_size(shape, turned), "upright"
    height, width = shape if size is None else (int(side) for side in size)
    if shape != (height, width):
        way = "" if turned == 1 else f" ({orientation})"
        if turned >= 5 and shape[::-1] == (height, width):
            hint = f"; its EXIF orientation swaps the two: is it dataset.orientation={other}?"
        else:
            hint = ": its boxes would be wrong"
        raise DataError(f"{path}: is {shape[1]}x{shape[0]} pixels{way}, but {annotations} says {width}x{height}{hint}")
    return image, turned if orientation == "stored" else 1


def stored_size(size: tuple[int, int], turned: int) -> tuple[int, int]:
    """(height, width) of the stored pixels of an upright photo, or vice versa."""
    return (size[1], size[0]) if turned >= 5 else size


def turn_boxes(boxes: NDArray[np.float32], size: tuple[int, ...], turned: int) -> NDArray[np.float32]:
    """Boxes (n, 4) of the stored pixels on the upright photo of (height, width); `turned` is its EXIF orientation."""
    height, width = size[:2]
    x1, y1, x2, y2 = (boxes if turned < 5 else boxes[:, [1, 0, 3, 2]]).T
    if turned in _MIRRORED_COLUMNS:
        x1, x2 = width - x2, width - x1
    if turned in _MIRRORED_ROWS:
        y1, y2 = height - y2, height - y1
    return np.stack([x1, y1, x2, y2], axis=1)


def tell_of_turned(path_of: Callable[[int], str], count: int, where: str, orientation: Orientation) -> None:
    """Warn if photos have an EXIF orientation, with their number and how the annotations are read.

    Only headers are read; of a large data set, those of `_LOOKED_AT` evenly spaced photos.

    Args:
        path_of: The file of a photo by index.
        count: Number of photos.
        where: The data set's name, for messages.
        orientation: What its annotations refer to.
    """
    places = np.linspace(0, count - 1, min(count, _LOOKED_AT)).astype(int).tolist()
    with ThreadPoolExecutor(8) as threads:  # network folders are slow to answer
        turned = sum(found > 1 for found in threads.map(lambda place: peek_orientation(path_of(place)), places))
    if not turned:
        return
    looked_at = f"{len(places)} photos" if len(places) == count else f"{len(places)} of {count} photos checked"
    taken, other = ("the upright photo", "stored") if orientation == "upright" else ("the stored pixels", "upright")
    log.warning(
        "%s: %d of %s have an EXIF orientation; annotations are read as those of %s"
        " (dataset.orientation=%s; the alternative is %s)",
        where,
        turned,
        looked_at,
        taken,
        orientation,
        other,
    )
