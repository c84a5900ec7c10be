"""Augmented boxes follow their pixels, and every draw comes from the seed."""

import pickle
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mnv2vision.data.augment.detection import DetectionAugmentation, coverage_crop, iou_crop
from mnv2vision.data.sample import Boxes, Sample
from mnv2vision.errors import ConfigError
from mnv2vision.preprocessing import Preprocessing

STRETCH = Preprocessing(image_size=(120, 160), resize="stretch")
LETTERBOX = Preprocessing(image_size=(150, 150), resize="letterbox")
RULES = {"stretch": STRETCH, "letterbox": LETTERBOX}
ALL: dict[str, Any] = {"crop": 0.7, "expand": 0.5, "flip": 0.5}
OFF: dict[str, Any] = {"crop": 0.0, "expand": 0.0, "flip": 0.0}
SLOP = 1e-4  # pixels, of float32
# Hues that stay apart when resizing blends them with black or with the padding's grey.
COLORS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)


def painted(boxes: list[tuple[int, int, int, int]], height: int = 200, width: int = 240) -> Sample:
    """Black, with a rectangle of its own colour in every box; labels and flags are as unlike as they can be."""
    image = np.zeros((height, width, 3), np.uint8)
    for (x1, y1, x2, y2), color in zip(boxes, COLORS, strict=False):
        image[y1:y2, x1:x2] = color
    n = len(boxes)
    return Sample(
        image,
        image_id=5,
        path="x.jpg",
        boxes=Boxes.of(
            np.array(boxes, np.float32).reshape(-1, 4),
            10 + np.arange(n),
            crowd=np.arange(n) == 1,
            difficult=np.arange(n) == 2,
            areas=100.0 + np.arange(n),
        ),
    )


THREE = painted([(20, 30, 100, 90), (120, 10, 220, 80), (60, 110, 200, 190)])


def seen(image: NDArray[np.uint8], channel: int) -> NDArray[np.bool_]:
    """Which pixels are mostly of a rectangle's colour."""
    values = image.astype(int)
    others = np.delete(values, channel, axis=2)
    return np.asarray(values[..., channel] - others.max(axis=2) > 127)


def extent(where: NDArray[np.bool_]) -> list[int]:
    y, x = np.nonzero(where)
    return [int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1]


def values(sample: Sample) -> tuple[Any, ...]:
    """All that an augmentation may change, to compare."""
    assert sample.boxes is not None
    arrays = (sample.image, sample.boxes.boxes, sample.boxes.labels, sample.boxes.kinds, sample.boxes.areas)
    return tuple((array.dtype, array.shape, array.tobytes()) for array in arrays if array is not None)


# ---- boxes and pixels ----


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("options", [ALL, {"crop": 1.0, "expand": 1.0, "flip": 0.5, "max_expansion": 4.0}])
def test_boxes_follow_their_pixels(rule: str, options: dict[str, Any]) -> None:
    preprocessing = RULES[rule]
    height, width = preprocessing.image_size
    augmentation = DetectionAugmentation(preprocessing, **options)
    kept_at_all = 0
    for seed in range(150):
        done = augmentation(THREE, seed)
        assert done.image.shape == (height, width, 3)
        assert done.image.dtype == np.uint8
        assert done.image.flags.c_contiguous
        assert (done.image_id, done.path) == (5, "x.jpg")
        assert done.boxes is not None
        assert done.boxes.boxes.dtype == np.float32
        assert done.boxes.boxes.shape == (len(done.boxes.labels), 4)
        assert (done.boxes.boxes >= -SLOP).all()
        assert (done.boxes.boxes <= np.array([width, height, width, height]) + SLOP).all()
        assert (done.boxes.boxes[:, 2:] > done.boxes.boxes[:, :2]).all()
        for box, label in zip(done.boxes.boxes, done.boxes.labels, strict=True):
            if (box[2:] - box[:2]).min() < 4:  # a sliver at the border, hardly to be seen
                continue
            found = extent(seen(done.image, label - 10))
            np.testing.assert_allclose(box, found, atol=2, err_msg=f"seed {seed}, label {label}")
            kept_at_all += 1
    assert kept_at_all > 150


