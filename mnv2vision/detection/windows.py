"""Objects that are small on a large photo, found in windows of its own resolution."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import batched_nms

from mnv2vision.contracts import window_starts
from mnv2vision.predictions.detection import Detection

_CUT = 2.0
"""Pixels from an inner edge of a window within which a box ends that the edge may have cut."""


class Window(NamedTuple):
    """A part of a photo, in its pixels."""

    top: int
    left: int
    height: int
    width: int


def windows(photo: Sequence[int], size: Sequence[int], overlap: float) -> Iterator[Window]:
    """The whole photo first, for objects larger than a window; then, if it is larger, overlapping windows.

    Args:
        photo: Height and width.
        size: Of a window, likewise.
        overlap: Of neighbouring windows, as a share of their side.
    """
    yield Window(0, 0, photo[0], photo[1])
    height, width = (min(pair) for pair in zip(photo, size, strict=True))
    if (height, width) != tuple(photo):
        for top in window_starts(photo[0], height, overlap):
            yield from (Window(top, left, height, width) for left in window_starts(photo[1], width, overlap))


def merge(
    found: Sequence[tuple[Window, Detection]], photo: Sequence[int], nms_iou: float, limit: int
) -> tuple[Detection, bool]:
    """One photo's objects, of those that were found in its windows.

    A box that ends at an inner edge is dropped, as another window, or the whole photo, shows all of its object.

    Args:
        found: Objects by window, in the window's pixels.
        photo: Height and width.
        nms_iou: Of two boxes of a class that overlap by more, the better one stays.
        limit: How many objects stay at most.

    Returns:
        The objects, best first, and whether there were more than the limit.
    """
    names = found[0][1].names
    kept = [_whole_objects(window, detection, photo) for window, detection in found]
    boxes, scores, labels = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    # In double precision, as `postprocess.suppress` has it.
    best = batched_nms(
        torch.from_numpy(boxes).double(), torch.from_numpy(scores).double(), torch.from_numpy(labels), nms_iou
    ).numpy()
    shown = best[:limit]
    return Detection(boxes[shown], scores[shown], labels[shown], names), len(best) > limit


def _whole_objects(
    window: Window, found: Detection, photo: Sequence[int]
) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.int64]]:
    """Boxes in the photo's pixels, scores and labels, without those that an inner edge may have cut."""
    low, high = found.boxes[:, :2], found.boxes[:, 2:]
    inner_low = np.array([window.left > 0, window.top > 0])
    size = np.array([window.width, window.height])
    inner_high = np.array([window.left, window.top]) + size < np.array([photo[1], photo[0]])
    cut = ((low < _CUT) & inner_low).any(1) | ((high > size - _CUT) & inner_high).any(1)
    offset = np.array([window.left, window.top] * 2, found.boxes.dtype)
    return found.boxes[~cut] + offset, found.scores[~cut], found.labels[~cut]
