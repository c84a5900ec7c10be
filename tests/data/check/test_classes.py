"""Faults of classes, by hand."""

import numpy as np
import pytest

from mnv2vision.data.check.classes import count, find
from mnv2vision.data.check.records import Record
from mnv2vision.data.sample import Boxes


def test_examples_are_counted() -> None:
    records = [
        Record("train", "a", label=2),
        Record("train", "b", boxes=Boxes.of([[0, 0, 1, 1]] * 3, [1, 1, 2])),
        Record("train", "c", values=frozenset({0, 2})),
        Record("train", "d", boxes=Boxes.of([], [])),
    ]
    assert count(records, 4).tolist() == [1, 2, 3, 0]


@pytest.mark.parametrize(
    ("names", "counts", "found"),
    [
        ((["cup", "fork"],) * 2, ([3, 2], [1, 1]), []),
        ((["cup", "fork"],) * 2, ([3, 0], [1, 0]), [("class without objects", "fork has no examples")]),
        ((["cup", "fork"],) * 2, ([3, 0], [1, 4]), [("class in one split", "fork: 4 in val, none in train")]),
        (
            (["Cup", "c up"],) * 2,
            ([3, 2], [1, 1]),
            [("class names alike", "'Cup' and 'c up' differ by case or spaces")],
        ),
        (
            (["cup"], ["fork"]),
            ([1], [1]),
            [("different classes", "the splits have different classes: cup only in train; fork only in val")],
        ),
    ],
)
def test_faults(names: tuple[list[str], ...], counts: tuple[list[int], ...], found: list[tuple[str, str]]) -> None:
    by_split = dict(zip(("train", "val"), names, strict=True))
    of_split = {split: np.array(own) for split, own in zip(("train", "val"), counts, strict=True)}
    assert [(item.kind, item.what) for item in find(by_split, of_split)] == found


def test_one_split() -> None:
    (finding,) = find({"train": ["cup", "fork"]}, {"train": np.array([1, 0])})
    assert finding.kind == "class without objects"
    assert list(find({}, {})) == []
