"""Which anchor is to predict which object: TensorFlow's argmax matcher, over a whole batch at once."""

from typing import NamedTuple

import torch
from torch import Tensor

from mnv2vision.data.sample import BoxKind
from mnv2vision.detection.box_coder import area, intersection, iou, to_corners

THRESHOLD = 0.5
ROUNDS = 8
"""How often an object may lose an anchor to another before it gets none of its own."""


class Matches(NamedTuple):
    """The part each anchor plays.

    Attributes:
        box_index: (N, A) int64, the box that a positive anchor is to predict; 0 elsewhere.
        positive: (N, A) bool.
        ignored: (N, A) bool, neither positive nor negative; no anchor is both.
    """

    box_index: Tensor
    positive: Tensor
    ignored: Tensor


@torch.no_grad()
def match(boxes: Tensor, kinds: Tensor, anchors: Tensor) -> Matches:
    """Assign objects to anchors.

    An anchor is positive for the object it overlaps most, from an IoU of 0.5 on. Every object gets its best anchor
    besides, whatever the overlap; where two objects want the same one, the one with the larger overlap has it, and the
    other gets its next best. An object that loses eight times is left to the first rule, and one that no anchor
    overlaps at all is left out. An anchor that is not positive is ignored where it overlaps a difficult box by an IoU
    of 0.5, or lies by half or more in a crowd.

    Args:
        boxes: (N, M, 4) (x1, y1, x2, y2), in the units of the anchors.
        kinds: (N, M) uint8, see `BoxKind`.
        anchors: (A, 4) (centre x, centre y, width, height).

    Source: TF object_detection/matchers/argmax_matcher.py (thresholds 0.5 / 0.5, force_match_for_each_row); there, an
    object that loses its best anchor to another gets none.
    """
    n, m = kinds.shape
    corners = to_corners(anchors)
    if m == 0:
        none = torch.zeros(n, len(anchors), dtype=torch.bool, device=anchors.device)
        return Matches(none.long(), none, none)
    overlap = iou(boxes, corners)  # (N, M, A)
    objects = kinds == BoxKind.OBJECT
    overlap_of_objects = overlap.masked_fill(~objects[..., None], -1.0)
    best, index = overlap_of_objects.max(dim=1)
    positive = best >= THRESHOLD

    forced = _best_anchors(overlap_of_objects, objects)  # (N, M, A)
    is_forced = forced.any(dim=1)
    index = torch.where(is_forced, forced.byte().argmax(dim=1), index)
    positive = positive | is_forced

    inside = intersection(boxes, corners) / area(corners)
    ignored = (overlap >= THRESHOLD) & (kinds == BoxKind.DIFFICULT)[..., None]
    ignored |= (inside >= THRESHOLD) & (kinds == BoxKind.CROWD)[..., None]
    return Matches(index.where(positive, 0), positive, ignored.any(dim=1) & ~positive)


def _best_anchors(overlap: Tensor, objects: Tensor) -> Tensor:
    """(N, M, A) bool: an anchor of its own for each object that overlaps any; in rounds of proposals.

    Each object proposes to the anchor it overlaps most among those still free, and each anchor takes the object that
    overlaps it most; of equals, the first. One or two rounds mostly do, but only a CPU is asked whether they did: a GPU
    would have to be waited for, and rounds without proposals change nothing.
    """
    taken = torch.zeros_like(overlap, dtype=torch.bool)
    free = overlap.clone()
    waiting = objects & (overlap.amax(dim=2) > 0)
    for _ in range(ROUNDS):
        if waiting.device.type == "cpu" and not waiting.any():
            break
        best, choice = free.masked_fill(~waiting[..., None], -1.0).max(dim=2)  # (N, M)
        waiting &= best > 0  # nothing left that it overlaps
        proposals = torch.zeros_like(overlap).scatter_(2, choice[..., None], (best * waiting)[..., None])
        strongest, winner = proposals.max(dim=1, keepdim=True)  # (N, 1, A)
        won = torch.zeros_like(taken).scatter_(1, winner, strongest > 0)
        taken |= won
        waiting &= ~won.any(dim=2)
        free.masked_fill_(won.any(dim=1, keepdim=True), -1.0)
    return taken
