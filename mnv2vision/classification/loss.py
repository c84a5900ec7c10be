"""Cross entropy with label smoothing, for hard labels and for the soft ones of mixup and CutMix."""

import torch
from torch import Tensor
from torch.nn import functional as F

from mnv2vision.data.sample import NO_LABEL


def classification_loss(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross entropy of a batch; 0 where no image counts.

    Args:
        logits: (N, C).
        targets: (N,) int64 labels in 0..C-1, -1 for images that do not count; or (N, C) probabilities, whose sum is the
            share of an image that counts.
        label_smoothing: Share of each target that is spread evenly over all classes; the paper's recipe has 0.1.

    Returns:
        A scalar, in float32 under mixed precision as well.
    """
    if targets.is_floating_point():
        shares = targets.sum(1)
        targets = targets / shares.clamp(min=torch.finfo(shares.dtype).tiny)[:, None]
    else:
        shares = (targets != NO_LABEL).float()
    losses = F.cross_entropy(
        logits.float(), targets, ignore_index=NO_LABEL, label_smoothing=label_smoothing, reduction="none"
    )
    return (losses * shares).sum() / shares.sum().clamp(min=1)
