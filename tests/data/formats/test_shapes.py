import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnv2vision.data.formats import shapes
from mnv2vision.data.formats.shapes import Shapes
from mnv2vision.data.sample import Sample, names_of
from mnv2vision.errors import ConfigError

MANY = 10**9


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    split = draw(st.sampled_from(["train", "val"]))
    size = draw(st.sampled_from([48, 97, 160, 224]))
    data = Shapes(split, size=MANY, image_size=size, seed=draw(st.integers(0, 2**40)))
    return data[draw(st.integers(0, MANY - 1))]


def assert_same(a: Sample, b: Sample) -> None:
    assert a.boxes is not None
    assert b.boxes is not None
    assert (a.image_id, a.path, a.label, a.size) == (b.image_id, b.path, b.label, b.size)
    for ours, theirs in (
        (a.image, b.image),
        (a.mask, b.mask),
        *((getattr(a.boxes, name), getattr(b.boxes, name)) for name in ("boxes", "labels", "kinds")),
    ):
        np.testing.assert_array_equal(ours, theirs)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**40), st.integers(0, MANY - 1))
def test_a_sample_is_a_function_of_seed_split_and_index(seed: int, index: int) -> None:
    data = Shapes("train", size=MANY, seed=seed)
    first = data[index]
    data[(index + 1) % MANY]
    assert_same(first, data[index])
    assert_same(first, pickle.loads(pickle.dumps(data))[index])
    assert_same(first, Shapes("train", size=index + 1, seed=seed)[-1])
    others = [Shapes("val", MANY, seed=seed)[index], Shapes("train", MANY, seed=seed + 1)[index], data[index - 1]]
    assert all((other.image != first.image).any() for other in others)


@settings(deadline=None, max_examples=150)
@given(samples())
def test_types_and_ranges(sample: Sample) -> None:
    assert sample.boxes is not None
    assert sample.mask is not None
    size = len(sample.image)
    assert sample.image.shape == (size, size, 3)
    assert sample.image.flags.c_contiguous
    assert sample.mask.shape == (size, size)
    assert (sample.image.dtype, sample.mask.dtype) == (np.uint8, np.uint8)
    assert (sample.boxes.boxes.dtype, sample.boxes.labels.dtype) == (np.float32, np.int64)
    assert sample.boxes.boxes.shape == (len(sample.boxes.labels), 4)
    assert 1 <= len(sample.boxes.labels) <= 6
    assert set(sample.boxes.labels.tolist()) <= set(range(6))
    assert sample.boxes.boxes.min() >= 0
    assert sample.boxes.boxes.max() <= size
    assert (sample.boxes.boxes[:, 2:] - sample.boxes.boxes[:, :2] >= 3).all()


@settings(deadline=None, max_examples=150)
@given(samples())
def test_mask_agrees_with_boxes(sample: Sample) -> None:
    assert sample.boxes is not None
    assert sample.mask is not None
    assert set(np.unique(sample.mask)) - {0} == {label + 1 for label in sample.boxes.labels}
    y, x = np.mgrid[: len(sample.mask), : len(sample.mask)]
    inside = [(x >= x1) & (x < x2) & (y >= y1) & (y < y2) for x1, y1, x2, y2 in sample.boxes.boxes]
    for label in range(6):
        shown = sample.mask == label + 1
        covered = [box for box, of in zip(inside, sample.boxes.labels, strict=True) if of == label]
        assert not (shown & ~np.any([np.zeros_like(shown), *covered], axis=0)).any()
        assert all((shown & box).sum() >= 12 for box in covered)
    if len(sample.boxes.labels) == 1:
        rows, columns = np.nonzero(sample.mask)
        tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_array_equal(sample.boxes.boxes[0], tight)


