"""Default boxes: worked out by hand, and TensorFlow's generator written out once more in NumPy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import mnv2vision as mv
from mnv2vision.detection.anchors import anchors_per_cell, make_anchors

MAPS_320 = ((20, 20), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1))


def by_tensorflow(
    maps: tuple[tuple[int, int], ...], image_size: tuple[int, int], reduce_lowest: bool
) -> NDArray[np.float64]:
    """(A, 4) ycenter, xcenter, height, width, as object_detection/anchor_generators builds them.

    create_ssd_anchors makes (scale, ratio) lists per layer; MultipleGridAnchorGenerator._generate scales the base
    anchor (1, 1) by min(height, width) over each side; grid_anchor_generator.tile_anchors lays them on the grid.
    """
    layers = len(maps)
    scales = [0.2 + (0.95 - 0.2) * i / (layers - 1) for i in range(layers)] + [1.0]
    im_height, im_width = image_size
    base_height, base_width = min(im_height, im_width) / im_height, min(im_height, im_width) / im_width
    rows = []
    for layer, (grid_height, grid_width) in enumerate(maps):
        if layer == 0 and reduce_lowest:
            specs = [(0.1, 1.0), (scales[0], 2.0), (scales[0], 0.5)]
        else:
            specs = [(scales[layer], ratio) for ratio in (1.0, 2.0, 0.5, 3.0, 0.3333)]
            specs.append((math.sqrt(scales[layer] * scales[layer + 1]), 1.0))
        stride_y, stride_x = 1 / grid_height, 1 / grid_width
        for y in range(grid_height):
            for x in range(grid_width):
                for scale, ratio in specs:
                    root = math.sqrt(ratio)
                    height, width = scale / root * base_height, scale * root * base_width
                    rows.append((y * stride_y + stride_y / 2, x * stride_x + stride_x / 2, height, width))
    return np.array(rows)


def test_anchors_at_320_by_hand() -> None:
    anchors = make_anchors(MAPS_320, (320, 320))
    assert anchors.shape == (2034, 4)
    assert anchors.dtype == torch.float32
    by_hand = {
        # The first map: centres at 0.5 / 20; shapes (0.1, 1), (0.2, 2), (0.2, 1 / 2); 0.2 * sqrt(2) is 0.28284.
        0: (0.025, 0.025, 0.1, 0.1),
        1: (0.025, 0.025, 0.2828427, 0.1414214),
        2: (0.025, 0.025, 0.1414214, 0.2828427),
        # One column on, then one row on: the column runs faster.
        3: (0.075, 0.025, 0.1, 0.1),
        60: (0.025, 0.075, 0.1, 0.1),
        1199: (0.975, 0.975, 0.1414214, 0.2828427),
        # The second map, after 20 * 20 * 3: scale 0.35; 0.35 * sqrt(3) is 0.60622; sqrt(0.35 * 0.5) is 0.41833.
        1200: (0.05, 0.05, 0.35, 0.35),
        1201: (0.05, 0.05, 0.4949747, 0.2474874),
        1202: (0.05, 0.05, 0.2474874, 0.4949747),
        1203: (0.05, 0.05, 0.6062178, 0.2020726),
        1204: (0.05, 0.05, 0.2020625, 0.6062481),  # 0.3333 is no third
        1205: (0.05, 0.05, 0.4183300, 0.4183300),
        1206: (0.15, 0.05, 0.35, 0.35),
        # The third, after 600 more, and the last one, whose next scale is 1.
        1800: (0.1, 0.1, 0.5, 0.5),
        1805: (0.1, 0.1, 0.5700877, 0.5700877),
        2028: (0.5, 0.5, 0.95, 0.95),
        2033: (0.5, 0.5, 0.9746794, 0.9746794),
    }
    for index, wanted in by_hand.items():
        assert anchors[index].tolist() == pytest.approx(wanted, abs=1e-6), index
    # Interpolated scales as paper_facts has them.
    interpolated = [anchors[index, 2].item() for index in (1205, 1805, 1955, 2009, 2033)]
    assert interpolated == pytest.approx([0.4183, 0.5701, 0.7211, 0.8718, 0.9747], abs=5e-5)


def test_anchors_are_not_clipped() -> None:
    anchors = make_anchors(MAPS_320, (320, 320))
    # The fifth map: centres at 0.25 and 0.75, scale 0.8, ratio 3.
    assert (anchors[:, 0] - anchors[:, 2] / 2).min().item() == pytest.approx(0.25 - 0.8 * 3**0.5 / 2, abs=1e-6)
    assert (anchors[:, 0] + anchors[:, 2] / 2).max().item() == pytest.approx(0.75 + 0.8 * 3**0.5 / 2, abs=1e-6)


@pytest.mark.parametrize("reduce_lowest", [True, False])
@pytest.mark.parametrize(
    ("maps", "image_size"),
    [
        (MAPS_320, (320, 320)),
        (((19, 19), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)), (300, 300)),
        (((12, 20), (6, 10), (3, 5), (2, 3), (1, 2), (1, 1)), (192, 320)),
        (((20, 7), (10, 4), (5, 2), (3, 1), (2, 1), (1, 1)), (320, 100)),
        (((4, 3), (2, 5)), (64, 80)),
    ],
)
def test_anchors_as_tensorflow_generates_them(
    maps: tuple[tuple[int, int], ...], image_size: tuple[int, int], reduce_lowest: bool
) -> None:
    ours = make_anchors(maps, image_size, reduce_lowest=reduce_lowest).numpy()
    wanted = by_tensorflow(maps, image_size, reduce_lowest)
    assert ours.shape == wanted.shape
    np.testing.assert_allclose(ours[:, [1, 0, 3, 2]], wanted, rtol=0, atol=1e-6)


SIDES = st.integers(1, 6)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(SIDES, SIDES), min_size=2, max_size=5),
    st.tuples(st.integers(16, 700), st.integers(16, 700)),
    st.booleans(),
)
def test_anchors_of_any_maps(maps: list[tuple[int, int]], image_size: tuple[int, int], reduce_lowest: bool) -> None:
    ours = make_anchors(tuple(maps), image_size, reduce_lowest=reduce_lowest).numpy()
    wanted = by_tensorflow(tuple(maps), image_size, reduce_lowest)
    np.testing.assert_allclose(ours[:, [1, 0, 3, 2]], wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("image_size", [(160, 320), (320, 160)])
def test_anchors_keep_their_shape_in_pixels(image_size: tuple[int, int]) -> None:
    height, width = image_size
    maps = tuple((-(-height // stride), -(-width // stride)) for stride in (16, 32, 64, 128, 256, 512))
    pixels = make_anchors(maps, image_size) * torch.tensor([width, height, width, height])
    # On the shorter side of 160: 0.1 is 16 pixels, 0.2 at a ratio of 2 is 45.25 by 22.63.
    assert pixels[0].tolist() == pytest.approx([8, 8, 16, 16], abs=1e-4)
    assert pixels[1].tolist() == pytest.approx([8, 8, 45.2548, 22.6274], abs=1e-3)
    assert pixels[2].tolist() == pytest.approx([8, 8, 22.6274, 45.2548], abs=1e-3)
    assert pixels[3].tolist() == pytest.approx([24, 8, 16, 16], abs=1e-4)
    assert pixels[-1, 2:].tolist() == pytest.approx([155.9487, 155.9487], abs=1e-3)


@pytest.mark.parametrize(
    ("image_size", "reduce_lowest", "count"),
    [(320, True, 2034), (300, True, 1917), (320, False, 3234), (300, False, 3000)],
)
def test_number_of_anchors(image_size: int, reduce_lowest: bool, count: int) -> None:
    with torch.device("meta"):
        model = mv.create_model("detection", image_size=image_size, reduce_lowest=reduce_lowest)
        anchors = model(torch.empty(1, 3, image_size, image_size)).anchors
    assert anchors.shape == (count, 4)


def test_anchors_per_cell() -> None:
    assert anchors_per_cell(6) == (3, 6, 6, 6, 6, 6)
    assert anchors_per_cell(6, reduce_lowest=False) == (6,) * 6
    assert anchors_per_cell(2) == (3, 6)


def test_any_sequence_of_map_sizes_will_do() -> None:
    assert torch.equal(make_anchors(list(MAPS_320), (320, 320)), make_anchors(MAPS_320, (320, 320)))


def test_device() -> None:
    assert make_anchors(MAPS_320, (320, 320), device=torch.device("meta")).device.type == "meta"
    assert make_anchors(MAPS_320, (320, 320)).device.type == "cpu"
