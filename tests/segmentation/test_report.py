"""What a segmentation model's report advises, of what is planted."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import mnv2vision as mv
from mnv2vision.contracts import HeadInUse
from mnv2vision.data.batch import collate
from mnv2vision.data.sample import IGNORE_INDEX, Sample
from mnv2vision.segmentation.evaluator import SegmentationEvaluator
from mnv2vision.segmentation.report import advice
from mnv2vision.segmentation.training import SegmentationTraining, _beside

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


def test_some_photos_show_what_was_annotated_beside_what_was_found(tmp_path: Path) -> None:
    names = ("background", "ant", "bee")
    model: Any = mv.create_model("segmentation", width=0.35, names=names, image_size=32).eval()
    training = SegmentationTraining(
        HeadInUse(model.head, model.config.head, model.preprocessing), SegmentationEvaluator(names)
    )
    training.start()
    truth = np.zeros((100, 200), np.uint8)
    truth[:, :100] = 1

    def network(images: Tensor) -> Tensor:
        return torch.tensor([0.0, 0.0, 9.0])[None, :, None, None].expand(1, 3, 4, 4)  # bees all over

    image = np.zeros((32, 32, 3), np.uint8)
    for image_id, mask in enumerate((truth, None)):  # the second is not annotated: it is shown once
        sample = Sample(image, image_id, "", mask=mask, size=(100, 200))
        training.evaluate(network, torch.zeros(1, 3, 32, 32), collate([sample], [], evaluation=True))
    (pictures, masks), (alone, mask_alone) = training._examples
    shown = np.zeros((16, 64), int)  # at the photo's aspect
    shown[:, :16], shown[:, 32:] = 1, 2
    assert masks.tolist() == shown.tolist()
    assert pictures.shape == (16, 64, 3)
    assert mask_alone.tolist() == shown[:, 32:].tolist()
    assert alone.shape == (16, 32, 3)
    training.evaluator.compute()
    training.write_report(tmp_path)
    with Image.open(tmp_path / "predictions.png") as sheet:
        assert sheet.width > 2 * sheet.height  # no room for squares


def test_what_is_void_shows_no_mistake() -> None:
    photo = np.zeros((2, 2, 3), np.uint8)
    found = np.array([[1, 1], [0, 2]], np.uint8)
    truth = np.repeat(np.repeat(np.array([[0, IGNORE_INDEX], [0, 2]], np.uint8), 3, 0), 3, 1)
    pictures, masks = _beside(photo, found, truth)
    assert pictures.shape == (2, 4, 3)
    assert masks.tolist() == [[0, 1, 1, 1], [0, 2, 0, 2]]
