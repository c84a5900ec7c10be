"""Box codes and overlaps against torchvision's, and round trips."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_area, box_convert, box_iou

from mnv2vision.detection.box_coder import area, decode, encode, intersection, iou, to_centre, to_corners

REFERENCE = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))


def random_boxes(count: int, seed: int, smallest: float = 0.01) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(count, 2, generator=generator)
    size = smallest + torch.rand(count, 2, generator=generator) * 0.5
    return torch.cat([centre - size / 2, centre + size / 2], dim=1)


def test_corners_and_centres() -> None:
    corners = torch.tensor([[0.1, 0.2, 0.5, 0.4]])
    centre = torch.tensor([[0.3, 0.3, 0.4, 0.2]])
    torch.testing.assert_close(to_centre(corners), centre)
    torch.testing.assert_close(to_corners(centre), corners)
    boxes = random_boxes(50, 0).view(2, 25, 4)
    torch.testing.assert_close(to_centre(boxes), box_convert(boxes, "xyxy", "cxcywh"))
    torch.testing.assert_close(to_corners(to_centre(boxes)), boxes)


def test_codes_by_hand() -> None:
    # The centre is off by a quarter of the anchor's width and minus half its height; width doubled, height halved.
    anchors = torch.tensor([[0.5, 0.5, 0.4, 0.2]])
    boxes = torch.tensor([[0.6 - 0.4, 0.4 - 0.05, 0.6 + 0.4, 0.4 + 0.05]])
    codes = torch.tensor([[2.5, -5.0, 5 * math.log(2), -5 * math.log(2)]])
    torch.testing.assert_close(encode(boxes, anchors), codes, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(decode(codes, anchors), boxes)


def test_encode_as_torchvision_does() -> None:
    boxes, anchors = random_boxes(200, 1), random_boxes(200, 2)
    wanted = REFERENCE.encode_single(boxes, anchors)
    torch.testing.assert_close(encode(boxes, to_centre(anchors)), wanted, rtol=1e-4, atol=1e-4)
    batch = torch.stack([boxes, boxes.flip(0)])
    codes = encode(batch, to_centre(anchors))
    torch.testing.assert_close(codes[1], REFERENCE.encode_single(boxes.flip(0), anchors), rtol=1e-4, atol=1e-4)


def test_decode_as_torchvision_does() -> None:
    anchors = random_boxes(200, 3)
    codes = torch.randn(3, 200, 4, generator=torch.Generator().manual_seed(4)) * 5
    wanted = torch.stack([REFERENCE.decode_single(image, anchors) for image in codes])
    torch.testing.assert_close(decode(codes, to_centre(anchors)), wanted, rtol=1e-5, atol=1e-5)


def test_extremes_stay_finite() -> None:
    anchors = torch.tensor([[0.5, 0.5, 0.2, 0.1]]).expand(3, -1)
    boxes = decode(torch.tensor([[0, 0, 1e4, 1e4], [0, 0, -1e4, -1e4], [0, 0, 30.0, 30.0]]), anchors)
    sizes = boxes[:, 2:] - boxes[:, :2]
    assert sizes[0].tolist() == pytest.approx([200, 100], rel=1e-4)  # a thousand times the anchor at most
    assert sizes[1].tolist() == [0, 0]
    assert sizes[2].tolist() == pytest.approx([0.2 * math.exp(6), 0.1 * math.exp(6)], rel=1e-4)  # not limited yet
    without_area = torch.tensor([[0.5, 0.5, 0.5, 0.5]])
    assert encode(without_area, anchors[:1]).isfinite().all()


UNIT = st.floats(0, 1, width=32)
SIDE = st.floats(0.0078125, 1, width=32)
BOXES = st.tuples(UNIT, UNIT, SIDE, SIDE)


@settings(deadline=None)
@given(BOXES, BOXES)
def test_round_trip(box: tuple[float, ...], anchor: tuple[float, ...]) -> None:
    anchors = torch.tensor([anchor], dtype=torch.float64)
    boxes = to_corners(torch.tensor([box], dtype=torch.float64))
    torch.testing.assert_close(decode(encode(boxes, anchors), anchors), boxes, rtol=0, atol=1e-9)
    codes = encode(boxes, anchors)
    torch.testing.assert_close(encode(decode(codes, anchors), anchors), codes, rtol=1e-8, atol=1e-8)
    single = decode(encode(boxes.float(), anchors.float()), anchors.float())
    torch.testing.assert_close(single, boxes.float(), rtol=1e-4, atol=1e-4)


@settings(deadline=None)
@given(BOXES)
def test_an_anchor_is_its_own_origin(anchor: tuple[float, ...]) -> None:
    anchors = torch.tensor([anchor], dtype=torch.float64)
    torch.testing.assert_close(encode(to_corners(anchors), anchors), torch.zeros_like(anchors), rtol=0, atol=1e-9)
    assert torch.equal(decode(torch.zeros_like(anchors), anchors), to_corners(anchors))


def test_overlap_by_hand() -> None:
    a = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    b = torch.tensor([[1.0, 1.0, 3.0, 3.0], [0, 0, 2, 2], [2, 0, 4, 2], [0.5, 0.5, 1, 1.5], [5, 5, 6, 6]])
    assert intersection(a, b).tolist() == [[1, 4, 0, 0.5, 0]]
    assert area(b).tolist() == [4, 4, 4, 0.5, 1]
    assert iou(a, b)[0].tolist() == pytest.approx([1 / 7, 1, 0, 0.125, 0])


def test_overlap_as_torchvision_computes_it() -> None:
    a, b = random_boxes(60, 5).view(2, 30, 4), random_boxes(80, 6).view(2, 40, 4)
    ours = iou(a, b)
    assert ours.shape == (2, 30, 40)
    assert (ours > 0.3).any()
    for image in range(2):
        torch.testing.assert_close(ours[image], box_iou(a[image], b[image]), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(area(a), box_area(a.view(-1, 4)).view(2, 30))
    torch.testing.assert_close(iou(a, b[0])[1], box_iou(a[1], b[0]), rtol=1e-4, atol=1e-6)  # broadcast over images


def test_overlap_of_boxes_without_area() -> None:
    nothing = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0, 0, 0, 0], [0.2, 0.2, 0.2, 0.8]])
    assert torch.equal(iou(nothing, nothing), torch.zeros(3, 3))
    assert torch.equal(iou(nothing, torch.tensor([[0.0, 0.0, 1.0, 1.0]])), torch.zeros(3, 1))
    # A small box is no empty one: 1e-4 of the input's side.
    tiny = torch.tensor([[0.5, 0.5, 0.5001, 0.5001]])
    assert iou(tiny, tiny).item() == pytest.approx(1)
