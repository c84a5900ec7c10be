"""Training augmentation for segmentation: random scale, crop, flip and colour jitter."""

from collections.abc import Sequence
from dataclasses import replace

import albumentations as A
import cv2
import numpy as np

from mnv2vision.data.sample import IGNORE_INDEX, Sample
from mnv2vision.errors import ConfigError
from mnv2vision.preprocessing import Preprocessing


class SegmentationAugmentation:
    """A random scale, then a crop of the network's input size, padded if the image is smaller, flip and colour jitter.

    Images are padded with the preprocessing's value, masks with 255. Randomness depends only on the given seed.
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
            scale: Range of the scale factor, relative to the photo or to its resized version, see `fit`.
            scale_step: Step between factors; 0 for a continuous range.
            fit: Scale relative to the model's resize rule, for photos much larger or smaller than the network's input;
                otherwise relative to the photo, as DeepLab does.
            flip: Probability of a horizontal flip.
            color_jitter: Largest relative change of brightness, contrast and saturation, for half of the images.
        """
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 16:
            raise ConfigError(f"augmentation.scale={list(scale)} is not a range [low, high] above 0, up to 16")
        if not scale_step >= 0:
            raise ConfigError(f"augmentation.scale_step={scale_step} must not be negative")
        if not 0 <= flip <= 1:
            raise ConfigError(f"augmentation.flip={flip} is not a probability")
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
        """Augment image and mask by `seed`; label and boxes are dropped."""
        cv2.setNumThreads(0)  # one thread per worker, which OpenCV's own would slow down
        height, width = sample.image.shape[:2]
        factor = self._factor(np.random.default_rng(seed))
        if self.fit:
            place = self.preprocessing.placement(height, width)
            size = (round(place.width * factor), round(place.height * factor))
        else:
            size = (round(width * factor), round(height * factor))
        size = (max(1, size[0]), max(1, size[1]))
        image = sample.image
        mask = np.full((height, width), IGNORE_INDEX, np.uint8) if sample.mask is None else sample.mask
        if size != (width, height):
            image = self.preprocessing.resized(image, size[1], size[0])  # as in evaluation
            mask = np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT))
        self._compose.set_random_seed(seed)
        done = self._compose(image=image, mask=mask)
        moved = None if sample.mask is None else done["mask"]
        return replace(sample, image=done["image"], mask=moved, boxes=None, label=None)

    def _factor(self, rng: np.random.Generator) -> float:
        low, high = self.scale
        if not self.scale_step:
            return float(rng.uniform(low, high))
        steps = int((high - low) / self.scale_step + 1e-6) + 1
        return low + self.scale_step * int(rng.integers(steps))