@settings(deadline=None, max_examples=150)
@given(samples())
def test_label_is_the_class_that_shows_most_by_far(sample: Sample) -> None:
    assert sample.mask is not None
    areas = np.bincount(sample.mask.ravel(), minlength=7)[1:]
    assert sample.label == areas.argmax()
    assert areas.max() >= 1.5 * np.delete(areas, areas.argmax()).max()


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**40))
def test_every_object_shows_a_fair_part(seed: int) -> None:
    objects, ids = shapes._layout(np.random.default_rng(seed), 160)
    visible = np.bincount(ids.ravel(), minlength=len(objects) + 1)[1:]
    areas = np.array([thing.area for thing in objects])
    assert (visible >= 0.25 * areas).all()
    assert visible[0] >= 1.5 * max(
        [visible[i] for i, t in enumerate(objects) if t.label != objects[0].label], default=0
    )


def test_mask_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def black_then_white(rng: object, height: int, width: int, *_: object) -> np.ndarray:
        calls.append(height)
        return np.full((height, width, 3), 0 if len(calls) == 1 else 255, np.uint8)

    monkeypatch.setattr(shapes, "_texture", black_then_white)
    data = Shapes("train", size=60)
    single = 0
    for i in range(len(data)):
        calls.clear()
        sample = data[i]
        if len(calls) == 2:  # the background and one object
            single += 1
            brightness = sample.image.mean(axis=2)
            np.testing.assert_array_equal(sample.mask[brightness > 160] > 0, True)
            np.testing.assert_array_equal(sample.mask[brightness < 95] > 0, False)
    assert single >= 5


def test_all_classes_and_counts_occur() -> None:
    data = Shapes("val", size=300)
    drawn = [data[i] for i in range(len(data))]
    assert np.bincount([sample.label for sample in drawn], minlength=6).min() >= 25
    assert np.bincount([len(sample.boxes.labels) for sample in drawn], minlength=4)[1:].min() >= 50
    assert all((a.image != b.image).any() for a, b in pairwise(drawn))


def test_areas_of_regular_shapes_follow_their_radius() -> None:
    expected = {"circle": np.pi * 0.92**2, "square": 2 * 1.1**2, "ring": np.pi * (1 - 0.55**2)}
    for name, factor in expected.items():
        coverage = shapes._rasterise(shapes._OUTLINES[name], 40.0, 0.7)
        assert coverage.sum() == pytest.approx(factor * 40**2, rel=0.02)
        assert coverage[[0, -1]].max() == coverage[:, [0, -1]].max() == 0


def test_the_source_contract() -> None:
    data = Shapes("val", size=3)
    assert data.names == ("circle", "square", "triangle", "star", "ring", "cross")
    assert data.mask_names == ("background", *data.names)
    assert data.targets == {"label", "boxes", "mask"}
    assert [sample.image_id for sample in data] == [0, 1, 2]
    with pytest.raises(IndexError):
        data[3]


def test_what_is_asked_for_is_given() -> None:
    sample = Shapes("val", size=3)[1]
    assert sample.boxes is not None
    for targets in (("label",), ("boxes",), ("mask",), ("boxes", "mask")):
        data = Shapes("val", size=3, targets=targets)
        own = data[1]
        assert data.targets == set(targets)
        assert [getattr(own, name) is not None for name in ("label", "boxes", "mask")] == [
            name in targets for name in ("label", "boxes", "mask")
        ]
        np.testing.assert_array_equal(own.image, sample.image)
        assert names_of(data, "mask") == Shapes.mask_names
        assert data.names == (Shapes.mask_names if targets == ("mask",) else Shapes.names)
    for wrong in ((), ("masks",), "boxes"):
        with pytest.raises(ConfigError, match=r"is unknown; valid: one or more of boxes, label, mask$"):
            Shapes("val", targets=wrong)


@pytest.mark.parametrize("wrong", [{"split": "test"}, {"size": 0}, {"image_size": 20}, {"seed": -1}])
def test_wrong_values_are_named(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=str(next(iter(wrong.values())))):
        Shapes(**{"split": "train", **wrong})  # type: ignore[arg-type]
