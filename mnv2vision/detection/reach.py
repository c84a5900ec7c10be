"""Which objects the anchors of a detector reach: what it can be taught to find."""

import torch
from torch import Tensor

from mnv2vision.detection.anchors import make_anchors
from mnv2vision.detection.box_coder import iou, to_corners

REACHED = 0.5
"""Intersection over union from which on an anchor learns an object."""
_STRIDE = 16
_MAPS = 6
_CHUNK = 500
"""Objects compared with all anchors at a time."""


def map_sizes(image_size: tuple[int, int]) -> list[tuple[int, int]]:
    """(height, width) of the six feature maps of an SSD head, from stride 16 on, each half of the one before."""
    sizes = [(-(-image_size[0] // _STRIDE), -(-image_size[1] // _STRIDE))]
    while len(sizes) < _MAPS:
        height, width = sizes[-1]
        sizes.append(((height + 1) // 2, (width + 1) // 2))
    return sizes


def best_overlap(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """The largest intersection over union that each object has with an anchor.

    Args:
        boxes: (n, 4) float32 (x1, y1, x2, y2) in shares of the network's input.
        image_size: (height, width) of that.

    Returns:
        (n,) in 0..1.
    """
    anchors = to_corners(make_anchors(map_sizes(image_size), image_size))
    found = [iou(chunk, anchors).amax(dim=1) for chunk in torch.split(boxes, _CHUNK)]
    return torch.cat(found) if found else torch.zeros(0)
