"""Boxes that cannot be right: dropped or clipped, counted and named."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnv2vision.data.formats.boxes import check_boxes

HEIGHT, WIDTH = 30, 40
NAN, INF = math.nan, math.inf


def clean(
    *boxes: tuple[float, ...], size: tuple[int, int] = (HEIGHT, WIDTH)
) -> tuple[list[list[float]], list[bool], str]:
    names = [f"box {i}" for i in range(len(boxes))]
    sizes = np.array([size] * len(boxes), float).reshape(-1, 2)
    cleaned, kept, report = check_boxes(np.array(boxes, float).reshape(-1, 4), sizes, names)
    return cleaned.tolist(), kept.tolist(), report


def test_good_boxes_pass_in_silence() -> None:
    good = [(0, 0, WIDTH, HEIGHT), (1.5, 2.25, 3.125, 29.5), (39, 29, 40, 30)]
    assert clean(*good) == ([list(box) for box in good], [True, True, True], "")


def test_no_boxes() -> None:
    cleaned, kept, report = check_boxes(np.empty((0, 4)), np.empty((0, 2)), [])
    assert cleaned.shape == (0, 4)
    assert kept.shape == (0,)
    assert not report


@pytest.mark.parametrize(
    ("box", "kind"),
    [
        ((NAN, 1, 5, 5), "1 not finite, dropped (box 1)"),
        ((1, 1, INF, 5), "1 not finite, dropped (box 1)"),
        ((-INF, 1, 5, 5), "1 not finite, dropped (box 1)"),
        ((5, 1, 5, 5), "1 without area, dropped (box 1)"),
        ((5, 7, 8, 7), "1 without area, dropped (box 1)"),
        ((8, 1, 5, 5), "1 without area, dropped (box 1)"),
        ((1, 5, 5, 1), "1 without area, dropped (box 1)"),
        ((3, 3, 3, 3), "1 without area, dropped (box 1)"),
        ((40, 1, 45, 5), "1 outside the image, dropped (box 1)"),
        ((1, 30, 5, 35), "1 outside the image, dropped (box 1)"),
        ((-9, 1, 0, 5), "1 outside the image, dropped (box 1)"),
        ((1, -9, 5, -2), "1 outside the image, dropped (box 1)"),
    ],
)
def test_useless_boxes_are_dropped_and_named(box: tuple[float, ...], kind: str) -> None:
    cleaned, kept, report = clean((1, 1, 5, 5), box, (2, 2, 6, 6))
    assert kept == [True, False, True]
    assert [cleaned[0], cleaned[2]] == [[1, 1, 5, 5], [2, 2, 6, 6]]
    assert np.isfinite(cleaned).all()
    assert report == f"of 3 boxes, {kind}"


@pytest.mark.parametrize(
    ("box", "clipped"),
    [
        ((-3, 1, 5, 5), [0, 1, 5, 5]),
        ((1, -3, 5, 5), [1, 0, 5, 5]),
        ((1, 1, 55, 5), [1, 1, 40, 5]),
        ((1, 1, 5, 55), [1, 1, 5, 30]),
        ((-9, -9, 99, 99), [0, 0, 40, 30]),
    ],
)
def test_boxes_beyond_the_image_are_clipped_and_named(box: tuple[float, ...], clipped: list[float]) -> None:
    assert clean(box) == ([clipped], [True], "of 1 boxes, 1 reaching beyond the image, clipped (box 0)")


def test_rounding_is_clipped_in_silence() -> None:
    assert clean((-0.5, -1, 40.01, 30.9)) == ([[0, 0, 40, 30]], [True], "")


def test_every_box_by_its_own_image() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], [12, 0, 15, 4]], float)
    sizes = np.array([[20, 20], [5, 20], [20, 5], [20, 12]], float)
    cleaned, kept, _ = check_boxes(boxes, sizes, list("abcd"))
    assert cleaned[:3].tolist() == [[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 5, 10]]
    assert kept.tolist() == [True, True, True, False]


def test_counts_by_kind_and_the_first_by_name() -> None:
    *_, report = clean(*[(5, 5, 5, 5)] * 7, (NAN, 1, 2, 3), (-9, 1, 5, 5), (50, 50, 60, 60), (1, 1, 2, 2))
    assert report == (
        "of 11 boxes, 1 not finite, dropped (box 7); 7 without area, dropped (box 0, box 1, box 2, box 3, box 4, …);"
        " 1 outside the image, dropped (box 9); 1 reaching beyond the image, clipped (box 8)"
    )


def test_what_is_given_is_left_alone() -> None:
    boxes = np.array([[-5.0, NAN, 50, 50], [-5, -5, 50, 50]])
    before = boxes.copy()
    check_boxes(boxes, np.array([[HEIGHT, WIDTH]] * 2, float), ["a", "b"])
    np.testing.assert_array_equal(boxes, before)


side = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, 29.0, 30.0, 31.0, 40.0, 41.0, 41.5, -1.0, -1.5, NAN, INF, -INF, 1e308, -1e308]),
    st.floats(-60, 60, width=32),
)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(side, side, side, side), max_size=8))
def test_one_box_at_a_time_by_the_rules(boxes: list[tuple[float, ...]]) -> None:
    cleaned, kept, report = clean(*boxes)
    wanted: dict[str, list[str]] = {}
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        limited = [min(max(x1, 0), WIDTH), min(max(y1, 0), HEIGHT), min(max(x2, 0), WIDTH), min(max(y2, 0), HEIGHT)]
        if not all(map(math.isfinite, (x1, y1, x2, y2))):
            kind = "not finite, dropped"
        elif not (x1 < x2 and y1 < y2):
            kind = "without area, dropped"
        elif not (limited[0] < limited[2] and limited[1] < limited[3]):
            kind = "outside the image, dropped"
        elif max(abs(a - b) for a, b in zip(limited, (x1, y1, x2, y2), strict=True)) > 1:
            kind = "reaching beyond the image, clipped"
        else:
            kind = ""
        assert kept[i] == ("dropped" not in kind)
        if kept[i]:
            assert cleaned[i] == limited
        if kind:
            wanted.setdefault(kind, []).append(f"box {i}")
    assert bool(report) == bool(wanted)
    if report:
        assert report.startswith(f"of {len(boxes)} boxes, ")
        assert len(report.split("; ")) == len(wanted)
        for kind, names in wanted.items():
            assert f"{len(names)} {kind} ({', '.join(names[:5])}" in report
