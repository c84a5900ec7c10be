"""Boxes as offsets from anchors, with the scales of TensorFlow's faster_rcnn_box_coder, and the overlap of boxes."""

import math

import torch
from torch import Tensor

CENTRE_SCALE, SIZE_SCALE = 10.0, 5.0
"""Of x and y, of width and height; their inverses are what other projects call variances: 0.1 and 0.2."""

_MAX_LOG_SIZE = math.log(1000.0)  # a box is at most so many times its anchor: exp must not overflow
_TINY = 1e-8


def to_centre(boxes: Tensor) -> Tensor:
    """(..., 4) boxes (x1, y1, x2, y2) as (centre x, centre y, width, height)."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def to_corners(boxes: Tensor) -> Tensor:
    """(..., 4) boxes (centre x, centre y, width, height) as (x1, y1, x2, y2)."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Box codes (tx, ty, tw, th), what the network is to predict.

    Args:
        boxes: (..., A, 4) (x1, y1, x2, y2), in the units of the anchors.
        anchors: (A, 4) (centre x, centre y, width, height).
    """
    boxes = to_centre(boxes)
    offset = (boxes[..., :2] - anchors[..., :2]) / anchors[..., 2:]
    size = (boxes[..., 2:].clamp(min=_TINY) / anchors[..., 2:]).log()
    return torch.cat([offset * CENTRE_SCALE, size * SIZE_SCALE], dim=-1)


def decode(codes: Tensor, anchors: Tensor) -> Tensor:
    """Boxes (..., A, 4) (x1, y1, x2, y2) of box codes (..., A, 4), in the units of the anchors (A, 4); not clipped."""
    centre = codes[..., :2] / CENTRE_SCALE * anchors[..., 2:] + anchors[..., :2]
    size = (codes[..., 2:] / SIZE_SCALE).clamp(max=_MAX_LOG_SIZE).exp() * anchors[..., 2:]
    return to_corners(torch.cat([centre, size], dim=-1))


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """Areas (..., n, m) that boxes (..., n, 4) and (..., m, 4), (x1, y1, x2, y2), have in common."""
    low = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    high = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    side = (high - low).clamp(min=0)
    return side[..., 0] * side[..., 1]


def area(boxes: Tensor) -> Tensor:
    """Areas (...) of boxes (..., 4), (x1, y1, x2, y2)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union (..., n, m) of boxes (..., n, 4) and (..., m, 4); 0 for boxes without area."""
    common = intersection(a, b)
    union = area(a)[..., :, None] + area(b)[..., None, :] - common
    return common / union.clamp(min=_TINY**2)
