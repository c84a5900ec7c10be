"""From a photo to the network's input, against torchvision's transforms and the formulas written out."""

import json
import subprocess
import sys
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import v2 as T

import mnv2vision.preprocessing as preprocessing_module
from mnv2vision.errors import ConfigError
from mnv2vision.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, as_pair


def photo(height: int, width: int) -> NDArray[np.uint8]:
    """Structure at every scale, so that a shift of half a pixel shows."""
    generator = np.random.default_rng(height * 10_000 + width)
    coarse = Image.fromarray(generator.integers(0, 256, (7, 9, 3), dtype=np.uint8)).resize((width, height))
    return (np.array(coarse) // 2 + generator.integers(0, 128, (height, width, 3))).astype(np.uint8)


def levels(a: NDArray[np.uint8], b: torch.Tensor) -> int:
    theirs = b.permute(1, 2, 0).numpy()
    assert a.shape == theirs.shape
    assert a.dtype == theirs.dtype == np.uint8
    return int(np.abs(a.astype(int) - theirs).max())


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("height", "width"), [(375, 500), (500, 375), (427, 640), (333, 500), (256, 256), (64, 48), (224, 224), (301, 997)]
)
def test_the_usual_evaluation_transform(height: int, width: int, interpolation: str) -> None:
    image = photo(height, width)
    ours = Preprocessing(interpolation=interpolation).prepare(image)  # type: ignore[arg-type]
    theirs = T.Compose([T.Resize(256, InterpolationMode(interpolation), antialias=True), T.CenterCrop(224)])
    assert levels(ours, theirs(torch.from_numpy(image).permute(2, 0, 1))) <= 1
    assert ours.flags.c_contiguous


@settings(deadline=None, max_examples=40)
@given(st.integers(20, 200), st.integers(20, 200), st.sampled_from([(32, 0.875), (48, 1.0), (56, 224 / 232)]))
def test_other_sizes_and_fractions(height: int, width: int, rule: tuple[int, float]) -> None:
    side, fraction = rule
    image = photo(height, width)
    theirs = T.Compose([T.Resize(round(side / fraction), antialias=True), T.CenterCrop(side)])
    ours = Preprocessing(image_size=(side, side), crop_fraction=fraction).prepare(image)
    assert levels(ours, theirs(torch.from_numpy(image).permute(2, 0, 1))) <= 1


@pytest.mark.parametrize(("height", "width"), [(100, 100), (50, 300), (300, 50), (128, 192), (13, 11)])
def test_a_network_that_is_not_square(height: int, width: int) -> None:
    image = photo(height, width)
    # The side that the crop just fits is rounded, the other truncated, as Resize of a shorter side does.
    by_height, by_width = Fraction(round(64 / 0.875), height), Fraction(round(96 / 0.875), width)
    scale = by_height if Fraction(64, height) >= Fraction(96, width) else by_width
    theirs = T.Compose([T.Resize([int(height * scale), int(width * scale)], antialias=True), T.CenterCrop((64, 96))])
    ours = Preprocessing(image_size=(64, 96)).prepare(image)
    assert levels(ours, theirs(torch.from_numpy(image).permute(2, 0, 1))) <= 1


def test_stretching_and_antialiasing() -> None:
    image = photo(150, 260)
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    rules = {}
    for antialias in (True, False):
        ours = Preprocessing(image_size=(60, 70), resize="stretch", antialias=antialias).prepare(image)
        assert levels(ours, T.Resize((60, 70), antialias=antialias)(tensor)) <= 1
        rules[antialias] = ours
    assert (rules[True] != rules[False]).any()


def test_an_image_of_the_right_size_is_left_alone() -> None:
    image = photo(64, 64)
    np.testing.assert_array_equal(Preprocessing(image_size=(64, 64), crop_fraction=1.0).prepare(image), image)


