"""Class names of mask values: from a file of the data set, or VOC's for VOC's masks."""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from mnv2vision.common.colors import VOC_NAMES, palette
from mnv2vision.common.text import few
from mnv2vision.data.formats.masks import Colors, held, open_mask, read_mask
from mnv2vision.data.formats.voc_lists import read_text
from mnv2vision.data.sample import IGNORE_INDEX
from mnv2vision.errors import DataError

log = logging.getLogger(__name__)

MASK_NAMES = ("background", *VOC_NAMES)
_IGNORED = ("ignored", "__ignore__")  # in lists of CVAT and labelme: pixels to ignore, without a label
_LISTS = ("classes.txt", "labels.txt", "class_names.txt")
_LOOKED_AT = 50
_VOCS_ID = re.compile(r"20\d\d_\d{6}")  # VOC2012's; VOC2007's six digits are too common
_PALETTE = palette(256)


def find_names(
    folders: Sequence[Path], masks: Sequence[tuple[str, Path]], void: int
) -> tuple[tuple[str, ...], Colors | None]:
    """Class names by mask value, and colours if a file has them.

    Args:
        folders: Searched for a file with the names: labelmap.txt (lines "name:r,g,b::", as written by CVAT and
            Datumaro), or classes.txt, labels.txt, class_names.txt (one name per line).
        masks: Ids and masks of the split.
        void: The value of pixels to ignore.

    Raises:
        DataError: If no file has the names, and neither ids nor masks are VOC's.
    """
    for folder in folders:
        if (folder / "labelmap.txt").is_file():
            return _read_labelmap(folder / "labelmap.txt")
        for name in _LISTS:
            if (folder / name).is_file():
                lines = [line.strip() for line in read_text(folder / name).splitlines()]
                return tuple(line for line in lines if line and line not in _IGNORED), None
    if all(_VOCS_ID.fullmatch(image_id) for image_id, _ in masks):
        return MASK_NAMES, None
    pictures = list(_readable(_some([path for _, path in masks])))
    if pictures and all(_is_vocs(picture) for picture in pictures):
        return MASK_NAMES, None
    values = sorted(set().union(*(held(picture) for picture in pictures if picture.mode in ("P", "L"))) - {void})
    shown = f" (their values: {few([str(value) for value in values], 30)})" if values else ""
    raise DataError(
        f"{folders[0]}: the classes of its masks are unknown{shown}: give dataset.classes=[...] in the order of"
        f" the values, or list them in {folders[-1] / _LISTS[0]}, one per line"
    )


def _read_labelmap(path: Path) -> tuple[tuple[str, ...], Colors]:
    found: dict[str, list[int]] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        try:
            color = [int(value) for value in rest.partition(":")[0].split(",")]
        except ValueError:
            color = []
        if len(color) != 3:
            raise DataError(f"{path}: line {number} is not name:red,green,blue")
        found[name.strip()] = color
    names = [name for name in found if name not in _IGNORED]
    return tuple(names), [found[name] for name in (*names, *(name for name in _IGNORED if name in found))]


def _readable(paths: Sequence[Path]) -> Iterator[Image.Image]:
    """The readable masks; others are reported when needed."""
    for path in paths:
        with suppress(DataError):
            yield open_mask(path)


def _is_vocs(picture: Image.Image) -> bool:
    """Whether a mask has VOC's colours, which others use too, and the void borders of VOC's objects."""
    if picture.mode != "P":
        return False
    colors = np.array(picture.getpalette() or [], np.uint8).reshape(-1, 3)
    values = held(picture) - {IGNORE_INDEX}
    if max(values, default=0) >= min(len(MASK_NAMES), len(colors)):
        return False
    bordered = values <= {0} or IGNORE_INDEX in held(picture)
    return bordered and all((colors[value] == _PALETTE[value]).all() for value in values)


def check_occurrence(names: Sequence[str], masks: Sequence[Path], void: int, colors: Colors | None, where: str) -> None:
    """Warn of classes absent from all masks, and of palettes in which values cannot be labels.

    Of many masks, evenly spaced ones are checked; unreadable ones are skipped.
    """
    counts = np.zeros(256, np.int64)
    color_of: dict[int, tuple[tuple[int, ...], Path]] = {}
    paths, differing = [], ""
    for path in _some(masks):
        with suppress(DataError):
            picture = open_mask(path)
            mask = read_mask(path, (picture.height, picture.width), len(names), void=void, colors=colors)
            counts += np.bincount(mask.ravel(), minlength=256)
            paths.append(path)
            if colors is None and picture.mode == "P":
                differing = differing or _other_color(picture, path, held(picture) - {void, IGNORE_INDEX}, color_of)
    if differing:  # some tools number the colours of each image anew
        log.warning("%s: %s: if the colours tell the classes, give dataset.colors", where, differing)
    absent = [name for label, name in enumerate(names) if not counts[label]]
    if not absent or not paths:
        return
    looked_at = f"{len(paths)} masks" if len(paths) == len(masks) else f"{len(paths)} masks checked"
    hint = ""
    if counts[IGNORE_INDEX] and colors is None and np.count_nonzero(counts[:IGNORE_INDEX]) <= 1:
        hint = (
            f"; {counts[IGNORE_INDEX] / counts.sum():.0%} of the pixels are 255, void: colour masks need"
            " dataset.colors, such as [[0,0,0],[255,255,255]]"
        )
    log.warning("%s: no pixel of %s in the %s%s", where, few(absent, 20), looked_at, hint)


def _other_color(
    picture: Image.Image, path: Path, values: set[int], color_of: dict[int, tuple[tuple[int, ...], Path]]
) -> str:
    """The message for a value whose colour differs from that in an earlier mask; empty if there is none."""
    colors = np.array(picture.getpalette() or [], int).reshape(-1, 3)
    for value in sorted(values):
        own = tuple(colors[value].tolist()) if value < len(colors) else ()
        color, first = color_of.setdefault(value, (own, path))
        if color != own:
            return f"the value {value} has the colour {color} in {first.name} and {own} in {path.name}"
    return ""


def _some(paths: Sequence[Path]) -> list[Path]:
    places = np.linspace(0, len(paths) - 1, min(len(paths), _LOOKED_AT)).astype(int).tolist() if paths else []
    return [paths[place] for place in places]
