"""What the anchors reach: the maps are a model's, and the overlap is counted pixel by pixel."""

import numpy as np
import pytest
import torch

import mnv2vision as mv
from mnv2vision.detection.anchors import make_anchors
from mnv2vision.detection.reach import best_overlap, map_sizes


@pytest.mark.parametrize("size", [(320, 320), (224, 224), (300, 300), (96, 200)])
def test_maps_are_those_of_the_model(size: tuple[int, int]) -> None:
    model = mv.create_model("detection", width=0.35, num_classes=1, image_size=size).eval()
    with torch.no_grad():
        anchors = model(torch.zeros(1, 3, *size)).anchors
    assert torch.equal(anchors, make_anchors(map_sizes(size), size))


def test_overlap_by_counting_pixels() -> None:
    """On a raster of 400 x 400, for some of the boxes' anchors."""
    boxes = torch.tensor([[0.1, 0.1, 0.3, 0.3], [0.0, 0.0, 1.0, 1.0], [0.5, 0.5, 0.51, 0.51]])
    found = best_overlap(boxes, (96, 96))
    cells = (np.arange(400) + 0.5) / 400
    anchors = make_anchors(map_sizes((96, 96)), (96, 96)).numpy()
    for box, overlap in zip(boxes.numpy(), found.tolist(), strict=True):
        inside = [(cells >= box[axis]) & (cells < box[axis + 2]) for axis in (0, 1)]
        best = 0.0
        for x, y, width, height in anchors:
            spans = [abs(cells - middle) < side / 2 for middle, side in ((x, width), (y, height))]
            common = np.prod([(a & b).sum() / 400 for a, b in zip(inside, spans, strict=True)])
            area = (box[2] - box[0]) * (box[3] - box[1]) + width * height - common
            best = max(best, common / area)
        assert overlap == pytest.approx(best, abs=0.02)


def test_none() -> None:
    assert best_overlap(torch.zeros(0, 4), (96, 96)).shape == (0,)
