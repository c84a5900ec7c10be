"""Augmented masks go with their images, and every draw comes from the seed."""

import pickle
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from mnv2vision.data.augment.segmentation import SegmentationAugmentation
from mnv2vision.data.sample import Sample
from mnv2vision.errors import ConfigError
from mnv2vision.preprocessing import Preprocessing

SQUARE = Preprocessing(image_size=(64, 64), resize="letterbox")
WIDE = Preprocessing(image_size=(48, 80), resize="letterbox", padding_value=31)
STRETCH = Preprocessing(image_size=(48, 80), resize="stretch")
OFF: dict[str, Any] = {"scale": (1.0, 1.0), "flip": 0.0}
# By label; far from one another, and from the padding's grey.
COLORS = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], np.uint8)


def painted(height: int = 90, width: int = 110, seed: int = 0) -> Sample:
    """Large fields of labels; the image has each label's colour."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 5, (3, 4)).astype(np.uint8)
    rows, columns = np.arange(height) * 3 // height, np.arange(width) * 4 // width
    mask = coarse[rows][:, columns]
    return Sample(COLORS[mask], image_id=5, path="x.jpg", mask=mask)


def position(height: int, width: int) -> Sample:
    """Red says the column, green the row; the mask says that the pixel is of the photo."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([columns, rows, np.zeros_like(rows)], 2).astype(np.uint8)
    return Sample(image, image_id=5, path="x.jpg", mask=np.zeros((height, width), np.uint8))


def mask_of(sample: Sample) -> NDArray[np.uint8]:
    assert sample.mask is not None
    return sample.mask


def away_from_edges(mask: NDArray[np.uint8], reach: int = 3) -> NDArray[np.bool_]:
    size = 2 * reach + 1
    # What lies beyond the crop is an edge, too: it is blended into the image's border.
    highest, lowest = (
        filter_(mask, size, mode="constant", cval=254) for filter_ in (ndimage.maximum_filter, ndimage.minimum_filter)
    )
    flat: NDArray[np.bool_] = highest == lowest
    return flat


def values(sample: Sample) -> tuple[bytes, bytes]:
    return sample.image.tobytes(), mask_of(sample).tobytes()


# ---- image and mask ----


@pytest.mark.parametrize("preprocessing", [SQUARE, WIDE, STRETCH], ids=["square", "wide", "stretch"])
@pytest.mark.parametrize(
    "options", [{}, {"fit": True}, {"scale_step": 0.0, "scale": (0.3, 3.0)}, {"fit": True, "scale": (0.25, 1.0)}]
)
def test_image_and_mask_go_together(preprocessing: Preprocessing, options: dict[str, Any]) -> None:
    augmentation = SegmentationAugmentation(preprocessing, **options)
    compared = padded = 0
    for seed in range(60):
        done = augmentation(painted(seed=seed % 7), seed)
        mask = mask_of(done)
        assert done.image.shape == (*preprocessing.image_size, 3)
        assert mask.shape == preprocessing.image_size
        assert done.image.dtype == mask.dtype == np.uint8
        assert done.image.flags.c_contiguous
        assert (done.image_id, done.path, done.boxes, done.label) == (5, "x.jpg", None, None)
        assert set(np.unique(mask)) <= {0, 1, 2, 3, 4, 255}
        flat = away_from_edges(mask) & (mask != 255)
        np.testing.assert_array_equal(done.image[flat], COLORS[mask[flat]], err_msg=f"seed {seed}")
        assert (done.image[mask == 255] == preprocessing.padding_value).all()
        compared += int(flat.sum())
        padded += int((mask == 255).sum())
    assert compared > 60 * 400
    assert padded > 0


@pytest.mark.parametrize("factor", [0.25, 0.4, 0.5, 0.75, 1.0, 1.25, 2.0])
def test_the_mask_is_not_shifted_against_the_image(factor: float) -> None:
    """Both say which column and row of the photo they show: on average the same, within a fifth of an output pixel."""
    rows, columns = np.mgrid[:200, :200].astype(np.uint8)
    augmentation = SegmentationAugmentation(SQUARE, scale=(factor, factor), flip=0.0)
    for values_ in (rows, columns):
        sample = Sample(np.repeat(values_[..., None], 3, 2), image_id=5, path="x.jpg", mask=values_)
        offsets = []
        for seed in range(5):
            done = augmentation(sample, seed)
            known = mask_of(done) != 255
            offsets.append((done.image[..., 0][known].astype(float) - mask_of(done)[known]).mean() * factor)
        assert abs(np.mean(offsets)) < 0.2


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_flip(flip: float) -> None:
    sample = painted(64, 64)
    done = SegmentationAugmentation(SQUARE, scale=(1.0, 1.0), flip=flip)(sample, 3)
    step = -1 if flip else 1
    np.testing.assert_array_equal(done.image, sample.image[:, ::step])
    np.testing.assert_array_equal(mask_of(done), mask_of(sample)[:, ::step])


