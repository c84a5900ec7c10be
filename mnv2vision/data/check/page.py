"""The page of a look at a data set: one file that opens anywhere, pictures included."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mnv2vision.common.html import render
from mnv2vision.data.check.finding import KINDS, Finding, Picture
from mnv2vision.data.decoding import decode_image
from mnv2vision.errors import DataError

SHOWN = 4
"""Findings of a kind that have pictures."""
_LISTED = 40
"""Findings of a kind that are named."""
_SIDE = 200
"""Of a picture, in pixels."""
_QUALITY = 75
_ROOM = 4_000_000
"""Characters of all pictures."""
_CLOSE = 4
"""Times that what is marked may be smaller than its picture; else a part of the image is shown."""
_MARK = (255, 32, 32)


@dataclass
class Table:
    """Figures that are no findings.

    Attributes:
        title: What they are.
        head: Of the columns.
        rows: Of as many cells.
        words: What they mean.
    """

    title: str
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    words: str = ""


@dataclass
class _Section:
    kind: str
    findings: list[Finding] = field(default_factory=list)
    shown: list[tuple[Finding, list[str]]] = field(default_factory=list)

    @property
    def level(self) -> str:
        return KINDS[self.kind].level

    @property
    def right(self) -> str:
        return KINDS[self.kind].right

    @property
    def listed(self) -> list[Finding]:
        return self.findings[:_LISTED]

    def draw(self, room: int) -> int:
        """Add pictures, as far as they can be read and there is room for; returns the room that is left."""
        for finding in [finding for finding in self.findings if finding.pictures][:SHOWN]:
            pictures = list(filter(None, map(_picture, finding.pictures)))
            if pictures and (size := sum(map(len, pictures))) <= room:
                self.shown.append((finding, pictures))
                room -= size
        return room


def write_page(
    title: str,
    images: Mapping[str, int],
    findings: Sequence[Finding],
    tables: Sequence[Table],
    notes: Sequence[str],
    *,
    root: str = "",
) -> str:
    """The page, in HTML without anything outside of it.

    Args:
        title: What was looked at.
        images: How many there are, by split.
        findings: The errors first.
        tables: Figures.
        notes: What the data set's reader said.
        root: What names of files begin with, which is left out.
    """
    sections: dict[str, _Section] = {}
    for finding in findings:
        sections.setdefault(finding.kind, _Section(finding.kind)).findings.append(finding)
    room = _ROOM
    for section in sections.values():
        room = section.draw(room)
    return render(
        "data/check/page.html",
        title=title,
        images=images,
        sections=list(sections.values()),
        tables=tables,
        notes=notes,
        root=root,
    )


def _picture(picture: Picture) -> str:
    """A small JPEG as text; empty if the file cannot be read."""
    try:
        image = decode_image(picture.path)
    except DataError:
        return ""
    box = None if picture.box is None else np.clip(np.array(picture.box), -0.2, 1.2)
    return base64.b64encode(_drawn(image, box)).decode()


def _drawn(image: NDArray[np.uint8], box: NDArray[np.float64] | None) -> bytes:
    """A JPEG of an image, or of its part around a small box (x1, y1, x2, y2) in shares, which is marked."""
    size = np.array(image.shape[1::-1])
    left, top, right, bottom = 0, 0, image.shape[1], image.shape[0]
    corners = None if box is None else box * np.tile(size, 2)
    extent = 0 if corners is None else float(np.abs(corners[2:] - corners[:2]).max())
    if box is not None and corners is not None and extent * _CLOSE < size.max() and 0 <= box.min() <= box.max() <= 1:
        half = max(_SIDE / 4, extent * _CLOSE / 2)
        centre = np.clip((corners[:2] + corners[2:]) / 2, 0, size)
        left, top = np.clip(centre - half, 0, size - 1).astype(int).tolist()
        right, bottom = np.clip(centre + half, (left + 1, top + 1), size).astype(int).tolist()
    part = Image.fromarray(image).crop((left, top, right, bottom))
    scale = _SIDE / max(part.size)
    shown = part.resize((max(1, round(part.width * scale)), max(1, round(part.height * scale))))
    if corners is not None:
        x1, y1, x2, y2 = ((corners - np.array([left, top, left, top])) * scale).tolist()
        # One that ends before it begins, too, and one that lies outside at the edge it is beyond.
        low = np.clip([min(x1, x2), min(y1, y2)], 0, np.array(shown.size) - 2)
        high = np.clip([max(x1, x2), max(y1, y2)], low + 1, np.array(shown.size) - 1)
        ImageDraw.Draw(shown).rectangle((*low.tolist(), *high.tolist()), outline=_MARK, width=2)
    file = io.BytesIO()
    shown.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
