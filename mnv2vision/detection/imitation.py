"""A detector that learns from another's raw output, anchor by anchor."""

import torch
from torch import Tensor
from torch.nn import functional as F

from mnv2vision.contracts import RawDetections
from mnv2vision.detection.loss import MIN_NEGATIVES, NEGATIVES_PER_POSITIVE, Scores
from mnv2vision.errors import ConfigError

SURE = 0.5
"""From which score of an object on a teacher's box is learned."""


def imitation_loss(
    raw: RawDetections,
    teacher: RawDetections,
    wanted: Tensor,
    *,
    scores: Scores = "sigmoid",
    classes: Tensor | None = None,
) -> Tensor:
    """The divergence of the classes on the anchors that matter, and smooth L1 on the box codes of the sure ones.

    As in the loss by labels, what matters are the anchors on which the teacher is sure of an object, and of the others
    each image's hardest three for each of these, three at least; and both parts are divided by the number of the sure.

    Args:
        raw: What the student gave.
        teacher: What the teacher gave, of the same images and anchors.
        wanted: (N,) bool, which images count.
        scores: How both score: see `detection_loss`.
        classes: (C,) the teacher's labels of the student's classes; None if they are the same.

    Raises:
        ConfigError: For a teacher with other anchors.
    """
    if teacher.anchors.shape != raw.anchors.shape or not torch.allclose(teacher.anchors, raw.anchors, atol=1e-6):
        raise ConfigError(
            f"teachers: the detector has {len(teacher.anchors)} anchors for this input, of which not all are the"
            f" student's {len(raw.anchors)}: give both the same head, taps, output_stride and reduce_lowest"
        )
    target = teacher.class_logits.float()
    if classes is not None:
        target = torch.cat([target[..., :1], target[..., 1:][..., classes]], dim=2)
    logits = raw.class_logits.float()
    if scores == "sigmoid":
        probabilities = target.sigmoid()
        by_class = F.binary_cross_entropy_with_logits(logits, probabilities, reduction="none")
        least = F.binary_cross_entropy_with_logits(target, probabilities, reduction="none")
        divergence = (by_class - least).sum(2)
    else:
        probabilities = target.softmax(2)
        divergence = F.kl_div(logits.log_softmax(2), probabilities, reduction="none").sum(2)
    sure = (probabilities[..., 1:].amax(2) >= SURE) & wanted[:, None]
    with torch.no_grad():
        rank = divergence.masked_fill(sure, -torch.inf).argsort(1, descending=True).argsort(1)
        others_wanted = (NEGATIVES_PER_POSITIVE * sure.sum(1, keepdim=True)).clamp(min=MIN_NEGATIVES)
        counted = sure | ((rank < others_wanted) & ~sure & wanted[:, None])
    others = ~sure[..., None]
    boxes = F.smooth_l1_loss(
        raw.box_codes.float().masked_fill(others, 0), teacher.box_codes.float().masked_fill(others, 0), reduction="sum"
    )
    return (divergence.where(counted, 0).sum() + boxes) / sure.sum().clamp(min=1)
