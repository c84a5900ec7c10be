"""Label masks, read from files and checked."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mnv2vision.data.decoding import MAX_PIXELS
from mnv2vision.data.sample import IGNORE_INDEX
from mnv2vision.errors import DataError

Colors = Sequence[Sequence[int]]
_FORMATS = ("PNG", "TIFF", "BMP", "GIF", "WEBP", "JPEG")


def read_mask(
    path: Path,
    size: tuple[int, int],
    num_classes: int,
    *,
    void: int = IGNORE_INDEX,
    colors: Colors | None = None,
) -> NDArray[np.uint8]:
    """Read a label image: palette, 8-bit grey, or RGB with one colour per class.

    Args:
        path: The file, usually PNG.
        size: (height, width) of its image.
        num_classes: Labels are in 0..num_classes - 1.
        void: The value of pixels to ignore.
        colors: For RGB masks, RGB of each class, optionally followed by that of void.

    Returns:
        (H, W) uint8 labels, with 255 for pixels to ignore.

    Raises:
        DataError: Naming the file, and the invalid value or colour.
    """
    picture = open_mask(path, size)
    if colors is not None and (picture.mode in ("RGB", "RGBA", "P") or _is_grey_of(picture, colors)):
        mask = _by_color(np.asarray(picture.convert("RGB")), colors, num_classes, path)
    elif picture.mode in ("P", "L", "1"):
        mask = np.asarray(picture).astype(np.uint8)
    else:
        hint = "" if colors is not None else "; a colour mask needs dataset.colors=[[r,g,b],...]"
        raise DataError(f"{path}: has mode {picture.mode}; a mask is a palette or 8-bit grey image{hint}")
    return check_labels(mask, num_classes, void, str(path))


def open_mask(path: Path, size: tuple[int, int] | None = None) -> Image.Image:
    """Read a mask file.

    Args:
        path: The file.
        size: Required (height, width), checked from the header.

    Raises:
        DataError: Naming the file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sizes, which are checked here, and damaged tags
            with Image.open(path, formats=_FORMATS) as image:
                if size is not None and image.size != size[::-1]:
                    raise DataError(f"{path}: is {image.width}x{image.height}, but its image is {size[1]}x{size[0]}")
                if image.width * image.height > MAX_PIXELS:
                    raise DataError(f"{path}: {image.width} x {image.height} pixels is too large for a mask")
                image.load()
                return image
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such mask") from error
    except Exception as error:  # Pillow's readers raise errors of all kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: cannot be read as a mask ({reason})") from error


def _is_grey_of(picture: Image.Image, colors: Colors) -> bool:
    """Whether the levels of a grey mask are colours rather than labels."""
    grey = {color[0] for color in colors if len(set(color)) == 1}
    return picture.mode in ("L", "1") and held(picture.convert("L")) <= grey


def held(picture: Image.Image) -> set[int]:
    """The values that occur in a single-channel mask."""
    return set(np.unique(np.asarray(picture).astype(np.uint8)).tolist())


def check_colors(colors: Colors, num_classes: int) -> None:
    """Raise DataError unless there is a distinct RGB colour for each class, and optionally for void."""
    right = all(
        isinstance(color, Sequence) and len(color) == 3 and all(type(v) is int and 0 <= v <= 255 for v in color)
        for color in colors
    )
    if not right or len({tuple(color) for color in colors}) < len(colors):
        raise DataError("dataset.colors must be a list of distinct [r,g,b] in 0..255")
    if len(colors) not in (num_classes, num_classes + 1):
        raise DataError(f"dataset.colors has {len(colors)} colours for {num_classes} classes")


def check_labels(mask: NDArray[np.uint8], num_classes: int, void: int, path: str) -> NDArray[np.uint8]:
    """The mask with 255 for void; DataError, naming the file, for a value that is not a label."""
    counts = np.bincount(mask.ravel(), minlength=256)
    known = np.zeros(256, bool)
    known[:num_classes] = known[void] = known[IGNORE_INDEX] = True
    if unknown := np.flatnonzero(counts * ~known).tolist():
        raise DataError(f"{path}: contains the value {unknown[0]}; labels are 0..{num_classes - 1}, and {void} is void")
    if void != IGNORE_INDEX and counts[void]:
        mask = np.where(mask == void, np.uint8(IGNORE_INDEX), mask)
    return mask


def _by_color(image: NDArray[np.uint8], colors: Colors, num_classes: int, path: Path) -> NDArray[np.uint8]:
    weights = np.array([1 << 16, 1 << 8, 1])
    codes = image.astype(np.int64) @ weights
    table = np.array(colors, np.int64) @ weights
    order = np.argsort(table)
    place = order[np.searchsorted(table, codes, sorter=order).clip(max=len(table) - 1)]
    wrong = table[place] != codes
    if wrong.any():
        color = tuple(image[wrong][0].tolist())
        raise DataError(f"{path}: contains the colour {color}, which is not among the {len(table)} of dataset.colors")
    return np.where(place >= num_classes, IGNORE_INDEX, place).astype(np.uint8)
