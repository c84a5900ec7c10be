"""Damaged and lying image files: each gives an image or a `DataError` that names it, and nothing else."""

import io
import random
import struct
import zlib
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from mnv2vision.data.decoding import MAX_PIXELS, decode_bytes
from mnv2vision.errors import DataError

pytestmark = pytest.mark.slow

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16")
KINDS = {"JPEG": ({}, {"progressive": True}, {"subsampling": 0}), "PNG": ({},), "WEBP": ({}, {"lossless": True})}


def files() -> list[bytes]:
    """An image of each kind that can be written."""
    made = []
    generator = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    for height, width in ((40, 56), (7, 130)):
        cells = generator.integers(0, 256, (4, 5, 4), np.uint8)
        photo = Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)
        for mode in MODES:
            grey = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
            image = grey if mode == "I;16" else photo.convert("RGB").convert(mode)
            for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF"):
                for options in KINDS.get(kind, ({},)):
                    buffer = io.BytesIO()
                    try:
                        image.save(buffer, kind, **options, **({"exif": exif} if kind in KINDS else {}))
                    except (OSError, ValueError, KeyError):
                        continue  # a mode that the format does not store
                    made.append(buffer.getvalue())
    return made


def lie_about_the_size(data: bytes, rng: random.Random) -> bytes:
    """Another width or height in the header, checksums mended."""
    height, width = (rng.choice((0, 1, 5, 41, 300, 2000, 9000, 40_000, 65_535)) for _ in range(2))
    changed = bytearray(data)
    if data.startswith(b"\xff\xd8"):
        for marker in (b"\xff\xc0", b"\xff\xc2"):
            if (at := data.find(marker)) > 0:
                changed[at + 5 : at + 9] = struct.pack(">HH", height, width)
    elif data.startswith(b"\x89PNG"):
        changed[16:24] = struct.pack(">II", width, height)
        changed[29:33] = struct.pack(">I", zlib.crc32(bytes(changed[12:29])))
    elif data.startswith(b"GIF"):
        changed[6:10] = struct.pack("<HH", width, height)
    elif data.startswith(b"BM"):
        changed[18:26] = struct.pack("<ii", width, rng.choice((height, -height)))
    elif (at := data.find(b"VP8X")) > 0:
        changed[at + 12 : at + 18] = struct.pack("<I", width)[:3] + struct.pack("<I", height)[:3]
    return bytes(changed)


def damage(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    changed = bytearray(data)
    start, stop = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    stop = min(stop, start + rng.choice((1, 4, 64, len(data))))
    kind = rng.randrange(8)
    if kind == 0:
        return data[: rng.randrange(len(data))] or b"\0"
    if kind == 1:
        return lie_about_the_size(data, rng)
    if kind == 2:
        for _ in range(rng.choice((1, 1, 2, 8, 64))):  # anywhere, or in the header
            at = rng.randrange(min(len(data), rng.choice((32, 700, len(data)))))
            changed[at] ^= 1 << rng.randrange(8)
    elif kind == 3:
        changed[start:stop] = rng.randbytes(stop - start)
    elif kind == 4:
        del changed[start:stop]
    elif kind == 5:
        changed[start:start] = changed[start:stop]
    elif kind == 6:
        changed[start:stop] = bytes([rng.choice((0, 255))]) * (stop - start)
    else:
        other = rng.choice(others)  # one file's beginning with another's end
        return data[:start] + other[min(start, len(other)) :]
    return bytes(changed) or b"\0"


def assert_one_line(message: str, start: str) -> None:
    assert message.startswith(start)
    assert "\n" not in message


def run(count: int, seed: int) -> Counter[str]:
    """Outcomes of so many cases."""
    rng = random.Random(seed)
    originals = files()
    outcomes: Counter[str] = Counter()
    for index in range(count):
        data = damage(rng.choice(originals), originals, rng)
        if rng.random() < 0.3:
            data = damage(data, originals, rng)
        try:
            image = decode_bytes(data, f"case {index}")
        except DataError as error:
            assert_one_line(str(error), f"case {index}: ")
            outcomes["refused"] += 1
        else:
            assert image.dtype == np.uint8
            assert image.ndim == 3
            assert image.shape[2] == 3
            assert image.flags.c_contiguous
            assert 0 < image.shape[0] * image.shape[1] <= MAX_PIXELS
            outcomes["decoded"] += 1
    return outcomes


@pytest.mark.parametrize("seed", range(3))
def test_damaged_images(seed: int) -> None:
    outcomes = run(4000, seed)
    assert outcomes["refused"] > 1000
    assert outcomes["decoded"] > 200  # a flipped bit of a pixel is a pixel