def test_labels_and_flags_follow_their_boxes() -> None:
    augmentation = DetectionAugmentation(STRETCH, crop=1.0, expand=0.3)
    subsets = set()
    for seed in range(100):
        done = augmentation(THREE, seed)
        assert done.boxes is not None
        own = [int(label) - 10 for label in done.boxes.labels]
        subsets.add(tuple(own))
        for ours, theirs in (
            (done.boxes.crowd, THREE.boxes.crowd),
            (done.boxes.difficult, THREE.boxes.difficult),
            (done.boxes.areas, THREE.boxes.areas),
            (done.boxes.labels, THREE.boxes.labels),
        ):
            assert ours is not None
            assert theirs is not None
            assert ours.dtype == theirs.dtype
            assert ours.tolist() == theirs[own].tolist()
    assert {(0,), (1,), (2,), (0, 1, 2)} < subsets


def atlas(box: tuple[int, int, int, int]) -> Sample:
    """An image whose green and blue tell where a pixel was, and whose red tells whether it is in the box."""
    y, x = np.mgrid[:240, :240].astype(np.uint8)
    x1, y1, x2, y2 = box
    red = 255 * ((x >= x1) & (x < x2) & (y >= y1) & (y < y2)).astype(np.uint8)
    image, boxes, labels = np.stack([red, x, y], 2), np.array([box], np.float32), np.array([3])
    return Sample(image, image_id=0, path="x", boxes=Boxes.of(boxes, labels))


def shown(image: NDArray[np.uint8], red: bool) -> tuple[float, float]:
    """Columns and rows of the atlas that are in view, or those of its box alone."""
    part = image[(image[..., 0] > 200) if red else np.ones(image.shape[:2], bool)]
    if not len(part):
        return 0.0, 0.0
    return tuple(np.ptp(part[:, 1:].astype(float), axis=0) + 1)  # type: ignore[return-value]


BOXES = np.array([[5, 8, 65, 98], [150, 150, 235, 235], [100, 20, 110, 200]], np.float32)


def share(box: NDArray[np.float32], window: tuple[int, int, int, int]) -> float:
    """How much of a box shows in a window."""
    box = box.astype(np.float64)  # type: ignore[assignment]
    wide = min(box[2], window[2]) - max(box[0], window[0])
    high = min(box[3], window[3]) - max(box[1], window[1])
    return float(max(0, wide) * max(0, high) / ((box[2] - box[0]) * (box[3] - box[1])))


def test_the_crop_of_tensorflow() -> None:
    """By preprocessor.py: seven cases of coverage; a window covers that share of some object, others drop out."""
    height, width = 240, 320
    areas, wholes, coverages = [], 0, set()
    for seed in range(400):
        window, kept = coverage_crop(BOXES, height, width, np.random.default_rng(seed))
        coverage = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)[np.random.default_rng(seed).integers(7)]
        coverages.add(coverage)
        x1, y1, x2, y2 = window
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
        shown = [share(box, window) for box in BOXES]
        assert kept.tolist() == [part > 0 and part >= coverage for part in shown]
        if window == (0, 0, width, height):
            wholes += 1
            continue
        assert max(shown) >= coverage
        assert 0.1 * height * width <= (x2 - x1) * (y2 - y1) <= height * width
        rows = y2 - y1
        assert 0.5 * rows - 0.5 <= x2 - x1 <= 2.0 * rows + 0.5
        areas.append((x2 - x1) * (y2 - y1) / (height * width))
    assert len(coverages) == 7
    assert wholes < 4  # it tries a hundred times
    assert 0.4 < np.mean(areas) < 0.6  # 0.49 was measured with TensorFlow's on COCO
    assert np.min(areas) < 0.15
    assert np.max(areas) > 0.85