def test_any_memory_layout() -> None:
    image = photo(90, 120)
    preprocessing = Preprocessing(image_size=(32, 32))
    before = image.copy()
    read_only = image.copy()
    read_only.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wanted = preprocessing.prepare(image)
        np.testing.assert_array_equal(preprocessing.prepare(read_only), wanted)
        # OpenCV's BGR, turned by a view.
        np.testing.assert_array_equal(preprocessing.prepare(image[..., ::-1].copy()[..., ::-1]), wanted)
        np.testing.assert_array_equal(preprocessing.prepare(np.asfortranarray(image)), wanted)
    np.testing.assert_array_equal(image, before)


def test_normalize() -> None:
    images = torch.randint(0, 256, (2, 3, 5, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        ours = Preprocessing().normalize(images.contiguous(memory_format=memory_format))
        theirs = T.Compose([T.ToDtype(torch.float32, scale=True), T.Normalize(IMAGENET_MEAN, IMAGENET_STD)])(images)
        assert ours.dtype == torch.float32
        assert ours.is_contiguous(memory_format=memory_format)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-6)
    # TensorFlow's: x / 127.5 - 1.
    tf = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)).normalize(images)
    torch.testing.assert_close(tf, images.double().div(127.5).sub(1).float(), rtol=1e-5, atol=1e-6)
    assert tf.min() >= -1
    assert tf.max() <= 1 + 1e-6


def test_dictionary_round_trip() -> None:
    preprocessing = Preprocessing(image_size=(3, 4), resize="stretch", interpolation="bicubic", std=(0.1, 0.2, 0.3))
    assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing
    assert Preprocessing.from_dict({}) == Preprocessing()
    assert hash(preprocessing) != hash(Preprocessing())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resize": "squash"}, "resize='squash' is unknown; valid: crop, stretch, letterbox"),
        ({"padding_value": -1}, "padding_value=-1 must be an integer in 0..255"),
        ({"padding_value": 256}, "padding_value=256 "),
        ({"interpolation": "lanczos"}, "interpolation='lanczos' is unknown; valid: bilinear, bicubic"),
        ({"crop_fraction": 0}, "crop_fraction=0 "),
        ({"crop_fraction": 1.2}, "crop_fraction=1.2 "),
        ({"std": (0.1, 0, 0.1)}, "std="),
        ({"image_size": -3}, "image_size=-3 "),
        ({"image_size": (3, 4.5)}, "image_size="),
        ({"colour": "red"}, "unknown preprocessing option: colour .valid: image_size, resize"),
    ],
)
def test_errors(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Preprocessing.from_dict(options)


def test_pairs() -> None:
    assert as_pair(3) == as_pair([3, 3]) == (3, 3)
    assert as_pair((3, 4)) == (3, 4)
    for wrong in (True, 0, 1.5, "12", None, (1,), (1, 2, 3), (0, 5)):
        with pytest.raises(ConfigError, match="image_size="):
            as_pair(wrong)  # type: ignore[arg-type]


# ---- where a photo comes to lie ----


@pytest.mark.parametrize(
    ("height", "width", "placed"),
    [
        (100, 100, (64, 64)),
        (100, 200, (48, 96)),
        (200, 100, (64, 32)),
        (64, 96, (64, 96)),
        (32, 48, (64, 96)),  # enlarged to fill it
        (480, 640, (64, 85)),  # 85.33
        (375, 500, (64, 85)),
        (427, 640, (64, 96)),  # 64.05 high, so the width is what fits
        (3, 1000, (1, 96)),  # never nothing
        (1000, 3, (64, 1)),
    ],
)
def test_letterbox(height: int, width: int, placed: tuple[int, int]) -> None:
    preprocessing = Preprocessing(image_size=(64, 96), resize="letterbox", padding_value=77)
    assert preprocessing.placement(height, width) == (*placed, 0, 0)
    image = photo(height, width)
    ours = preprocessing.prepare(image)
    assert ours.shape == (64, 96, 3)
    assert ours.flags.c_contiguous
    # The photo, resized, is at the top left, and what is added is below it and to its right.
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    assert levels(ours[: placed[0], : placed[1]], T.Resize(placed, antialias=True)(tensor)) <= 1
    assert (ours[placed[0] :] == 77).all()
    assert (ours[:, placed[1] :] == 77).all()


def test_padding_is_nearly_0_after_tensorflows_scaling() -> None:
    preprocessing = Preprocessing(image_size=(8, 8), resize="letterbox", mean=(0.5,) * 3, std=(0.5,) * 3)
    assert preprocessing.padding_value == 128
    image = torch.from_numpy(preprocessing.prepare(np.zeros((4, 8, 3), np.uint8))).permute(2, 0, 1)[None]
    assert preprocessing.normalize(image)[0, :, 4:].abs().max() < 0.005
    with_zeros = Preprocessing(image_size=(8, 8), resize="letterbox", padding_value=0)
    assert not with_zeros.prepare(np.zeros((4, 8, 3), np.uint8)).any()


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 400), st.integers(1, 400))
def test_letterbox_fits_and_keeps_the_ratio(height: int, width: int, out_height: int, out_width: int) -> None:
    place = Preprocessing(image_size=(out_height, out_width), resize="letterbox").placement(height, width)
    assert (place.top, place.left) == (0, 0)
    assert 1 <= place.height <= out_height
    assert 1 <= place.width <= out_width
    assert place.height == out_height or place.width == out_width
    scale = min(Fraction(out_height, height), Fraction(out_width, width))
    assert abs(place.height - height * scale) <= max(Fraction(1, 2), 1 - height * scale)
    assert abs(place.width - width * scale) <= max(Fraction(1, 2), 1 - width * scale)


