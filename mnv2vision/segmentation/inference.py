"""From logits to masks at the photo's size: logits at the pixels, several scales and flips, sliding windows."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mnv2vision.backbones.layers import Padding
from mnv2vision.contracts import InferenceOptions, window_starts
from mnv2vision.preprocessing import Preprocessing

Network = Callable[[Tensor], Tensor]
"""From normalised images (N, 3, H, W) to logits (N, C, H, W) at their pixels; see `SegmentationHead.by_pixel`."""

MULTI_SCALE = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""The scales of "MF" in table 7 (with flips)."""

_MOST_SCORES = 2**26  # scores of a photo that are held at once, 256 MiB; beyond it, so many at a time:
_TILE_SCORES = 2**22


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


def _is_single_pass(options: InferenceOptions) -> bool:
    return list(options.scales) == [1] and not options.flip


def scores_by_pixel(network: Network, images: Tensor, options: InferenceOptions) -> Tensor:
    """Class scores of normalised images, at their size, of which the largest wins.

    They are the logits of a single pass, and the mean of several passes' probabilities. One pass is in memory at a
    time.

    Args:
        network: See `Network`.
        images: (N, 3, H, W), normalised.
        options: Scales and flips.

    Returns:
        (N, C, H, W).
    """
    height, width = images.shape[-2:]
    if _is_single_pass(options):
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


def probabilities(network: Network, images: Tensor, options: InferenceOptions) -> Tensor:
    """Class probabilities (N, C, H, W) of normalised images, at their size; see `scores_by_pixel`."""
    scores = scores_by_pixel(network, images, options)
    return scores.softmax(1) if _is_single_pass(options) else scores


def sliding_window(
    network: Network,
    images: Tensor,
    window: Sequence[int],
    options: InferenceOptions,
    *,
    normalize: Callable[[Tensor], Tensor] = lambda part: part,
) -> Iterator[Tensor]:
    """Probabilities of images of any size, the mean over overlapping windows, a band of the images at a time.

    Args:
        network: See `Network`.
        images: (N, 3, H, W).
        window: Height and width that the network is made for; smaller images are padded with zeros.
        options: Scales and flips of each window, and the overlap.
        normalize: What makes normalised images of a part of these.

    Yields:
        (N, C, h, W) from the top down; of images wider than high (N, C, H, w) from left to right.
    """
    along = 3 if images.shape[3] > images.shape[2] else 2  # the longer side, so that a band is short
    across = 5 - along
    extent = {dim: min(window[dim - 2], images.shape[dim]) for dim in (along, across)}
    starts = list(window_starts(images.shape[along], extent[along], options.overlap))
    total = count = images.new_zeros(0)
    for start, following in zip(starts, [*starts[1:], images.shape[along]], strict=True):
        for beside in window_starts(images.shape[across], extent[across], options.overlap):
            part = images.narrow(along, start, extent[along]).narrow(across, beside, extent[across])
            height, width = part.shape[-2:]
            padded = F.pad(normalize(part), [0, window[1] - width, 0, window[0] - height])
            scores = probabilities(network, padded, options)[..., :height, :width]
            if not total.numel():
                shape = [*scores.shape[:2], *images.shape[2:]]
                shape[along] = extent[along]
                total, count = scores.new_zeros(shape), scores.new_zeros(shape[2:])
            total.narrow(across, beside, extent[across]).add_(scores)
            count.narrow(across - 2, beside, extent[across]).add_(1)
        done, left = following - start, extent[along] - (following - start)
        yield total.narrow(along, 0, done) / count.narrow(along - 2, 0, done)
        # What later windows add to comes first, and there is nothing yet behind it.
        for tensor, dim in ((total, along), (count, along - 2)):
            tensor.narrow(dim, 0, left).copy_(tensor.narrow(dim, done, left).clone())
            tensor.narrow(dim, left, done).zero_()


def to_masks(scores: Tensor, preprocessing: Preprocessing, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Label maps (H, W) uint8 at the photos' sizes, of scores (N, C, H, W) at the network's input size."""
    masks = []
    for image, (height, width) in zip(scores, sizes, strict=True):
        place = preprocessing.placement(height, width)
        shown = image[None, :, : place.height, : place.width]
        if image.shape[0] * height * width > _MOST_SCORES:
            masks.append(_mask_in_tiles(shown[0], height, width))
            continue
        if (place.height, place.width) != (height, width):
            shown = F.interpolate(shown, size=(height, width), mode="bilinear", align_corners=False)
        masks.append(shown[0].argmax(0).to(torch.uint8))
    return masks


def _mask_in_tiles(scores: Tensor, height: int, width: int) -> Tensor:
    """What `to_masks` gives for one photo, of which all scores at once would take gigabytes."""
    mask = scores.new_empty((height, width), dtype=torch.uint8)
    side = max(1, math.isqrt(_TILE_SCORES // scores.shape[0]))
    for top in range(0, height, side):
        rows = _interpolated(scores, 1, range(top, min(top + side, height)), height)
        for left in range(0, width, side):
            tile = _interpolated(rows, 2, range(left, min(left + side, width)), width)
            mask[top : top + side, left : left + side] = tile.argmax(0)
    return mask


def _interpolated(scores: Tensor, dim: int, wanted: range, length: int) -> Tensor:
    """Some indices of `scores` after bilinear resizing along a dimension to `length`, corners not aligned."""
    have = scores.shape[dim]
    at = torch.arange(wanted.start, wanted.stop, device=scores.device, dtype=torch.float64)
    at = ((at + 0.5) * have / length - 0.5).clamp(min=0)
    low = at.long().clamp(max=have - 1)
    share = (at - low).to(scores.dtype).view([-1 if axis == dim else 1 for axis in range(3)])
    return scores.index_select(dim, low).lerp(scores.index_select(dim, (low + 1).clamp(max=have - 1)), share)