def test_half_are_flipped() -> None:
    sample = painted(64, 64)
    augmentation = SegmentationAugmentation(SQUARE, scale=(1.0, 1.0), flip=0.5)
    flipped = sum(np.array_equal(augmentation(sample, seed).image, sample.image[:, ::-1]) for seed in range(200))
    assert 70 < flipped < 130


def test_crops_come_from_everywhere() -> None:
    sample = position(100, 120)
    augmentation = SegmentationAugmentation(SQUARE, **OFF)
    corners = set()
    for seed in range(300):
        image = augmentation(sample, seed).image
        left, top = int(image[0, 0, 0]), int(image[0, 0, 1])
        corners.add((top, left))
        np.testing.assert_array_equal(image, sample.image[top : top + 64, left : left + 64])
    tops, lefts = (sorted(column) for column in zip(*corners, strict=True))
    assert tops[0] <= 1
    assert tops[-1] >= 35
    assert lefts[0] <= 1
    assert lefts[-1] >= 55
    assert len(corners) > 250


def test_a_small_image_comes_to_lie_anywhere() -> None:
    sample = position(20, 50)
    augmentation = SegmentationAugmentation(WIDE, **OFF)
    places = set()
    for seed in range(100):
        done = augmentation(sample, seed)
        rows, columns = np.nonzero(mask_of(done) == 0)
        top, left = int(rows.min()), int(columns.min())
        np.testing.assert_array_equal(done.image[top : top + 20, left : left + 50], sample.image)
        assert (mask_of(done) == 255).sum() == 48 * 80 - 20 * 50
        assert (done.image[mask_of(done) == 255] == 31).all()
        places.add((top, left))
    assert len(places) > 60


# ---- scale ----


def shown(augmentation: SegmentationAugmentation, sample: Sample, seed: int) -> tuple[int, int]:
    """Height and width of what is not padding."""
    rows, columns = np.nonzero(mask_of(augmentation(sample, seed)) != 255)
    return int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1


def test_factors_are_of_the_steps() -> None:
    """0.5, 0.75 … 2 of the photo's own size, each as often (TF: scales 0.5 to 2 in steps of 0.25)."""
    large = replace(SQUARE, image_size=(100, 100))
    augmentation = SegmentationAugmentation(large)
    sides = [shown(augmentation, position(40, 20), seed) for seed in range(350)]
    counts = {side: sides.count(side) for side in set(sides)}
    assert set(counts) == {(round(40 * factor), round(20 * factor)) for factor in (0.5, 0.75, 1, 1.25, 1.5, 1.75, 2)}
    assert all(20 < count < 85 for count in counts.values())


@pytest.mark.parametrize(("step", "factors"), [(0.5, {1.0, 1.5, 2.0}), (0.3, {1.0, 1.3, 1.6, 1.9}), (5.0, {1.0})])
def test_other_steps(step: float, factors: set[float]) -> None:
    augmentation = SegmentationAugmentation(replace(SQUARE, image_size=(100, 100)), scale=(1.0, 2.0), scale_step=step)
    sides = {shown(augmentation, position(40, 40), seed)[0] for seed in range(80)}
    assert sides == {round(40 * factor) for factor in factors}


def test_any_factor() -> None:
    augmentation = SegmentationAugmentation(replace(SQUARE, image_size=(100, 100)), scale_step=0.0)
    sides = [shown(augmentation, position(40, 40), seed)[0] for seed in range(400)]
    assert min(sides) <= 22
    assert max(sides) >= 78
    assert len(set(sides)) > 45
    assert np.mean(sides) == pytest.approx(50, abs=3)


@pytest.mark.parametrize(
    ("preprocessing", "size", "wanted"),
    [
        (SQUARE, (200, 100), (64, 32)),
        (WIDE, (30, 240), (10, 80)),
        (STRETCH, (240, 100), (48, 80)),
        (SQUARE, (10, 20), (32, 64)),
    ],
)
def test_fit(preprocessing: Preprocessing, size: tuple[int, int], wanted: tuple[int, int]) -> None:
    """The factor is of the size that the model's own rule gives."""
    augmentation = SegmentationAugmentation(preprocessing, fit=True, **OFF)
    assert shown(augmentation, position(*size), 0) == wanted
    half = SegmentationAugmentation(preprocessing, fit=True, scale=(0.5, 0.5))
    assert shown(half, position(*size), 0) == tuple(round(side / 2) for side in wanted)


