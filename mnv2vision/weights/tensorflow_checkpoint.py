"""TensorFlow's checkpoints ("tensor bundles", the V2 format), read without TensorFlow.

The .index file is a sorted table of LevelDB's layout, from variable names to messages that say where in which
.data-?????-of-????? file an array lies. Checksums are not verified, sizes are.

Sources: TF tensorflow/core/util/tensor_bundle/tensor_bundle.h, core/protobuf/tensor_bundle.proto and
core/lib/io/format.h; LevelDB doc/table_format.md.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2vision.errors import WeightsError

_MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
_FOOTER_BYTES = 48
# By TensorFlow's DataType (core/framework/types.proto).
_DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1", 9: "<i8", 10: "?", 17: "<u2", 19: "<f2"}
_STRING, _BFLOAT16 = 7, 14
# Fields of BundleHeaderProto and BundleEntryProto, of TensorShapeProto and its Dim.
_NUM_SHARDS, _ENDIANNESS = 1, 2
_DTYPE, _SHAPE, _SHARD, _OFFSET, _SIZE, _SLICES = 1, 2, 3, 4, 5, 7
_DIM, _DIM_SIZE = 2, 1


def read_checkpoint(prefix: Path) -> dict[str, NDArray[Any]]:
    """Arrays by name of a checkpoint.

    Args:
        prefix: Its path without .index.

    Raises:
        WeightsError: For object-based, partitioned, compressed, big-endian or truncated checkpoints.
    """
    index = prefix.with_name(f"{prefix.name}.index")
    # Keys that begin with a zero byte are of slices, which the entry of the whole variable names, too.
    entries = {name.decode(): dict(fields(value)) for name, value in _table(index) if not name.startswith(b"\0")}
    header = entries.pop("")
    if header.get(_ENDIANNESS, 0):
        raise WeightsError(f"{index}: is a checkpoint of a big-endian machine, which cannot be read")
    arrays: dict[str, NDArray[Any]] = {}
    for name, entry in entries.items():
        if name.endswith(".ATTRIBUTES/VARIABLE_VALUE"):
            raise WeightsError(
                f"{index}: is a checkpoint of objects ({name}), which lacks TensorFlow's variable names;"
                " save the variables by their names in a .npz file instead"
            )
        if entry[_DTYPE] == _STRING:
            continue
        shard = index.with_suffix(f".data-{entry.get(_SHARD, 0):05}-of-{header[_NUM_SHARDS]:05}")
        arrays[name] = _read_array(shard, name, entry)
    return arrays


def _read_array(shard: Path, name: str, entry: dict[int, Any]) -> NDArray[Any]:
    if _SLICES in entry:
        raise WeightsError(f"{shard}: {name} is saved in slices (a partitioned variable), which cannot be read")
    dtype = "<u2" if entry[_DTYPE] == _BFLOAT16 else _DTYPES.get(entry[_DTYPE])
    if dtype is None:
        raise WeightsError(f"{shard}: {name} is of TensorFlow's data type {entry[_DTYPE]}, which cannot be read")
    dims = [dim for number, dim in fields(entry.get(_SHAPE, b"")) if number == _DIM]
    shape = [dict(fields(dim)).get(_DIM_SIZE, 0) for dim in dims]
    if not shard.is_file():
        raise WeightsError(f"{shard}: no such file, though the checkpoint's index names it")
    array = np.fromfile(shard, dtype, math.prod(shape), offset=entry.get(_OFFSET, 0))
    if array.nbytes != entry.get(_SIZE, 0) or array.size != math.prod(shape):
        raise WeightsError(
            f"{shard}: {name} has {array.nbytes} bytes there, but {entry.get(_SIZE, 0)} by the checkpoint's index"
        )
    if entry[_DTYPE] == _BFLOAT16:  # the upper half of a float32
        array = (array.astype("<u4") << 16).view("<f4")
    return array.reshape(shape)


def fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field of a protocol-buffer message: integers as they are, all else as bytes."""
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
            raise ValueError("not a protocol-buffer message, or a truncated one")
        yield key >> 3, message[position : position + size]
        position += size


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """An integer in groups of seven bits, the lowest first; and where it ends."""
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position


def _table(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a sorted table: its index block leads to the data blocks."""
    data = path.read_bytes()
    if len(data) < _FOOTER_BYTES or not data.endswith(_MAGIC):
        raise WeightsError(f"{path}: is no index of a TensorFlow checkpoint, or a truncated one")
    position = _handle(data, len(data) - _FOOTER_BYTES)[2]  # of the table's own metadata, which is empty
    for _, handle in _block(path, data, *_handle(data, position)[:2]):
        yield from _block(path, data, *_handle(handle, 0)[:2])


def _handle(data: bytes, position: int) -> tuple[int, int, int]:
    """Offset and size of a block, and where they end."""
    offset, position = _varint(data, position)
    size, position = _varint(data, position)
    return offset, size, position


def _block(path: Path, data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block; a key shares a prefix with the one before."""
    if data[offset + size]:
        raise WeightsError(f"{path}: is compressed, which TensorFlow's own checkpoints are not, and cannot be read")
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