def test_an_object_in_full_view_covers_all_of_itself() -> None:
    """At fractions of a pixel, too, as COCO's boxes have them: where 1.0 is asked for, no rounding drops objects."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 300, (2000, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(1, 300, (2000, 2))], axis=1).astype(np.float32)
    seeds = [seed for seed in range(200) if np.random.default_rng(seed).integers(7) == 6]
    assert len(seeds) > 10
    for seed in seeds:
        window, kept = coverage_crop(boxes, 640, 640, np.random.default_rng(seed))
        inside = ((boxes[:, :2] >= window[:2]) & (boxes[:, 2:] <= window[2:])).all(axis=1)
        assert inside.any()
        np.testing.assert_array_equal(kept, inside)


def test_the_crop_of_torchvision() -> None:
    """Objects stay whose centre shows; the sides are 0.3 to 1 of the image's, at ratios of 0.5 to 2."""
    height, width = 240, 320
    wholes = 0
    for seed in range(200):
        window, kept = iou_crop(BOXES, height, width, seed)
        x1, y1, x2, y2 = window
        if window == (0, 0, width, height):
            wholes += 1
            continue
        centres = (BOXES[:, :2] + BOXES[:, 2:]) / 2
        inside = ((centres > (x1, y1)) & (centres < (x2, y2))).all(axis=1)
        assert kept.tolist() == inside.tolist()
        assert inside.any()
        assert 0.3 * width - 1 <= x2 - x1 <= width
        assert 0.3 * height - 1 <= y2 - y1 <= height
        assert 0.49 < (x2 - x1) / (y2 - y1) < 2.03
    assert 10 < wholes < 80  # one of its seven cases, and where others cannot be met
    assert iou_crop(BOXES[:0], height, width, 3)[0] == (0, 0, width, height)


@pytest.mark.parametrize("crop_by", ["coverage", "iou"])
def test_a_crop_shows_that_part_of_the_photo(crop_by: Any) -> None:
    sample = atlas((5, 8, 65, 98))
    augmentation = DetectionAugmentation(
        Preprocessing(image_size=(240, 240), resize="stretch"), crop=1.0, crop_by=crop_by, expand=0.0, flip=0.0
    )
    assert sample.boxes is not None
    parts = 0
    for seed in range(60):
        done = augmentation(sample, seed)
        assert done.boxes is not None
        columns, rows = shown(done.image, False)
        for box in done.boxes.boxes:
            # What of the box shows, in pixels of the photo, and the same by the box's place in the window.
            visible = shown(done.image, True)
            np.testing.assert_allclose((box[2:] - box[:2]) * (columns / 240, rows / 240), visible, atol=4)
            parts += 1
    assert parts > 20


@pytest.mark.parametrize("largest", [1.5, 3.0])
def test_expansion_is_up_to_its_largest(largest: float) -> None:
    sample = painted([(0, 0, 240, 200)])
    augmentation = DetectionAugmentation(STRETCH, crop=0.0, expand=1.0, flip=0.0, max_expansion=largest)
    ratios = []
    for seed in range(100):
        boxes = augmentation(sample, seed).boxes.boxes
        assert boxes is not None
        (box,) = boxes
        ratios.append([160 / (box[2] - box[0]), 120 / (box[3] - box[1])])
        assert ratios[-1][0] == pytest.approx(ratios[-1][1], abs=0.02)  # the canvas has the photo's ratio
        assert (augmentation(sample, seed).image[0, 0] == 128).all() or min(box[:2]) < 1
    assert np.min(ratios) >= 1 - 1e-6
    assert np.max(ratios) <= largest + 0.02
    assert np.max(ratios) > 1 + 0.6 * (largest - 1)
    assert np.ptp(ratios) > 0.4 * (largest - 1)


