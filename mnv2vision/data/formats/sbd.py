"""Masks of SBD: the one field of a MATLAB file that holds them.

SciPy's reader crashes on some damaged files (segmentation fault); this one reads only what SBD needs.
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from mnv2vision.errors import DataError

_COMPRESSED, _MATRIX, _STRUCT = 15, 14, 2
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8"}
_HEADER = 128
_LARGEST = 2**27  # bytes of decompressed data, more than any photo's mask


def read_sbd(path: Path) -> NDArray[np.uint8]:
    """GTcls.Segmentation of a file in SBD's `cls/` (MATLAB format 5): (H, W) labels.

    Raises:
        DataError: If the file cannot be read, or lacks it.
    """
    try:
        return _segmentation(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, IndexError, struct.error, zlib.error) as error:
        raise DataError(f"{path}: contains no valid GTcls.Segmentation ({error})") from error


def _segmentation(data: bytes) -> NDArray[np.uint8]:
    order = {b"IM": "<", b"MI": ">"}.get(data[_HEADER - 2 : _HEADER])
    if order is None:
        _fail("not a MATLAB 5 file")
    for kind, content in _elements(data[_HEADER:], order):
        if kind == _COMPRESSED:
            unpacking = zlib.decompressobj()
            kind, content = next(_elements(unpacking.decompress(content, _LARGEST), order), (0, b""))
            if not unpacking.eof:
                _fail("damaged data")
        if kind != _MATRIX:
            continue
        parts = _elements(content, order)
        flags, shape, name = (next(parts, (0, b""))[1] for _ in range(3))
        if name != b"GTcls":
            continue
        if _class_of(flags, order) != _STRUCT or np.prod(_numbers(5, shape, order)) != 1:
            _fail("GTcls is not a single struct")
        length = int(_numbers(5, next(parts, (0, b""))[1], order)[0])
        names = next(parts, (0, b""))[1]
        if not 0 < length <= len(names):
            _fail("GTcls has no fields")
        fields = [names[start : start + length].rstrip(b"\0") for start in range(0, len(names), length)]
        for field, (_, value) in zip(fields, parts, strict=False):
            if field == b"Segmentation":
                return _matrix(value, order)
    _fail("no such field")


def _matrix(content: bytes, order: str) -> NDArray[np.uint8]:
    parts = _elements(content, order)
    _, (_, shape), _, (kind, values) = (next(parts, (0, b"")) for _ in range(4))
    sides = _numbers(5, shape, order).tolist()
    numbers = _numbers(kind, values, order)
    if len(sides) != 2 or min(sides) < 1 or sides[0] * sides[1] != len(numbers):
        _fail("its size does not match its values")
    if not ((numbers >= 0) & (numbers <= 255)).all():
        _fail("its values are not labels")
    return np.ascontiguousarray(numbers.astype(np.uint8).reshape(sides, order="F"))


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """The kind and content of each element."""
    place = 0
    while place + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}2I", data, place)
        if kind >> 16:  # a short one: kind and size in one word, followed by the content
            kind, size, start = kind & 0xFFFF, kind >> 16, place + 4
            place += 8
        else:
            start = place + 8
            place = start + size + (0 if kind == _COMPRESSED else -size % 8)
        if start + size > len(data):
            _fail("truncated")
        yield kind, data[start : start + size]


def _numbers(kind: int, data: bytes, order: str) -> NDArray[np.number]:
    if kind not in _NUMBERS:
        _fail("numbers expected")
    return np.frombuffer(data, np.dtype(order + _NUMBERS[kind]))


def _class_of(flags: bytes, order: str) -> int:
    return int(struct.unpack_from(f"{order}I", flags)[0]) & 0xFF


def _fail(reason: str) -> NoReturn:
    raise ValueError(reason)
