"""SSD's loss: classes of all positives and of the hardest negatives, boxes of the positives."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mnv2vision.contracts import RawDetections
from mnv2vision.data.targets import BoxTargets
from mnv2vision.detection.box_coder import encode
from mnv2vision.detection.matcher import match

Scores = Literal["sigmoid", "softmax"]

NEGATIVES_PER_POSITIVE = 3
MIN_NEGATIVES = 3


class DetectionLoss(NamedTuple):
    """Scalars in float32; the loss is their sum."""

    classes: Tensor
    boxes: Tensor


def detection_loss(
    raw: RawDetections, targets: BoxTargets, scores: Scores = "sigmoid", unknown: Tensor | None = None
) -> DetectionLoss:
    """Loss of a batch, divided by the number of its positive anchors.

    Of the negatives, each image's hardest three per positive count, three at least. TensorFlow's miner drops negatives
    that overlap a harder one by an IoU of 0.99 first, which is left out here: no two anchors overlap so much unless
    the network moves them there.

    Source: TF object_detection/core/losses.py and samples/configs/ssdlite_mobilenet_v2_coco.config.

    Args:
        raw: What the network gave.
        targets: The objects; images may have none. Those without this target do not count.
        scores: "sigmoid" is TensorFlow's: a cross entropy per class, the background among them; "softmax" is the SSD
            paper's: one over all classes.
        unknown: (N, C) bool, classes that an image's annotations leave out: where nothing is annotated there may be
            objects of these, so that there they are neither absent nor is the background sure.
    """
    raw.check()
    box_codes, class_logits, anchors = raw.box_codes, raw.class_logits, raw.anchors
    if not targets.kinds.shape[1]:  # gather needs something to choose from
        labels, kinds = (F.pad(part, (0, 1)) for part in (targets.labels, targets.kinds))
        targets = BoxTargets(F.pad(targets.boxes, (0, 0, 0, 1)), labels, kinds, targets.present)
    matches = match(targets.boxes, targets.kinds, anchors)
    positive = matches.positive
    classes = torch.where(positive, targets.labels.gather(1, matches.box_index) + 1, 0)

    logits = class_logits.float()
    hit = logits.gather(2, classes[..., None]).squeeze(2)
    class_loss = (F.softplus(logits).sum(dim=2) if scores == "sigmoid" else logits.logsumexp(dim=2)) - hit
    if unknown is not None:
        class_loss = torch.where(positive, class_loss, _nothing_known(logits, scores, unknown))

    with torch.no_grad():
        candidates = class_loss.masked_fill(positive | matches.ignored, -torch.inf)
        rank = candidates.argsort(dim=1, descending=True).argsort(dim=1)
        wanted = (NEGATIVES_PER_POSITIVE * positive.sum(dim=1, keepdim=True)).clamp(min=MIN_NEGATIVES)
        negative = (rank < wanted) & ~positive & ~matches.ignored & targets.present[:, None]
    class_loss = (class_loss * (positive | negative)).sum()

    # Of all anchors, the others' codes set to zero: to pick the positives out would mean to wait for the device.
    wanted_codes = encode(targets.boxes.gather(1, matches.box_index[..., None].expand(-1, -1, 4)), anchors)
    others = ~positive[..., None]
    box_loss = F.smooth_l1_loss(
        box_codes.float().masked_fill(others, 0), wanted_codes.masked_fill(others, 0), reduction="sum"
    )
    count = positive.sum().clamp(min=1)
    return DetectionLoss(class_loss / count, box_loss / count)


def _nothing_known(logits: Tensor, scores: Scores, unknown: Tensor) -> Tensor:
    """(N, A), the loss of anchors without an object of the known classes: background, or something not annotated."""
    known = ~unknown[:, None]  # (N, 1, C)
    if scores == "softmax":  # the probability of the background and of all that is not annotated
        may_be = logits.masked_fill(torch.cat([torch.zeros_like(known[..., :1]), known], dim=2), -torch.inf)
        return logits.logsumexp(dim=2) - may_be.logsumexp(dim=2)
    all_known = known.all(dim=2)
    background = F.softplus(-logits[..., 0]) * all_known
    return background + (F.softplus(logits[..., 1:]) * known).sum(dim=2)
