"""Scales, flips and windows against explicit loops, and masks at the photos' own sizes."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from mnv2vision.contracts import InferenceOptions
from mnv2vision.errors import ConfigError
from mnv2vision.preprocessing import Preprocessing
from mnv2vision.segmentation import inference
from mnv2vision.segmentation.inference import (
    MULTI_SCALE,
    Network,
    probabilities,
    scores_by_pixel,
    sliding_window,
    to_masks,
    upsample,
)


def random_images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def cells() -> nn.Module:
    """Logits of four classes at stride 4; not the same for a mirrored image."""
    torch.manual_seed(0)
    return nn.Conv2d(3, 4, 5, stride=4, padding=2).requires_grad_(False)


@pytest.fixture
def strided(cells: nn.Module) -> Network:
    """These at the pixels."""
    return lambda images: upsample(cells(images), images.shape[-2:], stride=4, padding="symmetric")


@pytest.fixture
def pointwise() -> nn.Module:
    """Logits of a pixel by its own colour alone."""
    torch.manual_seed(0)
    return nn.Conv2d(3, 4, 1).requires_grad_(False)


def windows(network: Network, images: Tensor, *arguments: Any) -> Tensor:
    """The bands of `sliding_window`, put together."""
    bands = list(sliding_window(network, images, *arguments))
    return torch.cat(bands, dim=3 if images.shape[3] > images.shape[2] else 2)


class Recorder:
    """Remembers what the network is given."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.seen: list[Tensor] = []

    def __call__(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        return self.network(images)


# ---- scales and flips ----


def test_a_single_pass_gives_logits(strided: Network) -> None:
    images = random_images(2, 3, 33, 49)
    logits = strided(images)
    assert torch.equal(scores_by_pixel(strided, images, InferenceOptions()), logits)
    assert torch.equal(probabilities(strided, images, InferenceOptions()), logits.softmax(1))


@pytest.mark.parametrize("options", [{"scales": (0.5,)}, {"flip": True}, {"scales": (1.0, 0.5)}])
def test_several_passes_give_probabilities(options: dict[str, Any], strided: Network) -> None:
    images = random_images(2, 3, 33, 49)
    ours = scores_by_pixel(strided, images, InferenceOptions(**options))
    assert torch.equal(ours, probabilities(strided, images, InferenceOptions(**options)))
    torch.testing.assert_close(ours.sum(1), torch.ones(2, 33, 49))


@pytest.mark.parametrize(
    ("scales", "flip"),
    [((1.0,), True), *((scales, flip) for scales in ((0.5,), (1.0, 0.5), MULTI_SCALE) for flip in (False, True))],
)
def test_scales_and_flips(scales: tuple[float, ...], flip: bool, cells: nn.Module, strided: Network) -> None:
    """At sides of k * 4 + 1 the outer cells lie on the outer pixels, at every scale: corners are aligned throughout."""
    images = random_images(2, 3, 33, 49)
    passes = []
    for scale in scales:
        size = [int(32 * scale) + 1, int(48 * scale) + 1]
        scaled = F.interpolate(images, size=size, mode="bilinear", align_corners=True)
        for mirrored in (False, True) if flip else (False,):
            logits = cells(torch.flip(scaled, [3]) if mirrored else scaled)
            logits = torch.flip(logits, [3]) if mirrored else logits
            large = F.interpolate(logits, size=(33, 49), mode="bilinear", align_corners=True)
            passes.append(large.softmax(1))
    wanted = torch.stack(passes).mean(0)
    ours = probabilities(strided, images, InferenceOptions(scales=scales, flip=flip))
    torch.testing.assert_close(ours, wanted)
    torch.testing.assert_close(ours.sum(1), torch.ones(2, 33, 49))


def test_sizes_of_the_papers_passes() -> None:
    """257, 385, 513, 641, 769 and 897 (paper_facts 2.3), each twice with flips."""
    sides: list[tuple[int, ...]] = []

    def network(images: Tensor) -> Tensor:
        sides.append(tuple(images.shape[-2:]))
        return images

    probabilities(network, torch.zeros(1, 3, 513, 513), InferenceOptions(scales=MULTI_SCALE, flip=True))
    assert sides == [(side, side) for side in (257, 385, 513, 641, 769, 897) for _ in range(2)]


def test_images_are_left_as_they_are(strided: Network) -> None:
    images = random_images(1, 3, 33, 33)
    before = images.clone()
    for window in (False, True):
        options = InferenceOptions(scales=(1.0, 0.5), flip=True, window=window)
        if window:
            windows(strided, images, (17, 17), options)
        else:
            probabilities(strided, images, options)
    assert torch.equal(images, before)


@pytest.mark.parametrize("scales", [(1.0,), MULTI_SCALE])
def test_a_mirrored_image_gives_the_mirrored_mask(scales: tuple[float, ...], strided: Network) -> None:
    images = random_images(2, 3, 65, 49)
    plain = [probabilities(strided, part, InferenceOptions()).argmax(1) for part in (images, images.flip(3))]
    assert not torch.equal(plain[0], plain[1].flip(2))
    options = InferenceOptions(scales=scales, flip=True)
    ours, mirrored = (probabilities(strided, part, options) for part in (images, images.flip(3)))
    torch.testing.assert_close(ours, mirrored.flip(3), rtol=1e-4, atol=1e-5)
    agree = (ours.argmax(1) == mirrored.flip(3).argmax(1)).double().mean()
    assert agree > 0.999  # but where two classes are alike


# ---- windows ----


@pytest.mark.parametrize("overlap", [0.0, 1 / 3, 0.9])
@pytest.mark.parametrize("size", [(40, 33), (64, 64), (16, 16), (17, 16), (8, 50), (5, 7), (31, 96)])
def test_windows_see_every_pixel(size: tuple[int, int], overlap: float, pointwise: nn.Module) -> None:
    recorder = Recorder(pointwise)
    images = random_images(2, 3, *size)
    ours = windows(recorder, images, (16, 16), InferenceOptions(window=True, overlap=overlap))
    assert ours.shape == (2, 4, *size)
    assert {part.shape for part in recorder.seen} == {(2, 3, 16, 16)}
    # A function of the pixel alone: whatever the windows, the result is the plain one.
    torch.testing.assert_close(ours, pointwise(images).softmax(1))


@pytest.mark.parametrize(("length", "overlap"), [(40, 0.0), (40, 0.5), (33, 0.25), (100, 1 / 3), (17, 0.9)])
def test_neighbours_overlap(length: int, overlap: float) -> None:
    """The pixels carry their column, so that the windows tell where they were."""
    columns = torch.arange(float(length)).expand(1, 3, 16, length)
    recorder = Recorder(nn.Identity())
    windows(recorder, columns, (16, 16), InferenceOptions(window=True, overlap=overlap))
    starts = [int(part[0, 0, 0, 0]) for part in recorder.seen]
    assert starts[0] == 0
    assert starts[-1] == length - 16
    steps = np.diff(starts)
    assert (steps > 0).all()
    assert (steps <= 16 * (1 - overlap) + 0.5).all()
    assert len(starts) <= np.ceil((length - 16) / max(1, round(16 * (1 - overlap)))) + 1  # and none too many


def test_overlapping_windows_are_averaged() -> None:
    """Of each window, the probabilities; each pixel's mean is over the windows that see it."""
    calls = 0

    def network(images: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.stack([torch.full(images[:, 0].shape, float(calls)), torch.zeros_like(images[:, 0])], 1)

    ours = windows(network, torch.zeros(1, 3, 8, 12), (8, 8), InferenceOptions(window=True, overlap=0.5))
    first, second = torch.tensor([1.0, 2.0]).sigmoid()
    wanted = torch.cat([first.expand(4), ((first + second) / 2).expand(4), second.expand(4)])
    assert calls == 2
    torch.testing.assert_close(ours[0, 0], wanted.expand(8, 12))
    torch.testing.assert_close(ours[0, 1], 1 - wanted.expand(8, 12))


def test_what_lies_beyond_a_small_image_is_zero(pointwise: nn.Module) -> None:
    recorder = Recorder(pointwise)
    images = random_images(1, 3, 5, 20)
    windows(recorder, images, (16, 24), InferenceOptions(window=True))
    (seen,) = recorder.seen
    assert torch.equal(seen[..., :5, :20], images)
    assert not seen[..., 5:, :].any()
    assert not seen[..., 20:].any()


@pytest.mark.parametrize(
    "options", [{"scales": (0.5,)}, {"scales": (1.0, 0.5)}, {"flip": True}, {"scales": (2.0,), "flip": True}]
)
def test_scales_and_flips_of_a_window(options: dict[str, Any], strided: Network) -> None:
    """A single window is the plain case: it gives the same probabilities."""
    images = random_images(2, 3, 33, 33)
    ours = windows(strided, images, (33, 33), InferenceOptions(window=True, **options))
    torch.testing.assert_close(ours, probabilities(strided, images, InferenceOptions(**options)))


# ---- masks ----


def one_hot(mask: NDArray[np.uint8], classes: int) -> Tensor:
    return F.one_hot(torch.from_numpy(mask.astype(np.int64)), classes).permute(2, 0, 1)[None].float()


@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
@pytest.mark.parametrize("size", [(64, 64), (48, 96), (100, 30), (200, 333), (7, 5), (1, 300)])
def test_masks_at_the_photos_sizes(size: tuple[int, int], resize: Any) -> None:
    preprocessing = Preprocessing(image_size=(64, 64), resize=resize)
    height, width = size
    # A photo whose red says the class: four fields; prepared as the network would get it.
    mask = np.zeros(size, np.uint8)
    mask[height // 2 :] += 1
    mask[:, width // 2 :] += 2
    prepared = preprocessing.prepare((mask * 80)[..., None].repeat(3, 2))[..., 0]
    labels = np.rint(prepared / 80).astype(np.uint8)
    if resize == "letterbox":  # what is beyond the photo must not be seen
        shown = preprocessing.placement(height, width)
        labels[shown.height :] = labels[:, shown.width :] = 4
    (ours,) = to_masks(one_hot(labels, 5), preprocessing, [size])
    assert ours.dtype == torch.uint8
    assert ours.shape == size
    slack = max(2, round(1.5 * max(size) / 64))  # photo pixels of a pixel that straddles an edge
    inner = np.ones(size, bool)
    for axis, edge in ((0, height // 2), (1, width // 2)):
        index: list[Any] = [slice(None)] * 2
        index[axis] = slice(max(0, edge - slack), edge + slack)
        inner[tuple(index)] = False
    np.testing.assert_array_equal(ours.numpy()[inner], mask[inner])
    assert 4 not in ours


def test_masks_of_a_batch_of_several_sizes() -> None:
    preprocessing = Preprocessing(image_size=(16, 16), resize="letterbox")
    scores = random_images(3, 4, 16, 16)
    sizes = [(16, 16), (30, 60), (50, 20)]
    ours = to_masks(scores, preprocessing, sizes)
    assert [tuple(mask.shape) for mask in ours] == sizes
    assert torch.equal(ours[0], scores[0].argmax(0).byte())
    for index, (rows, columns) in ((1, (8, 16)), (2, (16, 6))):  # the photo's part of the input: 50x20 is 16x6.4
        part = scores[index, :, :rows, :columns].permute(1, 2, 0).numpy()
        size = sizes[index]
        planes = [
            np.asarray(Image.fromarray(part[..., c]).resize(size[::-1], Image.Resampling.BILINEAR)) for c in range(4)
        ]
        np.testing.assert_array_equal(ours[index].numpy(), np.stack(planes).argmax(0))


def test_labels_up_to_254() -> None:
    scores = torch.zeros(1, 255, 2, 2)
    scores[0, 254, 0, 0] = scores[0, 200, 1, 1] = 1
    (mask,) = to_masks(scores, Preprocessing(image_size=(2, 2), resize="stretch"), [(2, 2)])
    assert mask.tolist() == [[254, 0], [0, 200]]


def test_probabilities_and_logits_have_the_same_winner(strided: Network) -> None:
    images = random_images(1, 3, 33, 33)
    preprocessing = Preprocessing(image_size=(33, 33), resize="letterbox")
    both = [give(strided, images, InferenceOptions()) for give in (scores_by_pixel, probabilities)]
    (plain,), (soft,) = (to_masks(scores, preprocessing, [(33, 33)]) for scores in both)
    assert torch.equal(plain, soft)
    assert len(plain.unique()) > 1


# ---- options ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": ()}, r"inference\.scales=\[\]"),
        ({"scales": (1.0, 0.0)}, r"inference\.scales=\[1\.0, 0\.0\]"),
        ({"scales": (-1.0,)}, r"inference\.scales"),
        ({"scales": (5.0,)}, r"inference\.scales"),
        ({"scales": (float("nan"),)}, r"inference\.scales"),
        ({"overlap": 1.0}, r"inference\.overlap=1\.0"),
        ({"overlap": -0.1}, r"inference\.overlap=-0\.1"),
        ({"overlap": float("nan")}, r"inference\.overlap"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        InferenceOptions(**options)


def test_a_mask_in_tiles_is_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a photo whose scores do not fit in memory."""
    preprocessing = Preprocessing(image_size=(33, 33), resize="letterbox")
    scores = torch.randn(3, 5, 33, 33, generator=torch.Generator().manual_seed(0))
    sizes = [(301, 517), (900, 17), (20, 20)]
    whole = to_masks(scores, preprocessing, sizes)
    monkeypatch.setattr(inference, "_MOST_SCORES", 0)
    for tile in (5, 5 * 50 * 50, 2**22):
        monkeypatch.setattr(inference, "_TILE_SCORES", tile)
        for ours, wanted in zip(to_masks(scores[1:], preprocessing, sizes[1:]), whole[1:], strict=True):
            assert ours.dtype == torch.uint8
            assert (ours != wanted).double().mean() < 1e-3  # where two classes are alike to the last digit
