"""Training augmentation for segmentation: random scale, crop, flip and colours, the mask going along."""

import os
from collections.abc import Sequence
from dataclasses import replace

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for its version at import

import albumentations as A
import cv2
import numpy as np

from mnv2vision.data.sample import IGNORE_INDEX, Sample
from mnv2vision.errors import ConfigError
from mnv2vision.preprocessing import Preprocessing


class SegmentationAugmentation:
    """A random scale, then a crop of the network's input size, padded where the image is smaller, flip and colours.

    Images are padded with the preprocessing's value, masks with 255. Its draws depend on the seed it is given alone.
    Source: TF research/deeplab/core/preprocess_utils.py and train.py (scales 0.5 to 2 in steps of 0.25).
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        *,
        scale: Sequence[float] = (0.5, 2.0),
        scale_step: float = 0.25,
        fit: bool = False,
        flip: float = 0.5,
        color_jitter: float = 0.0,
    ) -> None:
        """Set up the pipeline.

        Args:
            preprocessing: The model's; "letterbox" or "stretch".
            scale: Range of the factor; of the photo's own size, or of the size it is evaluated at, see `fit`.
            scale_step: Between possible factors; 0 for any in the range.
            fit: Start from the size that the model's resize rule gives, for photos much larger or smaller than the
                network's input; otherwise from the photo's own, as DeepLab does.
            flip: Probability of a horizontal flip.
            color_jitter: Largest relative change of brightness, contrast and saturation; half the images have it.
        """
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 16:
            raise ConfigError(f"augmentation.scale={list(scale)} is no range [low, high] above 0, up to 16")
        if not scale_step >= 0:
            raise ConfigError(f"augmentation.scale_step={scale_step} must not be negative")
        if not 0 <= flip <= 1:
            raise ConfigError(f"augmentation.flip={flip} is no probability")
        if not color_jitter >= 0:
            raise ConfigError(f"augmentation.color_jitter={color_jitter} must not be negative")
        if preprocessing.resize == "crop":
            raise ConfigError("preprocessing.resize=crop would cut images; for segmentation: letterbox, stretch")
        self.preprocessing = preprocessing
        self.scale = (float(scale[0]), float(scale[1]))
        self.scale_step = scale_step
        self.fit = fit
        height, width = preprocessing.image_size
        steps = [
            A.PadIfNeeded(
                height,
                width,
                border_mode=cv2.BORDER_CONSTANT,
                fill=preprocessing.padding_value,
                fill_mask=IGNORE_INDEX,
                position="random",
            ),
            A.RandomCrop(height, width),
            A.HorizontalFlip(p=flip),
        ]
        if color_jitter > 0:
            span = (max(0.0, 1 - color_jitter), 1 + color_jitter)
            steps.append(A.ColorJitter(brightness=span, contrast=span, saturation=span, hue=(-0.05, 0.05), p=0.5))
        self._compose = A.Compose(steps)

    def __call__(self, sample: Sample, seed: int) -> Sample:
        """Augment image and mask with draws from `seed`."""
        cv2.setNumThreads(0)  # one thread per worker; OpenCV's own would fight over the cores
        assert sample.mask is not None
        height, width = sample.image.shape[:2]
        factor = self._factor(np.random.default_rng(seed))
        if self.fit:
            place = self.preprocessing.placement(height, width)
            size = (round(place.width * factor), round(place.height * factor))
        else:
            size = (round(width * factor), round(height * factor))
        size = (max(1, size[0]), max(1, size[1]))
        image, mask = sample.image, sample.mask
        if size != (width, height):
            image = self.preprocessing.resized(image, size[1], size[0])  # as in evaluation
            mask = np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT))
        self._compose.set_random_seed(seed)
        done = self._compose(image=image, mask=mask)
        return replace(sample, image=done["image"], mask=done["mask"], boxes=None, labels=None, label=None)

    def _factor(self, rng: np.random.Generator) -> float:
        low, high = self.scale
        if not self.scale_step:
            return float(rng.uniform(low, high))
        steps = int((high - low) / self.scale_step + 1e-6) + 1
        return low + self.scale_step * int(rng.integers(steps))
