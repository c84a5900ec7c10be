"""The targets of several samples, stacked for training."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mnv2vision.data.sample import IGNORE_INDEX, NO_LABEL, Sample
from mnv2vision.errors import DataError

_BOX_STEP = 16  # padding to a multiple keeps the number of shapes small, for compiled code


class BoxTargets(NamedTuple):
    """The objects of a batch, padded to the same number per image.

    Attributes:
        boxes: (N, M, 4) float32 (x1, y1, x2, y2) in 0..1 of the network's input.
        labels: (N, M) int64 in 0..C-1.
        kinds: (N, M) uint8, see `BoxKind`.
        present: (N,) bool, whether an image's objects are annotated (there may be none).
    """

    boxes: Tensor
    labels: Tensor
    kinds: Tensor
    present: Tensor


def stack_labels(samples: Sequence[Sample]) -> Tensor | None:
    """(N,) int64 classes of the images, -1 where absent; None if all are."""
    if all(sample.label is None for sample in samples):
        return None
    return torch.tensor([NO_LABEL if sample.label is None else sample.label for sample in samples])


def stack_boxes(samples: Sequence[Sample]) -> BoxTargets | None:
    """The boxes of samples of one image size; None if no sample has the target."""
    counts = [0 if sample.boxes is None else len(sample.boxes) for sample in samples]
    present = torch.tensor([sample.boxes is not None for sample in samples])
    if not present.any():
        return None
    shape = (len(samples), -(-max(counts) // _BOX_STEP) * _BOX_STEP)
    boxes, labels, kinds = torch.zeros(*shape, 4), torch.zeros(shape).long(), torch.zeros(shape, dtype=torch.uint8)
    height, width = samples[0].image.shape[:2]
    for i, (sample, n) in enumerate(zip(samples, counts, strict=True)):
        if sample.boxes is not None and n:
            boxes[i, :n] = torch.from_numpy(sample.boxes.boxes) / torch.tensor([width, height, width, height])
            labels[i, :n] = torch.from_numpy(sample.boxes.labels)
            kinds[i, :n] = torch.from_numpy(sample.boxes.kinds)
    return BoxTargets(boxes, labels, kinds, present)


def stack_masks(samples: Sequence[Sample]) -> tuple[Tensor, Tensor] | None:
    """Masks (N, H, W) uint8, 255 where absent, and which samples have one (N,) bool; None if none has."""
    present = torch.tensor([sample.mask is not None for sample in samples])
    if not present.any():
        return None
    height, width = samples[0].image.shape[:2]
    absent = np.full((height, width), IGNORE_INDEX, np.uint8)
    return torch.from_numpy(np.stack([absent if sample.mask is None else sample.mask for sample in samples])), present


def check_mask(sample: Sample, size: tuple[int, int]) -> None:
    """Raise DataError if a mask's (height, width) differs from its image's."""
    if sample.mask is not None and sample.mask.shape != size:
        shapes = ["x".join(map(str, shape[::-1])) for shape in (sample.mask.shape, size)]
        raise DataError(f"{sample.path}: its mask is {shapes[0]} pixels, but the image is {shapes[1]}")
