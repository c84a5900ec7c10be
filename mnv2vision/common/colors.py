"""Class colours."""

import colorsys
import difflib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import ImageColor

from mnv2vision.common.text import few
from mnv2vision.errors import ConfigError

Color = tuple[int, int, int]
"""Red, green and blue in 0..255."""

VOC_NAMES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_COUNT = 48
_TONES = ((0.85, 1.0), (0.45, 1.0), (1.0, 0.72))
"""Saturation and value: strong, pale, dark."""
_GOLDEN = 0.618034  # of a circle: multiples of it are spread evenly, neighbours far apart


def palette(count: int) -> NDArray[np.uint8]:
    """(count, 3) RGB, PASCAL VOC's colour map: the bits of a label, spread over the channels."""
    labels = np.arange(count)
    channels = []
    for channel in range(3):
        bits = [((labels >> (3 * i + channel)) & 1) << (7 - i) for i in range(8)]
        channels.append(np.sum(bits, axis=0))
    return np.stack(channels, axis=1).astype(np.uint8)


def background_label(names: Sequence[str]) -> int | None:
    """0 if the first class is named background, or if there are no names; otherwise None."""
    return 0 if not names or names[0].strip("_ ").lower() == "background" else None


def class_colors(names: Sequence[str], chosen: Mapping[str, Color] | None = None) -> NDArray[np.uint8]:
    """(256 or more, 3) RGB by label: the same for a name wherever it occurs, and no two names' of these alike.

    VOC's classes have VOC's colours, the background is black, and others have one of 48 by their name's hash; where two
    would have the same, the second by the alphabet takes the next.

    Args:
        names: By label.
        chosen: Colours to take instead, by name; two of these may be alike.
    """
    return _class_colors(tuple(names), tuple((chosen or {}).items())).copy()


@cache
def _class_colors(names: tuple[str, ...], chosen: tuple[tuple[str, Color], ...]) -> NDArray[np.uint8]:
    color_of = dict(chosen)
    taken = {color for name, color in chosen if name in names} | {(0, 0, 0)}
    for name in sorted(set(names) - color_of.keys(), key=lambda name: (name not in VOC_NAMES, name)):
        color_of[name] = next(color for color in _preferred(name) if color not in taken)
        taken.add(color_of[name])
    colors = palette(max(256, len(names)))
    colors[: len(names)] = np.array([color_of[name] for name in names]).reshape(-1, 3)
    if background_label(names) == 0:
        colors[0] = 0
    return colors


def _preferred(name: str) -> Iterator[Color]:
    """The colours of a class, the best first, without an end."""
    if name in VOC_NAMES:
        red, green, blue = palette(len(VOC_NAMES) + 1)[1 + VOC_NAMES.index(name)].tolist()
        yield red, green, blue
    place = zlib.crc32(name.encode())
    yield from (_tone((place + step) % _COUNT) for step in range(_COUNT))
    while True:  # of models with more classes than that
        place = zlib.crc32(name.encode(), place)
        yield place >> 16 & 255, place >> 8 & 255, place & 255


@cache
def _tone(place: int) -> Color:
    saturation, value = _TONES[place % len(_TONES)]
    red, green, blue = (round(255 * share) for share in colorsys.hsv_to_rgb(place * _GOLDEN % 1, saturation, value))
    return red, green, blue


def read_colors(entries: Sequence[str], names: Sequence[str]) -> dict[str, Color]:
    """Colours by class name.

    Args:
        entries: Such as "person:#ff0000" or "car:red".
        names: Of the classes that there are.

    Raises:
        ConfigError: For an entry that is none, an unknown class, or one that is given twice.
    """
    found: dict[str, Color] = {}
    for entry in entries:
        name, _, color = (part.strip() for part in entry.rpartition(":"))
        try:
            red, green, blue = list(ImageColor.getrgb(color if name else ""))
        except ValueError as error:  # also of one with an alpha
            raise ConfigError(f"colors={entry}: is not <class>:<colour>, such as person:#ff0000 or car:red") from error
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]}?" if close else f"valid: {few(names, 20) or 'none'}"
            raise ConfigError(f"colors={entry}: the model has no class {name!r} that is drawn; {hint}")
        if name in found:
            raise ConfigError(f"colors: {name} is given twice")
        found[name] = red, green, blue
    return found
