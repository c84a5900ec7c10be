"""Masks of labels: read from files, and checked."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mnv2vision.data.sample import IGNORE_INDEX
from mnv2vision.errors import DataError

Colors = Sequence[Sequence[int]]


def read_mask(
    path: Path,
    size: tuple[int, int],
    num_classes: int,
    *,
    void: int = IGNORE_INDEX,
    colors: Colors | None = None,
) -> NDArray[np.uint8]:
    """Read a label image: palette or grey of 8 bits, or RGB with a colour a class.

    Args:
        path: The file, PNG as a rule.
        size: (height, width) of its image.
        num_classes: Labels are in 0..num_classes - 1.
        void: The value of pixels that do not count.
        colors: RGB of each class, and of void after them if there is one more, for RGB masks.

    Returns:
        (H, W) uint8 labels, with 255 for pixels that do not count.

    Raises:
        DataError: Naming the file, and the value or colour that cannot be right.
    """
    try:
        with Image.open(path) as image:
            mode, values = image.mode, np.asarray(image)
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such mask") from error
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:
        raise DataError(f"{path}: is no mask that can be read ({error})") from error
    if colors is not None and mode in ("RGB", "RGBA", "P"):
        if mode == "P":
            with Image.open(path) as image:
                values = np.asarray(image.convert("RGB"))
        mask = _by_color(values[..., :3], colors, num_classes, path)
    elif mode in ("P", "L", "1"):
        mask = values.astype(np.uint8)
    else:
        hint = "" if colors is not None else "; masks in colours need dataset.colors=[[r,g,b],...]"
        raise DataError(f"{path}: is no label image but of mode {mode}, expected a palette or 8-bit grey{hint}")
    if mask.shape != size:
        raise DataError(f"{path}: is {mask.shape[1]}x{mask.shape[0]}, but its image is {size[1]}x{size[0]}")
    return check_labels(mask, num_classes, void, str(path))


def check_colors(colors: Colors, num_classes: int) -> None:
    """Raise DataError unless there is an RGB colour for each class, and perhaps one for void, no two alike."""
    right = all(
        isinstance(color, Sequence) and len(color) == 3 and all(type(v) is int and 0 <= v <= 255 for v in color)
        for color in colors
    )
    if not right or len({tuple(color) for color in colors}) < len(colors):
        raise DataError("dataset.colors is a list of [r,g,b] in 0..255, no two alike")
    if len(colors) not in (num_classes, num_classes + 1):
        raise DataError(f"dataset.colors has {len(colors)} colours for {num_classes} classes")


def check_labels(mask: NDArray[np.uint8], num_classes: int, void: int, path: str) -> NDArray[np.uint8]:
    """The mask with 255 for void; DataError naming the file and the first value that is no label."""
    counts = np.bincount(mask.ravel(), minlength=256)
    known = np.zeros(256, bool)
    known[:num_classes] = known[void] = known[IGNORE_INDEX] = True
    if unknown := np.flatnonzero(counts * ~known).tolist():
        raise DataError(f"{path}: holds the value {unknown[0]}; labels are 0..{num_classes - 1}, and {void} is void")
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
        raise DataError(f"{path}: holds the colour {color}, which is none of the {len(table)} of dataset.colors")
    return np.where(place >= num_classes, IGNORE_INDEX, place).astype(np.uint8)
