"""A detector that learns from another's raw output, anchor by anchor."""

import torch
from torch import Tensor
from torch.nn import functional as F

from mnv2vision.contracts import Lesson, RawDetections
from mnv2vision.detection.loss import MIN_NEGATIVES, NEGATIVES_PER_POSITIVE, Scores
from mnv2vision.errors import ConfigError

SURE = 0.5
"""From which score of an object on a teacher's box is learned."""


def imitation_loss(raw: RawDetections, teacher: RawDetections, lesson: Lesson, scores: Scores = "sigmoid") -> Tensor:
    """The distance of the classes on the anchors that matter, and smooth L1 on the box codes of the sure ones.

    As in the loss by labels, what matters are the anchors on which the teacher is sure of an object, and of the others
    each image's hardest three for each of these, three at least; and both parts are divided by the number of the sure.

    Args:
        raw: What the student gave.
        teacher: What the teacher gave, of the same images and anchors.
        lesson: How it learns; classes are without the background.
        scores: How both score: see `detection_loss`. Sigmoids are compared class by class, each with its complement.

    Raises:
        ConfigError: For a teacher with other anchors.
    """
    if teacher.anchors.shape != raw.anchors.shape or not torch.allclose(teacher.anchors, raw.anchors, atol=1e-6):
        raise ConfigError(
            f"teacher: the detector has {len(teacher.anchors)} anchors for this input, of which not all are the"
            f" student's {len(raw.anchors)}: give both the same head, taps, output_stride and reduce_lowest"
        )
    logits, target = lesson.common(raw.class_logits[..., 1:], teacher.class_logits[..., 1:], 2)
    logits = torch.cat([raw.class_logits[..., :1].float(), logits], 2)
    target = torch.cat([teacher.class_logits[..., :1].float(), target], 2)
    if scores == "sigmoid":
        probabilities = target.sigmoid()
        distance = lesson.distance.by_row(_with_complement(logits), _with_complement(target)).sum(2)
    else:
        probabilities = target.softmax(2)
        distance = lesson.distance.by_row(logits, target)
    wanted = lesson.wanted[:, None]
    sure = (probabilities[..., 1:].amax(2) >= SURE) & wanted
    with torch.no_grad():
        rank = distance.masked_fill(sure, -torch.inf).argsort(1, descending=True).argsort(1)
        others_wanted = (NEGATIVES_PER_POSITIVE * sure.sum(1, keepdim=True)).clamp(min=MIN_NEGATIVES)
        counted = sure | ((rank < others_wanted) & ~sure & wanted)
    others = ~sure[..., None]
    boxes = F.smooth_l1_loss(
        raw.box_codes.float().masked_fill(others, 0), teacher.box_codes.float().masked_fill(others, 0), reduction="sum"
    )
    return (distance.where(counted, 0).sum() + boxes) / sure.sum().clamp(min=1)


def _with_complement(logits: Tensor) -> Tensor:
    """(..., 2) logits of a softmax whose first probability is the sigmoid."""
    return torch.stack([logits, torch.zeros_like(logits)], dim=-1)
