"""Training augmentation for classification; evaluation uses only the model's preprocessing."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import albumentations as A
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.transforms import v2

from mnv2vision.data.sample import Sample
from mnv2vision.errors import ConfigError
from mnv2vision.preprocessing import Preprocessing, as_pair


@dataclass(frozen=True)
class EvaluationTransform:
    """The model's own resize rule."""

    preprocessing: Preprocessing

    def __call__(self, sample: Sample, seed: int) -> Sample:
        """Resize the image; boxes and masks keep the photo's size. Nothing is random here."""
        return replace(sample, image=self.preprocessing.prepare(sample.image))


@contextmanager
def torch_draws(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator, and restore its state afterwards.

    `torch.manual_seed` would also seed the GPU's generators, which training uses, and takes a hundred times as long.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _is_range(values: Sequence[object]) -> bool:
    numbers = [value for value in values if isinstance(value, int | float)]
    return len(values) == len(numbers) == 2 and 0 < numbers[0] <= numbers[1]


class ClassificationAugmentation:
    """Random crop, flip and further augmentation by options; randomness depends only on the given seed.

    Crops are resized by the model's own interpolation, so that training sees what evaluation sees.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        *,
        image_size: int | Sequence[int] | None = None,
        crop_scale: tuple[float, float] = (0.08, 1.0),
        crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: float = 0.5,
        color_jitter: float = 0.0,
        rand_augment: int = 0,
        erasing: float = 0.0,
    ) -> None:
        """Set up the pipeline.

        Args:
            preprocessing: The model's.
            image_size: Side, or height and width, of the crops in pixels; the model's if None.
            crop_scale: Range of the crop's share of the image's area (Inception's preprocessing: 0.08 to 1).
            crop_ratio: Range of the crop's ratio of width to height.
            flip: Probability of a horizontal flip.
            color_jitter: Largest relative change of brightness, contrast and saturation.
            rand_augment: RandAugment's magnitude with two operations an image, 0 for none (arXiv 1909.13719).
            erasing: Probability of erasing a random rectangle (arXiv 1708.04896).
        """
        if not 0 <= rand_augment <= 30:
            raise ConfigError(f"augmentation.rand_augment={rand_augment} is not in 0..30")
        if not (_is_range(crop_scale) and crop_scale[1] <= 1):
            raise ConfigError(f"augmentation.crop_scale={crop_scale} is not a range [low, high] above 0, up to 1")
        if not _is_range(crop_ratio):
            raise ConfigError(f"augmentation.crop_ratio={crop_ratio} is not a range [low, high] above 0")
        for name, value in (("flip", flip), ("erasing", erasing)):
            if not 0 <= value <= 1:
                raise ConfigError(f"augmentation.{name}={value} is not a probability")
        self.preprocessing = preprocessing
        self.image_size = preprocessing.image_size if image_size is None else as_pair(image_size)
        self.flip = flip
        self._crop = v2.RandomResizedCrop(self.image_size, scale=tuple(crop_scale), ratio=tuple(crop_ratio))
        steps: list[A.BasicTransform] = []
        if color_jitter > 0:
            span = (max(0.0, 1 - color_jitter), 1 + color_jitter)
            steps.append(A.ColorJitter(brightness=span, contrast=span, saturation=span, hue=(0.0, 0.0), p=1.0))
        if erasing > 0:
            steps.append(A.Erasing(p=erasing))
        self._photometric = A.Compose(steps) if steps else None
        self._rand_augment = v2.RandAugment(magnitude=rand_augment) if rand_augment else None

    def __call__(self, sample: Sample, seed: int) -> Sample:
        """Augment the image by `seed`; boxes and mask are dropped."""
        cv2.setNumThreads(0)  # one thread per worker, which OpenCV's own would slow down
        image = self.preprocessing.resized(self._cropped(sample.image, seed), *self.image_size)
        if np.random.default_rng(seed).random() < self.flip:
            image = np.asarray(cv2.flip(image, 1), np.uint8)  # numpy would take longer than the resizing
        if self._rand_augment is not None:
            image = self._apply_rand_augment(image, seed)
        if self._photometric is not None:
            self._photometric.set_random_seed(seed)
            image = self._photometric(image=image)["image"]
        return replace(sample, image=image, boxes=None, mask=None)

    def _cropped(self, image: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
        with torch_draws(seed):
            window = self._crop.make_params([torch.empty(0, *image.shape[:2])])  # only the size matters
        height, width = max(1, window["height"]), max(1, window["width"])  # extreme ratios are rounded to 0
        return image[window["top"] : window["top"] + height, window["left"] : window["left"] + width]

    def _apply_rand_augment(self, image: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
        assert self._rand_augment is not None
        with torch_draws(seed):
            result: torch.Tensor = self._rand_augment(torch.from_numpy(image).permute(2, 0, 1))
        return result.permute(1, 2, 0).contiguous().numpy()