@settings(deadline=None, max_examples=150)
@given(
    st.integers(60, 260),
    st.integers(60, 260),
    st.sampled_from([(96, 96), (64, 100), (101, 67)]),
    st.sampled_from(["crop", "stretch", "letterbox"]),
    st.booleans(),
    st.sampled_from([0.875, 1.0, 0.7]),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_a_marked_spot_lands_where_the_placement_says(
    height: int,
    width: int,
    size: tuple[int, int],
    resize: str,
    antialias: bool,
    fraction: float,
    spot: tuple[float, float],
) -> None:
    preprocessing = Preprocessing(
        image_size=size,
        resize=resize,  # type: ignore[arg-type]
        antialias=antialias,
        crop_fraction=fraction,
        padding_value=0,
    )
    image = np.zeros((height, width, 3), np.uint8)
    top, left = (round(part * (side - 20)) for part, side in zip(spot, (height, width), strict=True))
    image[top : top + 20, left : left + 20] = 255
    place = preprocessing.placement(height, width)
    scale = place.height / height, place.width / width
    # The edges of the mark by the placement, cut off where the network's input ends.
    corners = [
        (np.clip(start * part + offset, 0, limit), np.clip((start + 20) * part + offset, 0, limit))
        for start, part, offset, limit in zip((top, left), scale, (place.top, place.left), size, strict=True)
    ]
    done = preprocessing.prepare(image)[..., 0] / 255
    if min(high - low for low, high in corners) < 2:
        assert done.sum(axis=0).max() < 3 or done.sum(axis=1).max() < 3
        return
    for axis, (low, high) in enumerate(corners):
        marked = np.flatnonzero(done.max(axis=1 - axis) > 0.5)
        # A pixel is marked where more than half of it is; without averaging, half a pixel of the photo more or less.
        tolerance = 0.75 if antialias else 0.75 + scale[axis] / 2
        assert abs(marked[0] - low) <= tolerance
        assert abs(marked[-1] + 1 - high) <= tolerance


def test_a_crops_corner_is_outside() -> None:
    assert Preprocessing().placement(300, 400) == (256, 341, -16, -58)  # (341 - 224) / 2 = 58.5, rounded to even
    assert Preprocessing().placement(400, 300) == (341, 256, -58, -16)
    assert Preprocessing(image_size=(64, 96), resize="stretch").placement(5, 500) == (64, 96, 0, 0)


def test_normalising_in_an_export_leaves_nothing_behind() -> None:
    """What was made for a graph must not be found by later calls."""
    preprocessing = Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))

    class Normalise(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return preprocessing.normalize(images)

    images = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    wanted = torch.tensor([0.9 / 0.4, 0.8 / 0.5, 0.7 / 0.6]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    exported = torch.export.export(Normalise(), (images,)).module()
    for result in (preprocessing.normalize(images), exported(images)):
        assert type(result) is torch.Tensor
        torch.testing.assert_close(result, wanted)


# ---- extreme shapes ----


def peak_in_mebibytes(code: str) -> float:
    """How much more memory a process has at the peak of some code than before it."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("peaks of memory are measured on Linux")
    program = f"""
import numpy as np
from mnv2vision.preprocessing import Preprocessing
def kibibytes(key):
    return int(next(line for line in open("/proc/self/status") if line.startswith(key)).split()[1])
Preprocessing().prepare(np.zeros((300, 400, 3), np.uint8))
before = kibibytes("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
{code}
print((kibibytes("VmHWM") - before) / 1024)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 60_000), (60_000, 1), (2, 1_000_000)])
@pytest.mark.parametrize("resize", ["crop", "stretch", "letterbox"])
def test_a_photo_of_extreme_shape_takes_little_memory(resize: str, shape: tuple[int, int]) -> None:
    """Resized to 256 pixels high, one of 60,000 x 1 would have 15 million columns: 11.8 GB."""
    code = f"Preprocessing(resize={resize!r}).prepare(np.zeros(({shape[0]}, {shape[1]}, 3), np.uint8))"
    assert peak_in_mebibytes(code) < 100


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("height", "width"), [(1, 301), (3, 1000), (400, 1), (7, 640), (2, 3)])
@pytest.mark.parametrize("fraction", [0.875, 1.0, 0.3])
def test_only_what_the_crop_keeps_is_resized(
    height: int, width: int, fraction: float, interpolation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a limit of 0 every enlarged photo goes the way of the extreme ones, and comes to the same."""
    image = photo(height, width)
    for size in ((224, 224), (64, 96)):
        rule = Preprocessing(image_size=size, crop_fraction=fraction, interpolation=interpolation)  # type: ignore[arg-type]
        wanted = rule.prepare(image)
        with monkeypatch.context() as context:
            context.setattr(preprocessing_module, "_MOST_RESIZED", 0)
            ours = rule.prepare(image)
        assert ours.shape == wanted.shape
        assert np.abs(ours.astype(int) - wanted).max() <= (1 if interpolation == "bilinear" else 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (0.5, 0.5)}, r"mean=\(0.5, 0.5\) must be three finite numbers"),
        ({"mean": (0.5, 0.5, float("nan"))}, "mean=.* must be three finite numbers"),
        ({"mean": "abc"}, "mean='abc' must be"),
        ({"mean": (True, 0, 0)}, "mean="),
        ({"mean": 0.5}, "mean=0.5 must be"),
        ({"std": (1, 1, float("inf"))}, "std=.* must be three finite positive numbers"),
        ({"std": (1, 1, -1)}, "std="),
        ({"std": (1, 1, 1e-30)}, "std="),
        ({"std": (1, 1, "1")}, "std="),
        ({"crop_fraction": float("nan")}, "crop_fraction=nan"),
        ({"crop_fraction": "1"}, "crop_fraction='1'"),
        ({"antialias": "no"}, "antialias='no'"),
        ({"padding_value": 0.5}, "padding_value=0.5"),
        ({"image_size": 10**6}, "image_size=1000000 is above the limit of 16,384 pixels per side"),
    ],
)
def test_values_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Preprocessing.from_dict(options)
