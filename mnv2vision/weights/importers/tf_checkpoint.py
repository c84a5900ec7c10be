"""TensorFlow's checkpoints ("tensor bundles", the V2 format), read without TensorFlow.

The .index file is a sorted table in LevelDB's format. It maps variable names to messages that tell in which
.data-?????-of-????? file, and where in it, an array is. Sizes are verified, checksums are not.

Sources: TF tensorflow/core/util/tensor_bundle/tensor_bundle.h, core/protobuf/tensor_bundle.proto and
core/lib/io/format.h; LevelDB doc/table_format.md.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnv2vision.errors import WeightsError

_MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
_FOOTER_BYTES = 48
DTYPES: Mapping[int, str] = {
    1: "<f4",
    2: "<f8",
    3: "<i4",
    4: "u1",
    5: "<i2",
    6: "i1",
    9: "<i8",
    10: "?",
    17: "<u2",
    19: "<f2",
}
"""NumPy's data types by TensorFlow's DataType (core/framework/types.proto)."""
_STRING, _BFLOAT16 = 7, 14
# Fields of BundleHeaderProto and BundleEntryProto, of TensorShapeProto and its Dim.
_NUM_SHARDS, _ENDIANNESS = 1, 2
_DTYPE, _SHAPE, _SHARD, _OFFSET, _SIZE, _SLICES = 1, 2, 3, 4, 5, 7
_DIM, _DIM_SIZE = 2, 1

Fields = Mapping[int, int | bytes]
"""A protocol-buffer message without repeated fields, by field number."""


def read_checkpoint(prefix: Path) -> dict[str, NDArray[np.generic]]:
    """Read the arrays of a checkpoint by name.

    Args:
        prefix: The checkpoint's path without .index.

    Raises:
        WeightsError: For object-based, partitioned, compressed, big-endian or truncated checkpoints.
    """
    index = prefix.with_name(f"{prefix.name}.index")
    # Keys that start with a zero byte belong to slices, which the entry of the whole variable lists too.
    entries = {name.decode(): dict(fields(value)) for name, value in _table(index) if not name.startswith(b"\0")}
    header = entries.pop("")
    if integer(header, _ENDIANNESS):
        raise WeightsError(f"{index}: written on a big-endian machine, which is not supported")
    arrays: dict[str, NDArray[np.generic]] = {}
    for name, entry in entries.items():
        if name.endswith(".ATTRIBUTES/VARIABLE_VALUE"):
            raise WeightsError(
                f"{index}: an object-based checkpoint ({name}), which lacks TensorFlow's variable names;"
                " save the variables by their names in a .npz file instead"
            )
        if integer(entry, _DTYPE) == _STRING:
            continue
        shard = index.with_suffix(f".data-{integer(entry, _SHARD):05}-of-{integer(header, _NUM_SHARDS):05}")
        arrays[name] = _read_array(shard, name, entry)
    return arrays


def _read_array(shard: Path, name: str, entry: Fields) -> NDArray[np.generic]:
    if _SLICES in entry:
        raise WeightsError(f"{shard}: {name} is saved in slices (a partitioned variable), which is not supported")
    kind, size = integer(entry, _DTYPE), integer(entry, _SIZE)
    dtype = "<u2" if kind == _BFLOAT16 else DTYPES.get(kind)
    if dtype is None:
        raise WeightsError(f"{shard}: {name} has TensorFlow's data type {kind}, which is not supported")
    shape = shape_of(entry.get(_SHAPE, b""))
    if not shard.is_file():
        raise WeightsError(f"{shard}: no such file, but the checkpoint's index refers to it")
    array = np.fromfile(shard, dtype, math.prod(shape), offset=integer(entry, _OFFSET))
    if array.nbytes != size or array.size != math.prod(shape):
        raise WeightsError(f"{shard}: {name} has {array.nbytes} bytes, but {size} according to the checkpoint's index")
    if kind == _BFLOAT16:  # the upper half of a float32
        array = (array.astype("<u4") << 16).view("<f4")
    return array.reshape(shape)


def integer(message: Fields, number: int) -> int:
    """An integer field; 0 if it is absent, as in proto3."""
    value = message.get(number, 0)
    if not isinstance(value, int):
        raise ValueError(f"field {number} of a protocol-buffer message is not an integer")
    return value


def shape_of(message: int | bytes) -> list[int]:
    """The sizes in a TensorShapeProto."""
    return [integer(dict(fields(dim)), _DIM_SIZE) for number, dim in fields(message) if number == _DIM]


def fields(message: int | bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field of a protocol-buffer message: varints as int, all else as bytes."""
    if isinstance(message, int):
        raise ValueError("an integer instead of a protocol-buffer message")
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        kind = key & 7
        if kind == 0:
            value, position = _varint(message, position)
            yield key >> 3, value
            continue
        size = {1: 8, 5: 4}.get(kind, 0)
        if kind == 2:
            size, position = _varint(message, position)
        if kind not in (1, 2, 5) or position + size > len(message):
            raise ValueError("not a protocol-buffer message, or truncated")
        yield key >> 3, message[position : position + size]
        position += size


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """An integer in groups of seven bits, lowest first; and the position after it."""
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position


def _table(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a sorted table, whose index block refers to its data blocks."""
    data = path.read_bytes()
    if len(data) < _FOOTER_BYTES or not data.endswith(_MAGIC):
        raise WeightsError(f"{path}: not the index of a TensorFlow checkpoint, or truncated")
    position = _handle(data, len(data) - _FOOTER_BYTES)[2]  # skips the table's own metadata, which is empty
    for _, handle in _block(path, data, *_handle(data, position)[:2]):
        yield from _block(path, data, *_handle(handle, 0)[:2])


def _handle(data: bytes, position: int) -> tuple[int, int, int]:
    """Offset and size of a block, and the position after them."""
    offset, position = _varint(data, position)
    size, position = _varint(data, position)
    return offset, size, position


def _block(path: Path, data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block; a key shares a prefix with the one before."""
    if data[offset + size]:
        raise WeightsError(f"{path}: a compressed table, which is not supported; TensorFlow writes none")
    block = data[offset : offset + size]
    restarts = int.from_bytes(block[-4:], "little")
    position, key = 0, b""
    while position < len(block) - 4 * (restarts + 1):
        shared, position = _varint(block, position)
        unshared, position = _varint(block, position)
        length, position = _varint(block, position)
        key = key[:shared] + block[position : position + unshared]
        position += unshared
        yield key, block[position : position + length]
        position += length
