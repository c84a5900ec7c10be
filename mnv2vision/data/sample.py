"""What every data set of the project yields, whatever the task."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

IGNORE_INDEX = 255
"""Mask value of pixels that belong to no class and are left out of losses and metrics (VOC's border)."""


class BoxKind(IntEnum):
    """What a box of a padded batch is: losses leave out groups (COCO) and difficult objects (VOC)."""

    PADDING = 0
    OBJECT = 1
    CROWD = 2
    DIFFICULT = 3


@dataclass(slots=True)
class Sample:
    """One image with whatever its data set knows about it; a target the data set does not offer is None.

    Attributes:
        image: (H, W, 3) uint8 RGB, upright by its EXIF tag.
        image_id: The identifier in the source; evaluators drop duplicates by it and write it into results.
        path: The file, or what names the image in a message.
        label: The class of the image, in 0..C-1.
        boxes: (n, 4) float32, (x1, y1, x2, y2) in pixels.
        labels: (n,) int64, the classes of the boxes, in 0..C-1.
        is_crowd: (n,) bool, boxes around groups (COCO).
        difficult: (n,) bool, boxes left out of the evaluation (VOC).
        areas: (n,) float64, the objects' areas in pixels (COCO's are those of the outlines, not of the boxes).
        mask: (H, W) uint8, a class per pixel, 255 = ignore.
        size: (H, W) of the photo, where the image was resized for evaluation and the targets were left as they are.
    """

    image: NDArray[np.uint8]
    image_id: int | str
    path: str
    label: int | None = None
    boxes: NDArray[np.float32] | None = None
    labels: NDArray[np.int64] | None = None
    is_crowd: NDArray[np.bool_] | None = None
    difficult: NDArray[np.bool_] | None = None
    areas: NDArray[np.float64] | None = None
    mask: NDArray[np.uint8] | None = None
    size: tuple[int, int] | None = None


class SampleSource(Protocol):
    """A data set: a sized, indexable source of samples that says which targets it offers.

    Attributes:
        names: Class names, indexed by label.
        targets: Which of "label", "boxes" and "mask" its samples carry.
    """

    names: tuple[str, ...]
    targets: frozenset[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...
