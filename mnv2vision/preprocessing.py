"""How a model wants its images.

The model carries it as data; training, evaluation, prediction and export all read it from there.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from mnv2vision.errors import ConfigError, check_keywords

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def as_pair(image_size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) from one side or from a pair; ConfigError unless positive integers."""
    pair = tuple(image_size) if isinstance(image_size, Sequence) else (image_size, image_size)
    if len(pair) != 2 or not all(type(side) is int and side > 0 for side in pair):
        raise ConfigError(f"image_size={image_size!r} is not a positive number of pixels or a pair (height, width)")
    return pair


class Placement(NamedTuple):
    """Where a photo lies in the network's input: resized to height x width, its corner at (top, left).

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
            "stretch" resizes both sides without keeping their ratio (TensorFlow's detectors); "letterbox" keeps it and
            pads below and to the right (DeepLab).
        crop_fraction: Of the resized image's shorter side that the crop keeps; 0.875 is 224 of 256.
        interpolation: "bilinear" or "bicubic".
        antialias: Whether shrinking averages over the pixels it skips (as Pillow does) or not (TensorFlow, OpenCV).
        mean: Per channel, for pixel values in 0..1; 0.5 with a std of 0.5 maps them to -1..1 (TensorFlow).
        std: Per channel, likewise.
        padding_value: Of the pixels that letterboxing and augmentation add, 0..255; 128 is nearly 0 after TensorFlow's
            scaling.
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
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))
        if self.resize not in ("crop", "stretch", "letterbox"):
            raise ConfigError(f"resize={self.resize!r} is unknown; valid: crop, stretch, letterbox")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ConfigError(f"interpolation={self.interpolation!r} is unknown; valid: bilinear, bicubic")
        if not 0 < self.crop_fraction <= 1:
            raise ConfigError(f"crop_fraction={self.crop_fraction} is not in 0..1")
        if not all(value > 0 for value in self.std):
            raise ConfigError(f"std={self.std} must be positive")
        if not 0 <= self.padding_value <= 255:
            raise ConfigError(f"padding_value={self.padding_value} is no pixel value in 0..255")

    def placement(self, height: int, width: int) -> Placement:
        """Where an image of that size comes to lie in the network's input."""
        out_height, out_width = self.image_size
        if self.resize == "stretch":
            return Placement(out_height, out_width, 0, 0)
        by_height = out_height * width >= out_width * height  # whether the height decides, for a crop that covers all
        if self.resize == "letterbox":
            if by_height:
                return Placement(max(1, round(height * out_width / width)), out_width, 0, 0)
            return Placement(out_height, max(1, round(width * out_height / height)), 0, 0)
        # The side that the crop just fits decides; the other is truncated, as torchvision's Resize does.
        if by_height:
            resized = round(out_height / self.crop_fraction)
            size = (resized, resized * width // height)
        else:
            resized = round(out_width / self.crop_fraction)
            size = (resized * height // width, resized)
        return Placement(*size, *(-round((a - b) / 2) for a, b in zip(size, self.image_size, strict=True)))

    def prepare(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize an (H, W, 3) uint8 image by the model's rule to (*image_size, 3) uint8."""
        tensor = _as_tensor(image)
        place = self.placement(*tensor.shape[-2:])
        tensor = self._resized(tensor, place.height, place.width)
        if self.resize == "crop":
            tensor = F.center_crop(tensor, list(self.image_size))
        elif self.resize == "letterbox":
            below, right = self.image_size[0] - place.height, self.image_size[1] - place.width
            tensor = F.pad(tensor, [0, 0, right, below], fill=self.padding_value)
        return np.ascontiguousarray(tensor.permute(1, 2, 0).numpy())

    def resized(self, image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
        """Resize an (H, W, 3) uint8 image as `prepare` does, but to any size."""
        tensor = _as_tensor(image)
        return np.ascontiguousarray(self._resized(tensor, height, width).permute(1, 2, 0).numpy())

    def _resized(self, image: Tensor, height: int, width: int) -> Tensor:
        if (height, width) == image.shape[-2:]:
            return image
        mode = InterpolationMode(self.interpolation)
        resized: Tensor = F.resize(image, [height, width], mode, antialias=self.antialias)
        return resized

    def to_photo(self, boxes: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
        """Boxes (n, 4) in 0..1 of the network's input, as pixels of the photo of that size, clipped to it."""
        place = self.placement(height, width)
        pixels = boxes.astype(np.float64) * (np.array(self.image_size)[[1, 0, 1, 0]])
        pixels -= (place.left, place.top) * 2
        pixels *= np.array([width / place.width, height / place.height] * 2)
        clipped: NDArray[np.float64] = np.clip(pixels, 0, np.array((width, height) * 2))
        return clipped.astype(np.float32)

    def normalize(self, images: Tensor) -> Tensor:
        """Scale and shift (N, 3, H, W) uint8 images to the network's float32 input, on their device."""
        # What is made while a model is traced, with stand-ins for tensors, must not be kept: it belongs to that graph.
        is_traced = torch.compiler.is_compiling() or type(torch.empty(0)) is not Tensor
        affine = _affine.__wrapped__ if is_traced else _affine
        scale, offset = affine(self.mean, self.std, images.device)
        return (images * scale).add_(offset)  # one pass from uint8 to scaled float

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `from_dict` takes."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Make it from what `to_dict` gave, or from a part of it; ConfigError for unknown keys."""
        check_keywords(cls, data, "preprocessing option")
        return cls(**data)


def _as_tensor(image: NDArray[np.uint8]) -> Tensor:
    # Flipped and read-only arrays, such as bgr[..., ::-1] and np.asarray(picture), are copied.
    return torch.from_numpy(np.require(image, requirements=("C", "W"))).permute(2, 0, 1)


@lru_cache(maxsize=16)
def _affine(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):  # else training could not use what inference made
        std_tensor = torch.tensor(std, device=device).view(3, 1, 1)
        return 1 / (255 * std_tensor), -torch.tensor(mean, device=device).view(3, 1, 1) / std_tensor