def test_added_pixels_have_the_models_value() -> None:
    white = replace(painted([(10, 10, 20, 20)]), image=np.full((200, 240, 3), 255, np.uint8))
    for value in (0, 77):
        preprocessing = replace(STRETCH, padding_value=value)
        done = DetectionAugmentation(preprocessing, crop=0.0, expand=1.0)(white, 4)
        assert (done.image == value).all(axis=2).mean() > 0.1
    black = np.zeros((100, 200, 3), np.uint8)
    done = DetectionAugmentation(replace(LETTERBOX, padding_value=77), **OFF)(replace(white, image=black), 0)
    assert (done.image[:75] == 0).all()
    assert (done.image[75:] == 77).all()


# ---- each part alone ----


@pytest.mark.parametrize("rule", RULES)
def test_nothing_switched_on_is_the_models_preprocessing(rule: str) -> None:
    done = DetectionAugmentation(RULES[rule], **OFF)(THREE, 3)
    np.testing.assert_array_equal(done.image, RULES[rule].prepare(THREE.image))
    assert THREE.boxes is not None
    assert done.boxes is not None
    # Letterbox: 240 x 200 in a square of 150 becomes 150 x 125.
    scale = {"stretch": [160 / 240, 120 / 200] * 2, "letterbox": [150 / 240] * 4}[rule]
    np.testing.assert_allclose(done.boxes.boxes, THREE.boxes.boxes * np.array(scale), rtol=1e-6)
    assert done.boxes.labels.tolist() == [10, 11, 12]


@pytest.mark.parametrize("rule", RULES)
def test_flip(rule: str) -> None:
    plain = DetectionAugmentation(RULES[rule], **OFF)(THREE, 0)
    turned = DetectionAugmentation(RULES[rule], **{**OFF, "flip": 1.0})(THREE, 0)
    np.testing.assert_array_equal(turned.image, plain.image[:, ::-1])
    assert plain.boxes is not None
    assert turned.boxes is not None
    width = plain.image.shape[1]
    mirrored = np.stack(
        [
            width - plain.boxes.boxes[:, 2],
            plain.boxes.boxes[:, 1],
            width - plain.boxes.boxes[:, 0],
            plain.boxes.boxes[:, 3],
        ],
        axis=1,
    )
    np.testing.assert_allclose(turned.boxes.boxes, mirrored, atol=1e-4)
    half = DetectionAugmentation(RULES[rule], **{**OFF, "flip": 0.5})
    flips = [not np.array_equal(half(THREE, seed).image, plain.image) for seed in range(100)]
    assert 30 < sum(flips) < 70


def test_probabilities() -> None:
    for name in ("crop", "expand"):
        plain = DetectionAugmentation(STRETCH, **OFF)(THREE, 0).image
        for share, low, high in ((0.2, 8, 36), (0.7, 45, 90)):
            augmentation = DetectionAugmentation(STRETCH, **{**OFF, name: share})
            changed = sum(not np.array_equal(augmentation(THREE, seed).image, plain) for seed in range(100))
            assert low < changed < high, name


def test_colors_change_and_boxes_do_not() -> None:
    plain = DetectionAugmentation(STRETCH, **ALL)
    colorful = DetectionAugmentation(STRETCH, **ALL, color_jitter=0.4)
    generator = np.random.default_rng(0)
    sample = replace(THREE, image=generator.integers(60, 200, THREE.image.shape, dtype=np.uint8))
    changed = 0
    for seed in range(60):
        a, b = plain(sample, seed), colorful(sample, seed)
        assert values(a)[1:] == values(b)[1:]
        difference = np.abs(a.image.astype(int) - b.image).mean()
        changed += difference > 0.5
        assert difference < 100
        if difference <= 0.5:
            np.testing.assert_array_equal(a.image, b.image)
    assert 15 < changed < 45  # half the images


# ---- draws ----


