"""From raw predictions to boxes: scores, decoding, and non-maximum suppression of fixed shapes over a whole batch."""

from typing import NamedTuple

import torch
from torch import Tensor

from mnv2vision.detection.box_coder import decode, iou
from mnv2vision.detection.loss import Scores

MAX_DETECTIONS = 100
SCORE_THRESHOLD = 1e-8
_CANDIDATES = 400  # looked at first; more only where too many of them suppress one another
_EXPORTED_ROUNDS = 24


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
    box_codes: Tensor,
    class_logits: Tensor,
    anchors: Tensor,
    *,
    scores: Scores = "sigmoid",
    nms_iou: float = 0.6,
    score_threshold: float = SCORE_THRESHOLD,
    max_detections: int = MAX_DETECTIONS,
    classes: Tensor | None = None,
) -> BatchDetections:
    """Decode, and suppress boxes that overlap a better one of their class.

    The result is that of class-wise non-maximum suppression over all anchors and classes, of which the best
    `max_detections` are kept: only a better box can suppress, so that the best candidates decide among themselves,
    and more of them are looked at only where too few remain. Exported graphs have no such loop: they look at the best
    400 candidates once.

    Args:
        box_codes: (N, A, 4).
        class_logits: (N, A, 1 + C), the background first.
        anchors: (A, 4), see `make_anchors`.
        scores: How logits become scores.
        nms_iou: Boxes of a class that overlap a better one by more are dropped.
        score_threshold: Boxes with less are dropped.
        max_detections: D of the result.
        classes: Labels to look for, by which the result's labels count; all by default.
    """
    # Sigmoids are monotonous: they are needed of the candidates only.
    ranked = class_logits[..., 1:] if scores == "sigmoid" else class_scores(class_logits, scores)
    if classes is not None:
        ranked = ranked[..., classes]
    columns = ranked.shape[2]
    ranked = ranked.float().flatten(1)
    total = ranked.shape[1]
    limit = min(max(_CANDIDATES, 2 * max_detections), total)
    while True:
        best, index = ranked.topk(limit, dim=1)
        best = best.sigmoid() if scores == "sigmoid" else best
        anchor, label = index // columns, index % columns
        codes = box_codes.float().gather(1, anchor[..., None].expand(-1, -1, 4))
        boxes = decode(codes, anchors[anchor]).clamp(0, 1)
        keep = suppress(boxes, label, best > score_threshold, nms_iou)
        if torch.compiler.is_exporting() or limit == total or _is_enough(keep, best, score_threshold, max_detections):
            break
        limit = min(4 * limit, total)
    return _take(boxes, best, label, keep, max_detections)


def _is_enough(keep: Tensor, scores: Tensor, threshold: float, wanted: int) -> bool:
    return bool(((keep.sum(1) >= wanted) | (scores[:, -1] <= threshold)).all())


def suppress(boxes: Tensor, labels: Tensor, valid: Tensor, nms_iou: float) -> Tensor:
    """Greedy class-wise non-maximum suppression of a batch, without a loop over boxes.

    A box stays unless a better box that stays overlaps it. That is a fixed point, which is reached from above in as
    many rounds as the longest chain of suppressions has links: a handful.

    Args:
        boxes: (N, K, 4) (x1, y1, x2, y2), the best first.
        labels: (N, K); boxes of different classes do not meet.
        valid: (N, K) bool; the others are dropped.
        nms_iou: Boxes that overlap by more do not both stay.

    Returns:
        (N, K) bool, what stays.
    """
    k = boxes.shape[1]
    hits = (iou(boxes, boxes) > nms_iou) & (labels[:, :, None] == labels[:, None, :])
    better = torch.ones(k, k, dtype=torch.bool, device=boxes.device).triu(1)
    hits = (hits & better & valid[:, :, None]).to(torch.float32)  # hits[i, j]: i is better than j and overlaps it
    keep = valid
    for _ in range(_EXPORTED_ROUNDS if torch.compiler.is_exporting() else k):
        following = valid & (torch.bmm(keep[:, None].float(), hits)[:, 0] == 0)
        if not torch.compiler.is_exporting() and torch.equal(following, keep):
            break
        keep = following
    return keep


def _take(boxes: Tensor, scores: Tensor, labels: Tensor, keep: Tensor, count: int) -> BatchDetections:
    """The first `count` that stay, in their order; zeros after them."""
    k = keep.shape[1]
    rank = torch.arange(k, device=keep.device)
    order = torch.where(keep, rank, k + rank).argsort(dim=1)[:, :count]
    kept = keep.gather(1, order)
    return BatchDetections(
        boxes.gather(1, order[..., None].expand(-1, -1, 4)) * kept[..., None],
        scores.gather(1, order) * kept,
        labels.gather(1, order) * kept,
        kept.sum(1),
    )
