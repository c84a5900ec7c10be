"""From logits to masks at the photo's size: logits at the pixels, several scales and flips, sliding windows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mnv2vision.backbones.layers import Padding
from mnv2vision.errors import ConfigError
from mnv2vision.preprocessing import Preprocessing

Network = Callable[[Tensor], Tensor]
"""From normalised images (N, 3, H, W) to logits (N, C, H, W) at their pixels, as `DeepLabV3.pixel_logits`."""

MULTI_SCALE = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""The scales of "MF" in table 7 (with flips)."""


@dataclass(frozen=True)
class InferenceOptions:
    """How to look at an image.

    Attributes:
        scales: Of the network's input; the mean of the passes' probabilities decides. 0.5 to 1.75 with flips is the
            paper's "MF".
        flip: Look at the mirror image as well.
        window: Look through windows of the network's input size at the photo in its own resolution, for photos much
            larger than that; otherwise the whole photo is resized.
        overlap: Of neighbouring windows, as a share of their side.
    """

    scales: Sequence[float] = (1.0,)
    flip: bool = False
    window: bool = False
    overlap: float = 1 / 3

    def __post_init__(self) -> None:
        if not self.scales or not all(0 < scale <= 4 for scale in self.scales):
            raise ConfigError(f"inference.scales={list(self.scales)} are not factors above 0 and up to 4")
        if not 0 <= self.overlap < 1:
            raise ConfigError(f"inference.overlap={self.overlap} is no share in 0..1")


def upsample(logits: Tensor, size: Sequence[int], *, stride: int, padding: Padding) -> Tensor:
    """Logits at an input's pixels, bilinear between the cells, each of which is put where it lies.

    Where a side has k * stride + 1 pixels, the outer cells lie on the outer pixels, and this is the resizing with
    aligned corners of TensorFlow's DeepLab. On any other, less than a stride at one end lies beyond all cells; there
    the outer cell holds.

    Args:
        logits: (N, C, ceil(H / stride), ceil(W / stride)).
        size: Height and width of the network's input, in pixels.
        stride: Pixels from one cell's centre to the next.
        padding: Of the convolutions that shrank the input. With "symmetric" the first cell lies on the first pixel.
            With "tf" the last cell lies on the last pixel: a stride of 2 puts the first one on pixel (n - 1) % 2 of n,
            and halving after halving it comes to lie on (n - 1) % stride.

    Returns:
        (N, C, H, W).
    """
    height, width = size
    # With the outer cells once more, where pixels may lie beyond them.
    cells = F.pad(logits, [1, 0, 1, 0] if padding == "tf" else [0, 1, 0, 1], mode="replicate")
    placed = _resize(cells, [(length - 1) * stride + 1 for length in cells.shape[-2:]])
    return placed[..., -height:, -width:] if padding == "tf" else placed[..., :height, :width]


def _resize(images: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(images, size=list(size), mode="bilinear", align_corners=True)


def is_single_pass(options: InferenceOptions) -> bool:
    """Whether `probabilities` gives logits."""
    return list(options.scales) == [1] and not options.flip


def probabilities(network: Network, images: Tensor, options: InferenceOptions) -> Tensor:
    """Class scores of normalised images, at their size.

    A single pass gives logits, several give the mean of their probabilities; either way the largest wins. One pass is
    in memory at a time.

    Args:
        network: See `Network`.
        images: (N, 3, H, W), normalised.
        options: Scales and flips.

    Returns:
        (N, C, H, W).
    """
    height, width = images.shape[-2:]
    if is_single_pass(options):
        return network(images)
    mean: Tensor | None = None
    for scale in options.scales:
        # 513 becomes 257, 385, 513, 641, 769, 897: corners stay aligned (TF: deeplab/core/utils.py, scale_dimension).
        scaled = _resize(images, [int((side - 1) * scale + 1) for side in (height, width)])
        for mirrored in (False, True) if options.flip else (False,):
            logits = network(scaled.flip(3) if mirrored else scaled).float()
            scores = _resize(logits.flip(3) if mirrored else logits, (height, width)).softmax(1)
            mean = scores if mean is None else mean.add_(scores)
    assert mean is not None
    return mean.div_(len(options.scales) * (1 + options.flip))


def sliding_window(network: Network, images: Tensor, window: Sequence[int], options: InferenceOptions) -> Tensor:
    """Probabilities (N, C, H, W) of normalised images of any size, the mean over overlapping windows.

    Args:
        network: See `Network`.
        images: (N, 3, H, W), normalised.
        window: Height and width that the network is made for; smaller images are padded with zeros.
        options: Scales and flips of each window, and the overlap.
    """
    height, width = images.shape[-2:]
    padded = F.pad(images, [0, max(0, window[1] - width), 0, max(0, window[0] - height)])
    total: Tensor | None = None
    count = padded.new_zeros(padded.shape[-2:])
    for y in _starts(padded.shape[-2], window[0], options.overlap):
        for x in _starts(padded.shape[-1], window[1], options.overlap):
            area = (..., slice(y, y + window[0]), slice(x, x + window[1]))
            scores = probabilities(network, padded[area], options)
            if is_single_pass(options):
                scores = scores.softmax(1)
            if total is None:
                total = scores.new_zeros(len(images), scores.shape[1], *padded.shape[-2:])
            total[area] += scores
            count[area] += 1
    assert total is not None
    return total.div_(count)[..., :height, :width]


def _starts(length: int, window: int, overlap: float) -> Iterator[int]:
    step = max(1, round(window * (1 - overlap)))
    yield from range(0, length - window, step)
    yield length - window


def to_masks(scores: Tensor, preprocessing: Preprocessing, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Label maps (H, W) uint8 at the photos' sizes, of scores (N, C, H, W) at the network's input size."""
    masks = []
    for image, (height, width) in zip(scores, sizes, strict=True):
        place = preprocessing.placement(height, width)
        shown = image[None, :, : place.height, : place.width]
        if (place.height, place.width) != (height, width):
            shown = F.interpolate(shown, size=(height, width), mode="bilinear", align_corners=False)
        masks.append(shown[0].argmax(0).to(torch.uint8))
    return masks
