"""Labels do not cover each other: rectangles are compared pair by pair, and places by hand."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnv2vision.common.label_places import label_places

CANVAS = (200.0, 100.0)


def places(
    boxes: Sequence[Sequence[float]], size: tuple[float, float] = (40, 10), canvas: tuple[float, float] = CANVAS
) -> list[list[float]]:
    sizes = np.array([size] * len(boxes), float)
    found: list[list[float]] = label_places(np.array(boxes, float), sizes, canvas).tolist()
    return found


def common(a: Sequence[float], b: Sequence[float]) -> float:
    """The area that two rectangles share."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0.0) * max(height, 0.0)


def test_above_inside_below() -> None:
    box = [50, 20, 150, 60]
    assert places([box] * 5) == [
        [50, 10, 90, 20],  # above
        [50, 20, 90, 30],  # inside
        [50, 60, 90, 70],  # below
        [50, 50, 90, 60],  # inside at the bottom
        [110, 10, 150, 20],  # above, at the right edge
    ]


@pytest.mark.parametrize(
    ("box", "place"),
    [
        ([50, 4, 150, 60], [50, 4, 90, 14]),  # no room above
        ([-30, 40, 20, 60], [0, 30, 40, 40]),  # the box begins outside
        ([190, 40, 200, 60], [160, 30, 200, 40]),  # wider than what is left
        ([-10, -10, 210, 110], [160, 90, 200, 100]),  # around the picture: nothing but along its edge
    ],
)
def test_on_the_picture(box: list[float], place: list[float]) -> None:
    (found,) = places([box])
    if box[0] == box[1] == -10:
        assert found[0] == 0
        assert 0 <= found[1] <= 90
    else:
        assert found == place


def test_crossing_boxes() -> None:
    """Boxes one pixel apart, all of whose labels would lie on each other above them."""
    boxes = [[40 + i, 30 + i, 120 + i, 80 + i] for i in range(8)]
    found = places(boxes)
    assert found[0] == [40, 20, 80, 30]  # the first has its first choice
    assert sum(common(a, b) for i, a in enumerate(found) for b in found[:i]) == 0
    assert found == places(boxes)


def test_more_labels_than_room() -> None:
    """A strip with room for four: they come first, and the fifth lies on the picture, too."""
    found = places([[0, 10, 30, 20]] * 5, size=(30, 10), canvas=(30.0, 40.0))
    assert sorted(top for _, top, _, _ in found[:4]) == [0, 10, 20, 30]
    assert found[4] in found[:4]


def test_larger_than_the_picture_and_none() -> None:
    assert places([[5, 5, 9, 9]], size=(300, 200)) == [[0, 0, 300, 200]]
    assert label_places(np.empty((0, 4)), np.empty((0, 2)), CANVAS).shape == (0, 4)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(2, 12))
def test_a_label_covers_another_only_where_its_edges_are_full(seed: int, count: int) -> None:
    """In whole pixels, against all places along both edges."""
    rng = np.random.default_rng(seed)
    boxes = np.sort(rng.integers(0, 60, (count, 2, 2)), axis=1).reshape(count, 4)
    found = places(boxes.tolist(), size=(25, 9), canvas=(60.0, 60.0))
    for i, place in enumerate(found):
        if any(common(place, other) for other in found[:i]):
            for x in (boxes[i, 0], boxes[i, 2] - 25):
                left = min(max(x, 0), 35)
                columns = ([left, y, left + 25, y + 9] for y in range(60 - 9 + 1))
                assert all(any(common(column, other) for other in found[:i]) for column in columns)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 8))
def test_few_boxes_anywhere(seed: int, count: int) -> None:
    """Eight labels, of which each takes a thirtieth of a picture's height, are all free, and all on it."""
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(-50, 450, (count, 2, 2)), axis=1).reshape(count, 4)
    sizes = np.stack([rng.uniform(20, 100, count), np.full(count, 12.0)], axis=1)
    found = label_places(corners, sizes, (400.0, 360.0)).tolist()
    for i, (place, size) in enumerate(zip(found, sizes.tolist(), strict=True)):
        assert place[2] - place[0] == pytest.approx(size[0])
        assert place[3] - place[1] == pytest.approx(size[1])
        assert min(place) >= 0
        assert place[2] <= 400 + 1e-9
        assert place[3] <= 360 + 1e-9
        assert all(common(place, other) < 1e-6 for other in found[:i])
