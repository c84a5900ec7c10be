"""What each task's predictions are without torch: how they are decoded, and how they are drawn."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnv2vision.common.colors import Color
from mnv2vision.predictions import classification, detection, segmentation
from mnv2vision.predictions.base import ArrayDecoder, Described, Prediction
from mnv2vision.predictions.classification import ClassificationArrays
from mnv2vision.predictions.detection import DetectionArrays
from mnv2vision.predictions.segmentation import SegmentationArrays

Describe = Callable[[NDArray[np.uint8], Prediction, int, float, Mapping[str, Color]], Described]
"""Draws and tabulates a prediction, of classes at most so many, on a photo (H, W, 3) that is so many times as large.

Some classes' colours are given; for the others see `class_colors`.
"""


@dataclass(frozen=True)
class PredictionKind:
    """The predictions of a task.

    Attributes:
        arrays: Makes their `ArrayDecoder`, from a `predictions.base.Exported` and options by keyword.
        describe: Their drawing; a function, as what it imports takes time.
        agreement: In how many answers two predictions of a photo agree, and of how many: the best class (1), objects
            matched at an IoU of 0.9 (those of both), or pixels.
    """

    arrays: Callable[..., ArrayDecoder]
    describe: Callable[[], Describe]
    agreement: Callable[..., tuple[int, int]]


def _classification() -> Describe:
    from mnv2vision.classification.drawing import describe

    return describe


def _detection() -> Describe:
    from mnv2vision.detection.drawing import describe

    return describe


def _segmentation() -> Describe:
    from mnv2vision.segmentation.drawing import describe

    return describe


PREDICTIONS = {
    "classification": PredictionKind(ClassificationArrays, _classification, classification.agreement),
    "detection": PredictionKind(DetectionArrays, _detection, detection.agreement),
    "segmentation": PredictionKind(SegmentationArrays, _segmentation, segmentation.agreement),
}
