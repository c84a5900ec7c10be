"""What a segmentation model's report advises, of what is planted."""

import numpy as np

from mnv2vision.data.sample import IGNORE_INDEX, Sample
from mnv2vision.segmentation.evaluator import SegmentationEvaluator
from mnv2vision.segmentation.report import advice
from mnv2vision.segmentation.training import _beside

PIXEL = np.zeros((1, 1, 3), np.uint8)


def test_a_class_that_is_never_found() -> None:
    evaluator = SegmentationEvaluator(("background", "ant", "bee"))
    truth = np.array([[0, 1, 2, 2]], np.uint8)
    evaluator.update([np.array([[0, 1, 0, 1]], np.uint8)], [Sample(PIXEL, 1, "", mask=truth)])
    evaluator.compute()
    assert evaluator.score(1) == (1 / 2 + 1 / 2 + 0) / 3
    assert advice(evaluator) == ["no pixel of bee is found: loss.class_weights=auto, or more photos of them"]
    evaluator.update([truth], [Sample(PIXEL, 2, "", mask=truth)])
    evaluator.compute()
    assert advice(evaluator) == []


def test_what_is_void_shows_no_mistake() -> None:
    photo = np.zeros((2, 2, 3), np.uint8)
    found = np.array([[1, 1], [0, 2]], np.uint8)
    truth = np.repeat(np.repeat(np.array([[0, IGNORE_INDEX], [0, 2]], np.uint8), 3, 0), 3, 1)
    pictures, masks = _beside(photo, found, truth)
    assert pictures.shape == (2, 4, 3)
    assert masks.tolist() == [[0, 1, 1, 1], [0, 2, 0, 2]]