def test_a_function_of_sample_and_seed_alone() -> None:
    options = {**ALL, "color_jitter": 0.3}
    augmentation = DetectionAugmentation(STRETCH, **options)
    other = painted([(5, 5, 90, 90)], 100, 130)
    reference = {seed: values(augmentation(THREE, seed)) for seed in range(40)}
    torch_state, numpy_state, python_state = torch.random.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    for seed in reversed(range(40)):  # in another order, with other images between
        augmentation(other, seed + 1)
        assert values(augmentation(THREE, seed)) == reference[seed]
    # Nor are the global generators moved, which training draws from.
    assert torch.equal(torch_state, torch.random.get_rng_state())
    assert np.array_equal(numpy_state[1], np.random.get_state()[1])  # type: ignore[index]  # noqa: NPY002
    assert python_state == random.getstate()
    torch.manual_seed(8)
    np.random.seed(8)  # noqa: NPY002
    random.seed(8)
    for again in (DetectionAugmentation(STRETCH, **options), pickle.loads(pickle.dumps(augmentation))):
        assert {seed: values(again(THREE, seed)) for seed in range(40)} == reference


def test_seeds_differ() -> None:
    augmentation = DetectionAugmentation(STRETCH, crop=1.0, expand=1.0)
    assert len({values(augmentation(THREE, seed)) for seed in (*range(50), 2**32 - 1)}) == 51


def test_the_sample_is_left_alone() -> None:
    sample = pickle.loads(pickle.dumps(THREE))
    for array in (sample.image, sample.boxes.boxes, sample.boxes.labels, sample.boxes.kinds):
        array.flags.writeable = False
    augmentation = DetectionAugmentation(STRETCH, **ALL, color_jitter=0.3)
    for seed in range(20):
        augmentation(sample, seed)
    assert values(sample) == values(THREE)


# ---- samples of other kinds ----


@pytest.mark.parametrize("rule", RULES)
def test_images_without_boxes(rule: str) -> None:
    augmentation = DetectionAugmentation(RULES[rule], **ALL, color_jitter=0.2)
    results = set()
    for seed in range(40):
        done = augmentation(painted([]), seed)
        assert done.image.shape == (*RULES[rule].image_size, 3)
        for array, shape, dtype in (
            (done.boxes.boxes, (0, 4), np.float32),
            (done.boxes.labels, (0,), np.int64),
            (done.boxes.crowd, (0,), np.bool_),
            (done.boxes.difficult, (0,), np.bool_),
            (done.boxes.areas, (0,), np.float64),
        ):
            assert array is not None
            assert array.shape == shape
            assert array.dtype == dtype
        results.add(done.image.tobytes())
    gradient = atlas((0, 0, 1, 1)).image
    cropped = DetectionAugmentation(STRETCH, crop=1.0, expand=0.0)
    empty = replace(painted([]), image=gradient)
    assert len({cropped(empty, seed).image.tobytes() for seed in range(20)}) > 8  # cropped all the same


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (2, 2), (1, 90), (90, 1)])
@pytest.mark.parametrize("boxes", [[], [(0, 0, 1, 1)]], ids=["no boxes", "a box"])
@pytest.mark.parametrize("crop_by", ["coverage", "iou"])
def test_tiny_images(size: tuple[int, int], boxes: list[tuple[int, int, int, int]], crop_by: Any) -> None:
    augmentation = DetectionAugmentation(
        Preprocessing(image_size=(8, 8), resize="stretch"), crop=1.0, crop_by=crop_by, expand=0.5
    )
    sample = painted(boxes, *size)
    for seed in range(40):
        assert augmentation(sample, seed).image.shape == (8, 8, 3)


def test_what_is_absent_stays_so() -> None:
    assert THREE.boxes is not None
    augmentation = DetectionAugmentation(STRETCH, crop=1.0)
    done = augmentation(replace(THREE, boxes=replace(THREE.boxes, areas=None)), 1)
    assert done.boxes is not None
    assert (done.boxes.areas, done.mask) == (None, None)
    assert augmentation(replace(THREE, boxes=None), 1).boxes is None


