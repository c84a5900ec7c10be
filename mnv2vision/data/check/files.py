"""Faults of files and of the images in them."""

from collections.abc import Iterator, Sequence

import numpy as np

from mnv2vision.data.check.finding import Finding, Picture
from mnv2vision.data.check.records import Record

_ENLARGED = 8
"""Times that the network's shorter side may have the photo's."""
_LONG = 4
"""Times that a photo's longer side may have the shorter one."""
_BLANK = 2
"""Difference of values, of 255, that a picture of nothing may have."""


def find(records: Sequence[Record], image_size: tuple[int, int]) -> Iterator[Finding]:
    """Files that cannot be read, and images that are unlike photos.

    Args:
        records: Of all images.
        image_size: (height, width) of the network's input.
    """
    for record in records:
        if record.problem and record.kind != "mask":
            shown = (Picture(record.path),) if record.look else ()
            what = record.problem.removeprefix(f"{record.path}: ")
            yield Finding(record.kind, record.split, record.path, what, shown)
        for kind, what in _odd(record, min(image_size)):
            yield Finding(kind, record.split, record.path, what, (Picture(record.path),))


def _odd(record: Record, side: int) -> Iterator[tuple[str, str]]:
    """Kinds of what is unusual about an image, and what it is."""
    if record.look is None:
        return
    height, width = record.size
    pixels = f"{width} x {height} pixels"
    if min(record.size) * _ENLARGED < side:
        yield "small image", f"{pixels}, for a network's input of {side}"
    if max(record.size) > _LONG * min(record.size):
        yield "long image", pixels
    values = record.look.thumbnail.reshape(-1, 3).astype(int)
    if (np.ptp(values, axis=0) <= _BLANK).all():
        yield "blank image", f"one colour, about {tuple(values.mean(axis=0).round().astype(int).tolist())}"
    header = record.header
    if header is None:
        return
    if header.orientation != 1:
        yield "turned by EXIF", f"EXIF orientation {header.orientation}"
    if header.depth == 16:
        yield "16-bit image", f"16 bits a channel (mode {header.mode})"
    if header.mode == "CMYK":
        yield "CMYK image", "mode CMYK"
    if header.mode in ("P", "PA"):
        yield "palette image", f"mode {header.mode}"
    if header.mode in ("LA", "RGBA", "PA", "La", "RGBa"):
        yield "image with alpha", f"mode {header.mode}"
    if header.frames > 1:
        yield "animated image", f"{header.frames} pictures"