@pytest.mark.parametrize("antialias", [True, False])
def test_images_are_resized_as_in_evaluation(antialias: bool) -> None:
    image = np.random.default_rng(1).integers(0, 256, (150, 250, 3), dtype=np.uint8)
    sample = Sample(image, image_id=5, path="x.jpg", mask=np.zeros((150, 250), np.uint8))
    preprocessing = replace(WIDE, antialias=antialias)
    done = SegmentationAugmentation(preprocessing, fit=True, **OFF)(sample, 0)
    np.testing.assert_array_equal(done.image, preprocessing.prepare(image))  # 150 x 250 fills 48 x 80


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (300, 2), (2, 2)])
def test_extreme_sizes(size: tuple[int, int]) -> None:
    for fit in (False, True):
        augmentation = SegmentationAugmentation(WIDE, fit=fit, scale=(0.1, 4.0), scale_step=0)
        for seed in range(20):
            done = augmentation(position(*size), seed)
            assert done.image.shape == (48, 80, 3)
            assert (mask_of(done) == 0).any()


# ---- colours ----


def test_color_jitter_leaves_the_mask() -> None:
    rng = np.random.default_rng(0)
    sample = replace(painted(64, 64), image=rng.integers(60, 200, (64, 64, 3)).astype(np.uint8))
    plain = SegmentationAugmentation(SQUARE, **OFF)
    jitter = SegmentationAugmentation(SQUARE, color_jitter=0.4, **OFF)
    changed = 0
    for seed in range(100):
        assert values(plain(sample, seed))[0] == sample.image.tobytes()
        done = jitter(sample, seed)
        np.testing.assert_array_equal(mask_of(done), mask_of(sample))
        changed += done.image.tobytes() != sample.image.tobytes()
    assert 30 < changed < 70


# ---- seeds ----


ALL = {"scale_step": 0.0, "color_jitter": 0.4}


def test_draws_depend_on_the_seed_alone() -> None:
    augmentation = SegmentationAugmentation(WIDE, **ALL)
    sample = painted()
    before = values(sample)
    wanted = [values(augmentation(sample, seed)) for seed in range(20)]
    assert len(set(wanted)) == 20
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    other = pickle.loads(pickle.dumps(augmentation))
    for seed in reversed(range(20)):
        augmentation(painted(30, 200, seed), seed + 1)
        assert values(augmentation(sample, seed)) == wanted[seed]
        assert values(other(sample, seed)) == wanted[seed]
        assert values(SegmentationAugmentation(WIDE, **ALL)(sample, seed)) == wanted[seed]
    assert values(sample) == before


def test_global_generators_are_left_alone() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    wanted = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index, union-attr]  # noqa: NPY002
    SegmentationAugmentation(WIDE, **ALL)(painted(), 7)
    state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index, union-attr]  # noqa: NPY002
    assert state == wanted


@pytest.mark.parametrize("seed", [0, 2**32 - 1, 2**32, 2**63 - 1])
def test_large_seeds(seed: int) -> None:
    assert SegmentationAugmentation(WIDE, **ALL)(painted(), seed).image.shape == (48, 80, 3)


# ---- options ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": (0.0, 1.0)}, r"augmentation\.scale=\[0\.0, 1\.0\]"),
        ({"scale": (2.0, 1.0)}, r"augmentation\.scale=\[2\.0, 1\.0\]"),
        ({"scale": (1.0,)}, r"augmentation\.scale=\[1\.0\]"),
        ({"scale": (1.0, float("nan"))}, r"augmentation\.scale="),
        ({"scale": (1.0, float("inf"))}, r"augmentation\.scale="),
        ({"scale_step": -0.25}, r"augmentation\.scale_step=-0\.25"),
        ({"scale_step": float("nan")}, r"augmentation\.scale_step="),
        ({"flip": 1.5}, r"augmentation\.flip=1\.5"),
        ({"flip": -0.5}, r"augmentation\.flip=-0\.5"),
        ({"color_jitter": -0.1}, r"augmentation\.color_jitter=-0\.1"),
        ({"color_jitter": float("nan")}, r"augmentation\.color_jitter="),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        SegmentationAugmentation(SQUARE, **options)
    assert "\n" not in str(caught.value)


def test_a_crop_is_no_rule_for_masks() -> None:
    with pytest.raises(ConfigError, match=r"resize=crop.*letterbox, stretch"):
        SegmentationAugmentation(Preprocessing(resize="crop"))
