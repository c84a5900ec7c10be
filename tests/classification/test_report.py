"""What a classifier's report advises, of what is planted."""

import numpy as np
import torch

from mnv2vision.classification.evaluator import ClassificationEvaluator
from mnv2vision.classification.report import advice
from mnv2vision.data.sample import Sample

PIXEL = np.zeros((1, 1, 3), np.uint8)


def evaluated(logits: torch.Tensor, labels: list[int]) -> ClassificationEvaluator:
    evaluator = ClassificationEvaluator(logits.shape[1], ("ant", "bee", "cat"))
    evaluator.update(logits, [Sample(PIXEL, index, "", label) for index, label in enumerate(labels)])
    evaluator.compute()
    return evaluator


def test_a_class_that_is_never_recognised_and_too_much_confidence() -> None:
    logits = torch.full((20, 3), -5.0)
    logits[:, 0] = 5
    told = advice(evaluated(logits, [0] * 12 + [1] * 8))  # sure of ants, 12 of 20 right
    assert told[0] == "no image of bee is recognised: look at the labels, and add photos of them"
    assert told[1].startswith("the probabilities are too sure, by 40 points on average: logits divided by ")


def test_too_little_confidence() -> None:
    logits = torch.eye(3)[[0, 1, 2] * 5]
    (told,) = advice(evaluated(logits, [0, 1, 2] * 5))
    assert told.startswith("the probabilities are not sure enough, by 42 points")  # 1 - e / (e + 2)


def test_nothing_to_say() -> None:
    logits = torch.tensor([[2.0, 0.0, -60.0]] * 500)
    right = round(500 * float(logits[0].softmax(0)[0]))
    assert advice(evaluated(logits[:right], [0] * right)) != []
    mixed = torch.cat([logits, logits[:, [1, 0, 2]]])
    assert advice(evaluated(mixed, [0] * right + [1] * (500 - right) + [1] * right + [0] * (500 - right))) == []
    assert advice(ClassificationEvaluator(3, ("ant", "bee", "cat"))) == []
