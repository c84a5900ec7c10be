"""A model's preprocessing.

It is part of the model, as data; training, evaluation, prediction and export all read it from there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from numbers import Real
from typing import TYPE_CHECKING, Literal, NamedTuple, Self, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mnv2vision.errors import ConfigError, check_keywords

# torch is imported where it is used: exported models are fed without it.
if TYPE_CHECKING:
    import torch
    from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_LARGEST_SIDE = 16_384
_MOST_RESIZED = 2**24  # pixels of an upscaled photo; beyond, only the crop is computed
_FILTER_REACH = 3  # pixels around a point that bicubic upscaling reads, plus one


def as_pair(image_size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) from a side or a pair; ConfigError unless they are integers in 1..16384."""
    pair = tuple(image_size) if isinstance(image_size, Sequence) else (image_size, image_size)
    if len(pair) != 2 or not all(type(side) is int and side > 0 for side in pair):
        raise ConfigError(f"image_size={image_size!r} must be a positive number of pixels, or a pair (height, width)")
    if max(pair) > _LARGEST_SIDE:
        raise ConfigError(f"image_size={image_size!r} is above the limit of {_LARGEST_SIDE:,} pixels per side")
    return pair


def _three_numbers(name: str, values: Iterable[float], low: float, high: float) -> tuple[float, float, float]:
    given = tuple(values) if isinstance(values, Iterable) and not isinstance(values, str) else ()
    if len(given) != 3 or not all(_is_number(value) and low <= value <= high for value in given):
        kind = "positive numbers" if low > 0 else "numbers"
        raise ConfigError(f"{name}={values!r} must be three finite {kind}, one per channel, for pixel values in 0..1")
    return float(given[0]), float(given[1]), float(given[2])


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


