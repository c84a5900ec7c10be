"""Cross entropy per pixel, with pixels that count for nothing."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mnv2vision.data.sample import IGNORE_INDEX


def segmentation_loss(
    logits: Tensor,
    masks: Tensor,
    *,
    ignore_index: int = IGNORE_INDEX,
    class_weights: Sequence[float] | None = None,
    hardest: float = 1.0,
    unknown: Tensor | None = None,
) -> Tensor:
    """Mean over the pixels that count.

    Source: TF research/deeplab/utils/train_utils.py.

    Args:
        logits: (N, C, H, W), at the masks' pixels.
        masks: (N, H, W) integers, labels in 0..C-1 or `ignore_index`.
        ignore_index: Of pixels that do not count; a batch of nothing else has a loss of 0.
        class_weights: Weight of each class; the mean is then over weights.
        hardest: Share of the pixels that count, those with the largest losses (online hard example mining).
        unknown: (N, C) bool, classes that an image's annotations leave out, label 0 being the background: what is
            annotated as background may be one of these, whose probabilities count with it (arXiv 2002.04718, eq. 3).

    Returns:
        A scalar in float32.
    """
    logits = logits.float()
    targets = masks.long()
    weights = None if class_weights is None else logits.new_tensor(class_weights)
    losses = F.cross_entropy(logits, targets, weights, ignore_index=ignore_index, reduction="none")
    if unknown is not None:
        known = ~unknown
        known[:, 0] = False
        may_be = logits.masked_fill(known[:, :, None, None], -torch.inf).logsumexp(dim=1)
        weight = 1.0 if weights is None else weights[0]
        losses = torch.where(targets == 0, weight * (logits.logsumexp(dim=1) - may_be), losses)
    counted = targets != ignore_index
    total = counted.float() if weights is None else weights[targets.where(counted, 0)] * counted
    if hardest < 1:
        # As many as the share says, though it means to wait for the device: shapes depend on data here.
        count = max(1, int(hardest * int(counted.sum())))
        losses, index = losses.flatten().topk(count)
        total = total.flatten()[index]
    return losses.sum() / total.sum().clamp(min=torch.finfo(torch.float32).tiny)
