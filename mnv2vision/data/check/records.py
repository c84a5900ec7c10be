"""Every image of a data set looked at once: what is kept of it to find faults by."""

import hashlib
import io
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.GifImagePlugin import GifImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from mnv2vision.common.threads import usable_cores
from mnv2vision.data.decoding import decode_image, peek_orientation
from mnv2vision.data.duplicates import Fingerprint, fingerprint
from mnv2vision.data.sample import IGNORE_INDEX, Boxes, SampleSource
from mnv2vision.errors import DataError

_AT_ONCE = 256
"""Images under way: what bounds the memory."""
_PNG = b"\x89PNG\r\n\x1a\n"
_ANIMATED = (GifImageFile, PngImageFile, WebPImageFile)
_PNG_DEPTH = 24
"""Place of the bits per channel in a PNG (W3C's specification, 11.2.1)."""


class Header(NamedTuple):
    """What a file says of its image.

    Attributes:
        mode: Pillow's.
        frames: Pictures in it.
        orientation: By EXIF, 1..8.
        depth: Bits per channel.
    """

    mode: str
    frames: int
    orientation: int
    depth: int


@dataclass(slots=True)
class Record:
    """An image without its pixels, in 1 to 2 KB.

    Attributes:
        split: "train" or "val".
        path: The file; the sample's name where there is none.
        digest: Of the file's bytes, or of the pixels where there is none; empty where it is missing or empty.
        header: None if there is no file, or none that can be read.
        problem: Why there is no sample, and `kind` of what; both empty if there is one.
        size: (height, width) of the upright image; (0, 0) if it cannot be read.
        look: None if it cannot be read.
        label: Of the image, if it has any.
        boxes: Its objects, if it has a list of them.
        values: The classes in its mask, if it has one.
        mask: Digest of that; empty without one.
    """

    split: str
    path: str
    digest: bytes = b""
    header: Header | None = None
    problem: str = ""
    kind: str = ""
    size: tuple[int, int] = (0, 0)
    look: Fingerprint | None = None
    label: int | None = None
    boxes: Boxes | None = None
    values: frozenset[int] | None = None
    mask: bytes = b""

    @property
    def shares(self) -> NDArray[np.float64]:
        """(n, 4) corners of its objects in shares of the image."""
        height, width = self.size
        if self.boxes is None or not len(self.boxes):
            return np.zeros((0, 4))
        return np.asarray(self.boxes.boxes / np.array([width, height, width, height], np.float64))


def look_over(source: SampleSource, split: str) -> Iterator[Record]:
    """The records of a data set, in order; images are read in threads.

    Args:
        source: The samples; where it has a method `path`, of files.
        split: Its name.
    """
    with ThreadPoolExecutor(usable_cores()) as threads:
        for start in range(0, len(source), _AT_ONCE):
            indices = range(start, min(start + _AT_ONCE, len(source)))
            yield from threads.map(lambda index: _record(source, split, index), indices)


def _record(source: SampleSource, split: str, index: int) -> Record:
    path_of = getattr(source, "path", None)
    path = f"{split} {index}" if path_of is None else str(path_of(index))
    record = Record(split, path)
    if path_of is not None:
        record.digest, record.header = _read_header(path)
    try:
        sample = source[index]
    except DataError as error:
        record.problem = str(error)
        _find_out(record)
    else:
        record.label, record.boxes = sample.label, sample.boxes
        if sample.mask is not None:
            counts = np.bincount(sample.mask.ravel(), minlength=IGNORE_INDEX + 1)
            record.values = frozenset(np.flatnonzero(counts[:IGNORE_INDEX]).tolist())
            record.mask = hashlib.blake2b(sample.mask.tobytes(), digest_size=16).digest()
        _see(record, sample.image)
        if path_of is None:
            record.digest = hashlib.blake2b(sample.image.tobytes(), digest_size=16).digest()
    return record


def _see(record: Record, image: NDArray[np.uint8]) -> None:
    record.size, record.look = (image.shape[0], image.shape[1]), fingerprint(image)


def _find_out(record: Record) -> None:
    """Whether it is the image or its annotation that cannot be read."""
    try:
        image = decode_image(record.path)
    except DataError as error:
        record.problem = str(error)
        if not os.path.lexists(record.path):
            record.kind = "missing file"
        elif not record.digest:
            record.kind = "empty file"
        else:
            record.kind = "unreadable image" if record.header or _looks_like_one(record.path) else "not an image"
    else:
        # The reader names the file that a fault is of: the photo, whose annotation says something else, or its mask.
        about_photo = record.problem.startswith(f"{record.path}: ")
        record.kind = "annotation of another size" if about_photo else "mask"
        _see(record, image)


def _looks_like_one(path: str) -> bool:
    with open(path, "rb") as file:
        start = file.read(12)
    return start.startswith((b"\xff\xd8", _PNG, b"GIF8", b"BM")) or (start[:4], start[8:]) == (b"RIFF", b"WEBP")


def _read_header(path: str) -> tuple[bytes, Header | None]:
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError:  # said when the image is read
        return b"", None
    if not data:
        return b"", None
    digest = hashlib.blake2b(data, digest_size=16).digest()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sizes and damaged tags
            with Image.open(io.BytesIO(data)) as picture:
                # Not of phones' JPEGs, which hold a small copy or the depth besides (MPO).
                frames = picture.n_frames if isinstance(picture, _ANIMATED) else 1
                mode = picture.mode
    except Exception:  # Pillow's readers raise errors of all kinds; said when the image is read
        return digest, None
    deep = data[_PNG_DEPTH] == 16 if data.startswith(_PNG) else mode.startswith("I;16")
    return digest, Header(mode, frames, peek_orientation(path), 16 if deep else 8)


def readable(records: Sequence[Record]) -> list[Record]:
    """Those whose image can be read."""
    return [record for record in records if record.look is not None]
