"""The default boxes of SSD, as TensorFlow's ssd_anchor_generator lays them out."""

import operator
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MIN_SCALE, MAX_SCALE = 0.2, 0.95
ASPECT_RATIOS = (1.0, 2.0, 0.5, 3.0, 0.3333)  # the last as TensorFlow's configurations write it
_LOWEST = ((0.1, 1.0), (0.2, 2.0), (0.2, 0.5))


def anchors_per_cell(maps: int, *, reduce_lowest: bool = True) -> tuple[int, ...]:
    """How many anchors each cell of each map has: 3 on the first map and 6 on the others, or 6 on all."""
    full = len(ASPECT_RATIOS) + 1
    return (len(_LOWEST) if reduce_lowest else full, *[full] * (maps - 1))


def make_anchors(
    map_sizes: Sequence[tuple[int, int]],
    image_size: tuple[int, int],
    *,
    reduce_lowest: bool = True,
    device: torch.device | None = None,
) -> Tensor:
    """Anchors of all maps.

    Scales run evenly from 0.2 to 0.95 over the maps; each map has one more square anchor between its scale and the
    next (the last map's next is 1). An anchor keeps its shape in pixels where the image is not square: its scale is
    a share of the shorter side.

    Source: TF object_detection/anchor_generators/multiple_grid_anchor_generator.py and
    samples/configs/ssdlite_mobilenet_v2_coco.config.

    Args:
        map_sizes: (height, width) of each feature map, the finest first.
        image_size: (height, width) of the network's input.
        reduce_lowest: Three anchors on the first map (TensorFlow), or six as on the others.
        device: Of the result.

    Returns:
        (A, 4) float32 (centre x, centre y, width, height) in 0..1 of the input, not clipped; ordered by map, row,
        column and shape. It is shared between calls: it must not be changed in place.
    """
    sizes = tuple((rows, columns) for rows, columns in map_sizes)
    if torch.compiler.is_dynamo_compiling() and not torch.compiler.is_exporting():
        sides = [side for size in sizes for side in size]
        anchors: Tensor = _in_compiled_code(sides, list(image_size), reduce_lowest, device or torch.device("cpu"))
        return anchors
    # What is made while a model is traced, with stand-ins for tensors, must not be kept: it belongs to that graph.
    is_traced = torch.compiler.is_compiling() or type(torch.empty(0)) is not Tensor
    on_device = _on_device.__wrapped__ if is_traced else _on_device
    return on_device(sizes, tuple(image_size), reduce_lowest, device)


# An operator, which the compiler does not look into: it would trace the NumPy below into the graph, to be computed and
# copied to the device in every step. A copy, as compiled code may write into what operators give it. Not within CUDA
# graphs: what is made in one would be kept in the cache, though the memory is the graph's.
_TAGS = tuple(getattr(torch.Tag, name) for name in ("cudagraph_unsafe",) if hasattr(torch.Tag, name))  # since 2.9


@torch.library.custom_op("mnv2vision::anchors", mutates_args=(), tags=_TAGS)
def _in_compiled_code(
    sides: Sequence[int], image_size: Sequence[int], reduce_lowest: bool, device: torch.device
) -> Tensor:
    sizes = tuple(zip(sides[::2], sides[1::2], strict=True))
    return _on_device(sizes, (image_size[0], image_size[1]), reduce_lowest, device).clone()


@_in_compiled_code.register_fake
def _(sides: Sequence[int], image_size: Sequence[int], reduce_lowest: bool, device: torch.device) -> Tensor:
    per_cell = anchors_per_cell(len(sides) // 2, reduce_lowest=reduce_lowest)
    areas = (rows * columns for rows, columns in zip(sides[::2], sides[1::2], strict=True))
    return torch.empty(sum(map(operator.mul, areas, per_cell)), 4, device=device)


@lru_cache(maxsize=32)
def _on_device(
    map_sizes: tuple[tuple[int, int], ...],
    image_size: tuple[int, int],
    reduce_lowest: bool,
    device: torch.device | None,
) -> Tensor:
    with torch.inference_mode(False):  # else training could not use what inference made
        return torch.from_numpy(_make(map_sizes, image_size, reduce_lowest)).to(device)


@lru_cache(maxsize=32)
def _make(
    map_sizes: tuple[tuple[int, int], ...], image_size: tuple[int, int], reduce_lowest: bool
) -> NDArray[np.float32]:
    count = len(map_sizes)
    scales = [MIN_SCALE + (MAX_SCALE - MIN_SCALE) * i / max(1, count - 1) for i in range(count)] + [1.0]
    shorter = min(image_size)
    unit = np.array([shorter / image_size[1], shorter / image_size[0]])
    anchors = []
    for index, (rows, columns) in enumerate(map_sizes):
        scale = scales[index]
        if index == 0 and reduce_lowest:
            shapes: Sequence[tuple[float, float]] = _LOWEST
        else:
            between = (scale * scales[index + 1]) ** 0.5
            shapes = [*((scale, ratio) for ratio in ASPECT_RATIOS), (between, 1.0)]
        sizes = np.array([[s * r**0.5, s / r**0.5] for s, r in shapes]) * unit
        centres = np.stack(np.meshgrid((np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows), axis=-1)
        grid = (rows, columns, len(shapes), 2)
        cells = [np.broadcast_to(centres[:, :, None], grid), np.broadcast_to(sizes, grid)]
        anchors.append(np.concatenate(cells, axis=-1).reshape(-1, 4))
    return np.concatenate(anchors).astype(np.float32)