class Placement(NamedTuple):
    """The position of a photo in the network's input: resized to height x width, its corner at (top, left).

    A crop puts the corner outside the input: `top` and `left` are negative.
    """

    height: int
    width: int
    top: int
    left: int


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """From an (H, W, 3) uint8 RGB image to the network's input.

    Attributes:
        image_size: Height and width of the network's input, in pixels.
        resize: "crop" resizes the shorter side so that a centre crop of `image_size` covers `crop_fraction` of it;
            "stretch" ignores the aspect ratio (TensorFlow's detectors); "letterbox" keeps it and
            pads below and to the right (DeepLab).
        crop_fraction: Share of the resized image's shorter side that the crop keeps; 0.875 is 224 of 256.
        interpolation: "bilinear" or "bicubic".
        antialias: Whether to antialias when downscaling, as Pillow does, unlike TensorFlow and OpenCV.
        mean: Per channel, for pixel values in 0..1; 0.5 with a std of 0.5 maps them to -1..1 (TensorFlow).
        std: Per channel, likewise.
        padding_value: Value of pixels added by letterboxing and augmentation, 0..255; 128 is nearly 0 after
            TensorFlow's scaling.
    """

    image_size: tuple[int, int] = (224, 224)
    resize: Literal["crop", "stretch", "letterbox"] = "crop"
    crop_fraction: float = 0.875
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    antialias: bool = True
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    padding_value: int = 128

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", as_pair(self.image_size))
        # Beyond these limits float32 overflows, or every pixel has the same value.
        object.__setattr__(self, "mean", _three_numbers("mean", self.mean, -1e6, 1e6))
        object.__setattr__(self, "std", _three_numbers("std", self.std, 1e-6, 1e6))
        if self.resize not in ("crop", "stretch", "letterbox"):
            raise ConfigError(f"resize={self.resize!r} is unknown; valid: crop, stretch, letterbox")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ConfigError(f"interpolation={self.interpolation!r} is unknown; valid: bilinear, bicubic")
        if not _is_number(self.crop_fraction) or not 0.01 <= self.crop_fraction <= 1:
            raise ConfigError(f"crop_fraction={self.crop_fraction!r} must be in 0.01..1")
        if not isinstance(self.antialias, bool):
            raise ConfigError(f"antialias={self.antialias!r} must be true or false")
        if type(self.padding_value) is not int or not 0 <= self.padding_value <= 255:
            raise ConfigError(f"padding_value={self.padding_value!r} must be an integer in 0..255")

    def placement(self, height: int, width: int) -> Placement:
        """The position in the network's input of an image of that size."""
        out_height, out_width = self.image_size
        if self.resize == "stretch":
            return Placement(out_height, out_width, 0, 0)
        by_height = out_height * width >= out_width * height  # whether the height determines the scale of a full crop
        if self.resize == "letterbox":
            if by_height:
                return Placement(max(1, round(height * out_width / width)), out_width, 0, 0)
            return Placement(out_height, max(1, round(width * out_height / height)), 0, 0)
        # The side that the crop fits determines the scale; the other is truncated, as in torchvision's Resize.
        if by_height:
            resized = round(out_height / self.crop_fraction)
            size = (resized, resized * width // height)
        else:
            resized = round(out_width / self.crop_fraction)
            size = (resized * height // width, resized)
        return Placement(*size, *(-round((a - b) / 2) for a, b in zip(size, self.image_size, strict=True)))

    def prepare(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize an (H, W, 3) uint8 image to (*image_size, 3) uint8 by the model's rule."""
        height, width = image.shape[:2]
        place = self.placement(height, width)
        if self.resize == "crop" and place.height * place.width > max(height * width, _MOST_RESIZED):
            return self._enlarged_crop(image, place)
        from torchvision.transforms.v2 import functional as F

        tensor = self._resized(_as_tensor(image), place.height, place.width)
        if self.resize == "crop":
            tensor = F.center_crop(tensor, list(self.image_size))
        elif self.resize == "letterbox":
            below, right = self.image_size[0] - place.height, self.image_size[1] - place.width
            tensor = F.pad(tensor, [0, 0, right, below], fill=self.padding_value)
        return np.ascontiguousarray(tensor.permute(1, 2, 0).numpy())

    def prepare_without_torch(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """What `prepare` gives, by Pillow and OpenCV, which round otherwise: to one level (bicubic to a few)."""
        height, width = image.shape[:2]
        place = self.placement(height, width)
        if self.resize == "crop" and place.height * place.width > max(height * width, _MOST_RESIZED):
            return self._enlarged_crop(image, place)
        if (place.height, place.width) == (height, width):
            resized = image
        elif self.antialias:
            resample = Image.Resampling[self.interpolation.upper()]
            resized = np.asarray(
                Image.fromarray(np.ascontiguousarray(image)).resize((place.width, place.height), resample)
            )
        else:
            import cv2

            kernel = cv2.INTER_LINEAR if self.interpolation == "bilinear" else cv2.INTER_CUBIC
            resized = cv2.resize(image, (place.width, place.height), interpolation=kernel).astype(np.uint8, copy=False)
        # A crop's corner lies outside the input: the input begins so far inside the resized photo.
        shown = resized[max(0, -place.top) :, max(0, -place.left) :][: self.image_size[0], : self.image_size[1]]
        top, left = max(0, place.top), max(0, place.left)
        prepared = np.full((*self.image_size, 3), self.padding_value if self.resize == "letterbox" else 0, np.uint8)
        prepared[top : top + shown.shape[0], left : left + shown.shape[1]] = shown
        return prepared

    def _enlarged_crop(self, image: NDArray[np.uint8], place: Placement) -> NDArray[np.uint8]:
        """The crop of an upscaled photo, without computing the rest: a photo of 60,000 x 1 pixels would take 11.8 GB.

        Equal to resizing the whole photo, to one or two levels; bicubic without antialiasing uses Pillow's kernel.
        """
        spans, box = [], []
        for axis, offset in enumerate((place.top, place.left)):
            scale = image.shape[axis] / place[axis]
            start, stop = -offset * scale, (self.image_size[axis] - offset) * scale
            first = max(0, math.floor(start) - _FILTER_REACH)
            spans.append(slice(first, math.ceil(stop) + _FILTER_REACH))
            box.append((start - first, stop - first))
        part = Image.fromarray(np.ascontiguousarray(image[tuple(spans)]))
        (top, bottom), (left, right) = box
        edges = (left, top, min(right, part.width), min(bottom, part.height))  # rounding may exceed them
        resample = Image.Resampling[self.interpolation.upper()]
        return np.array(part.resize(self.image_size[::-1], resample, box=edges))

    def resized(self, image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
        """Resize an (H, W, 3) uint8 image to any size, with the interpolation of `prepare`."""
        tensor = _as_tensor(image)
        return np.ascontiguousarray(self._resized(tensor, height, width).permute(1, 2, 0).numpy())

    def _resized(self, image: Tensor, height: int, width: int) -> Tensor:
        if (height, width) == image.shape[-2:]:
            return image
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional as F

        mode = InterpolationMode(self.interpolation)
        resized: Tensor = F.resize(image, [height, width], mode, antialias=self.antialias)
        return resized

    def to_photo(self, boxes: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
        """Convert (n, 4) boxes from 0..1 of the network's input to pixels of a photo of that size, clipped to it."""
        place = self.placement(height, width)
        pixels = boxes.astype(np.float64) * (np.array(self.image_size)[[1, 0, 1, 0]])
        pixels -= (place.left, place.top) * 2
        pixels *= np.array([width / place.width, height / place.height] * 2)
        clipped: NDArray[np.float64] = np.clip(pixels, 0, np.array((width, height) * 2))
        return clipped.astype(np.float32)

    def normalize(self, images: Tensor) -> Tensor:
        """Scale and shift (N, 3, H, W) uint8 images to the network's float32 input, on their device."""
        import torch

        # Do not cache tensors created while tracing: they are fake, and belong to that graph.
        is_traced = torch.compiler.is_compiling() or type(torch.empty(0)) is not torch.Tensor
        affine = _affine.__wrapped__ if is_traced else _affine
        scale, offset = affine(self.mean, self.std, images.device)
        return (images * scale).add_(offset)  # one pass from uint8 to normalised float

    def to_dict(self) -> dict[str, object]:
        """Plain data, for `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Self:
        """Create it from the result of `to_dict`, or a part of it; ConfigError for unknown keys."""
        check_keywords(cls, data, "preprocessing option")
        return cast(Callable[..., Self], cls)(**data)


def _as_tensor(image: NDArray[np.uint8]) -> Tensor:
    import torch

    # Flipped or read-only arrays, such as bgr[..., ::-1] and np.asarray(picture), are copied.
    return torch.from_numpy(np.require(image, requirements=("C", "W"))).permute(2, 0, 1)


@lru_cache(maxsize=16)
def _affine(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    import torch

    with torch.inference_mode(False):  # otherwise training could not use cached inference tensors
        std_tensor = torch.tensor(std, device=device).view(3, 1, 1)
        return 1 / (255 * std_tensor), -torch.tensor(mean, device=device).view(3, 1, 1) / std_tensor