@settings(deadline=None, max_examples=150)
@given(st.data(), st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32 - 1), st.sampled_from(sorted(RULES)))
def test_any_image_and_any_boxes(data: st.DataObject, height: int, width: int, seed: int, rule: str) -> None:
    """What the adapters let through: boxes with an area, inside their image, in float32."""
    count = data.draw(st.integers(0, 4))
    corner = st.floats(0, 1, width=32)
    drawn = [
        sorted((data.draw(corner), data.draw(corner))) + sorted((data.draw(corner), data.draw(corner)))
        for _ in range(count)
    ]
    boxes = np.array([[x1 * width, y1 * height, x2 * width, y2 * height] for x1, x2, y1, y2 in drawn], np.float32)
    boxes = boxes.reshape(-1, 4)
    boxes = boxes[(boxes[:, 2] - boxes[:, 0] > 0.01) & (boxes[:, 3] - boxes[:, 1] > 0.01)]
    sample = replace(painted([], height, width), boxes=Boxes.of(boxes, np.arange(len(boxes))))
    options = data.draw(
        st.fixed_dictionaries({name: st.sampled_from([0.0, 1.0]) for name in ("crop", "expand", "flip")})
    )
    done = DetectionAugmentation(RULES[rule], **options)(sample, seed)
    out_height, out_width = RULES[rule].image_size
    assert done.image.shape == (out_height, out_width, 3)
    assert done.boxes is not None
    assert done.boxes.boxes.shape == (len(done.boxes.labels), 4)
    assert np.isfinite(done.boxes.boxes).all()
    assert (done.boxes.boxes >= -SLOP).all()
    assert (done.boxes.boxes <= np.array([out_width, out_height] * 2) + SLOP).all()
    assert (done.boxes.boxes[:, 2:] > done.boxes.boxes[:, :2]).all()
    assert set(done.boxes.labels.tolist()) <= set(range(len(boxes)))
    if options["crop"] == 0:  # expansion, resizing and flips lose nothing
        assert done.boxes.labels.tolist() == list(range(len(boxes)))


# ---- options ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": -0.1}, r"augmentation\.crop=-0\.1 is not a probability"),
        ({"crop": 1.1}, r"augmentation\.crop=1\.1 is not a probability"),
        ({"expand": 2}, r"augmentation\.expand=2 is not a probability"),
        ({"crop_by": "area"}, r"augmentation\.crop_by=area is unknown; valid: coverage, iou"),
        ({"flip": -1}, r"augmentation\.flip=-1 is not a probability"),
        ({"flip": float("nan")}, r"augmentation\.flip=nan is not a probability"),
        ({"max_expansion": 0.5}, r"augmentation\.max_expansion=0\.5 is not in 1\.\.8"),
        ({"max_expansion": 9}, r"augmentation\.max_expansion=9 is not in 1\.\.8"),
        ({"color_jitter": -0.1}, r"augmentation\.color_jitter=-0\.1 must not be negative"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DetectionAugmentation(STRETCH, **options)


def test_a_crop_by_the_model_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"preprocessing\.resize=crop .*stretch, letterbox"):
        DetectionAugmentation(Preprocessing(resize="crop"))


def test_options_at_their_limits() -> None:
    for options in ({"max_expansion": 1, "expand": 1, "crop": 0}, {"max_expansion": 8, "expand": 1, "color_jitter": 2}):
        done = DetectionAugmentation(STRETCH, **options)(THREE, 0)  # type: ignore[arg-type]
        assert done.image.shape == (120, 160, 3)
    same = DetectionAugmentation(STRETCH, **{**OFF, "expand": 1.0, "max_expansion": 1.0})(THREE, 0)
    assert values(same) == values(DetectionAugmentation(STRETCH, **OFF)(THREE, 0))
