"""From raw predictions to boxes: scores, decoding, non-maximum suppression, in fixed shapes over a whole batch."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import nms

from mnv2vision.contracts import RawDetections
from mnv2vision.detection.box_coder import area, decode
from mnv2vision.detection.loss import Scores

MAX_DETECTIONS = 100
SCORE_THRESHOLD = 1e-8
_CANDIDATES = 400  # looked at first; more only where too many of them suppress one another
_ROUNDS = 24


class BatchDetections(NamedTuple):
    """Detections of N images, best first; what is beyond `counts` is zero.

    Attributes:
        boxes: (N, D, 4) float32 (x1, y1, x2, y2) in 0..1 of the network's input, clipped to it.
        scores: (N, D) float32 in 0..1.
        labels: (N, D) int64 in 0..C-1.
        counts: (N,) int64, how many of the D there are.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    counts: Tensor


def class_scores(class_logits: Tensor, scores: Scores) -> Tensor:
    """Scores (..., C) in 0..1 of class logits (..., 1 + C); the background is left out."""
    logits = class_logits.float()
    return logits[..., 1:].sigmoid() if scores == "sigmoid" else logits.softmax(-1)[..., 1:]


def detect(
    raw: RawDetections,
    *,
    scores: Scores = "sigmoid",
    nms_iou: float = 0.6,
    score_threshold: float | Tensor = SCORE_THRESHOLD,
    max_detections: int = MAX_DETECTIONS,
    classes: Tensor | None = None,
) -> BatchDetections:
    """Decode, and suppress boxes that overlap a better one of their class.

    The result is that of class-wise non-maximum suppression over all anchors and classes, of which the best
    `max_detections` are kept: only a better box can suppress, so that the best candidates decide among themselves,
    and more of them are looked at only where too few remain. Exported graphs have no such loop: they look at the best
    400 candidates once, or at twice `max_detections` if that is more. Boxes wholly outside the input, of which clipping
    leaves nothing, are dropped first.

    Args:
        raw: What the network gave.
        scores: How logits become scores.
        nms_iou: Boxes of a class that overlap a better one by more are dropped.
        score_threshold: Boxes with less are dropped; one for all, or (C,) by class.
        max_detections: D of the result.
        classes: Labels to look for, by which the result's labels count; all by default.
    """
    raw.check()
    box_codes, class_logits, anchors = raw.box_codes, raw.class_logits, raw.anchors
    # Sigmoids are monotonous: they are needed of the candidates only.
    ranked = class_logits[..., 1:] if scores == "sigmoid" else class_scores(class_logits, scores)
    if classes is not None:
        ranked = ranked[..., classes]
    columns = ranked.shape[2]
    ranked = ranked.float().flatten(1)
    total = ranked.shape[1]
    lowest = float(score_threshold.min()) if isinstance(score_threshold, Tensor) else score_threshold
    limit = min(max(_CANDIDATES, 2 * max_detections), total)
    while True:
        best, index = _best(ranked, limit)
        best = best.sigmoid() if scores == "sigmoid" else best
        anchor, label = index // columns, index % columns
        codes = box_codes.float().gather(1, anchor[..., None].expand(-1, -1, 4))
        boxes = decode(codes, anchors[anchor]).clamp(0, 1)
        least = score_threshold.to(label.device)[label] if isinstance(score_threshold, Tensor) else score_threshold
        keep = suppress(boxes, label, (best > least) & (area(boxes) > 0), nms_iou)
        if torch.compiler.is_exporting() or limit == total or _is_enough(keep, best, lowest, max_detections):
            break
        limit = min(4 * limit, total)
    return _take(boxes, best, label, keep, max_detections)


def _best(ranked: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """The best of each row and their places; equal ones, which int8 has many of, in the order of their places.

    `topk` leaves that order open, so that another batch size or machine would find other boxes.
    """
    best, index = ranked.topk(limit, dim=1)
    if torch.compiler.is_exporting():  # not every runtime can sort
        return best, index
    index = index.sort(dim=1).values
    best, order = ranked.gather(1, index).sort(dim=1, descending=True, stable=True)
    return best, index.gather(1, order)


def _is_enough(keep: Tensor, scores: Tensor, threshold: float, wanted: int) -> bool:
    return bool(((keep.sum(1) >= wanted) | (scores[:, -1] <= threshold)).all())


def suppress(boxes: Tensor, labels: Tensor, valid: Tensor, nms_iou: float) -> Tensor:
    """Greedy class-wise non-maximum suppression of a batch.

    Args:
        boxes: (N, K, 4) (x1, y1, x2, y2) in 0..1, the best first.
        labels: (N, K); boxes of different classes do not meet.
        valid: (N, K) bool; the others are dropped.
        nms_iou: Boxes that overlap a better one by more are dropped.

    Returns:
        (N, K) bool, what stays.
    """
    if torch.compiler.is_exporting():
        return suppress_at_once(boxes, labels, valid, nms_iou)
    if boxes.device.type == "mps":  # which has no double precision
        return suppress(boxes.cpu(), labels.cpu(), valid.cpu(), nms_iou).to(boxes.device)
    keep = torch.zeros_like(valid)
    rank = torch.arange(boxes.shape[1], 0, -1, device=boxes.device, dtype=torch.float64)
    # Classes are moved apart in double precision: in single, the move would round the boxes' corners.
    apart = boxes.double() + 2 * labels[..., None]
    for index in range(len(boxes)):
        candidates = valid[index].nonzero()[:, 0]
        keep[index, candidates[nms(apart[index, candidates], rank[candidates], nms_iou)]] = True
    return keep


def suppress_at_once(boxes: Tensor, labels: Tensor, valid: Tensor, nms_iou: float) -> Tensor:
    """What `suppress` does, in operators of fixed shapes without loops over boxes or images.

    A box stays unless a better box that stays overlaps it: a fixed point, which is reached from above in as many
    rounds as the longest chain of suppressions has links. Two dozen rounds are many more than boxes give rise to.
    """
    x1, y1, x2, y2 = boxes.unbind(-1)
    wide = torch.minimum(x2[:, :, None], x2[:, None]) - torch.maximum(x1[:, :, None], x1[:, None])
    high = torch.minimum(y2[:, :, None], y2[:, None]) - torch.maximum(y1[:, :, None], y1[:, None])
    common = wide.clamp(min=0) * high.clamp(min=0)
    areas = area(boxes)
    # hits[i, j]: i is better than j, of its class, and overlaps it.
    hits = common > nms_iou * (areas[:, :, None] + areas[:, None] - common)
    hits = (hits & (labels[:, :, None] == labels[:, None]) & valid[:, :, None]).triu(1)
    keep = valid
    for _ in range(_ROUNDS):
        keep = valid & (torch.bmm(keep[:, None].to(boxes.dtype), hits.to(boxes.dtype))[:, 0] == 0)
    return keep


def _take(boxes: Tensor, scores: Tensor, labels: Tensor, keep: Tensor, count: int) -> BatchDetections:
    """The first `count` that stay, in their order; zeros after them."""
    k = keep.shape[1]
    rank = torch.arange(k, device=keep.device)
    order = torch.where(keep, rank, k + rank).argsort(dim=1)[:, :count]
    kept = keep.gather(1, order)
    missing = (0, count - order.shape[1])
    return BatchDetections(
        F.pad(boxes.gather(1, order[..., None].expand(-1, -1, 4)) * kept[..., None], (0, 0, *missing)),
        F.pad(scores.gather(1, order) * kept, missing),
        F.pad(labels.gather(1, order) * kept, missing),
        kept.sum(1),
    )
