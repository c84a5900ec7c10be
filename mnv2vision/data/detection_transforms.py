"""Training augmentation for detectors: SSD's random crop, expansion, flip and colours, boxes going along."""

import os
from dataclasses import replace
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for its version at import

import albumentations as A
import cv2
import numpy as np
from albumentations.augmentations.crops.transforms import BaseCrop
from numpy.typing import NDArray

from mnv2vision.data.sample import Sample
from mnv2vision.errors import ConfigError
from mnv2vision.preprocessing import Preprocessing

_MIN_OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
_TRIES = 50
_MIN_SIDE = 0.3
_MIN_VISIBLE = 0.3  # what shows less of itself after a crop is dropped (TensorFlow's ssd_random_crop)


class IouCrop(BaseCrop):  # type: ignore[misc]  # albumentations is untyped
    """A window that overlaps some object by a minimum IoU drawn at random; the whole image where none is found.

    Source: SSD (arXiv 1512.02325, section 2.2); windows have 0.3 to 1 of the image's sides, at ratios of 1/2 to 2.
    """

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draw the window, of `_TRIES` at once; boxes are in 0..1 here."""
        height, width = params["shape"][:2]
        whole = {"crop_coords": (0, 0, width, height)}
        boxes = np.asarray(data["bboxes"], np.float64)[:, :4] if len(data["bboxes"]) else np.empty((0, 4))
        rng = self.random_generator
        minimum = _MIN_OVERLAPS[rng.integers(len(_MIN_OVERLAPS))]
        sides = rng.uniform(_MIN_SIDE, 1.0, (_TRIES, 2))
        corners = rng.uniform(0.0, 1.0, (_TRIES, 2)) * (1 - sides)
        windows = np.concatenate([corners, corners + sides], axis=1)
        ratio = sides[:, 0] * width / (sides[:, 1] * height)
        fits = (ratio > 0.5) & (ratio < 2)
        if len(boxes):
            low = np.maximum(windows[:, None, :2], boxes[None, :, :2])
            high = np.minimum(windows[:, None, 2:], boxes[None, :, 2:])
            common = np.clip(high - low, 0, None).prod(axis=2)
            sizes = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
            overlap = common / (sides.prod(axis=1)[:, None] + sizes[None] - common)
            visible = common >= _MIN_VISIBLE * sizes[None]
            fits &= ((overlap >= minimum) & visible).any(axis=1)
        found = np.flatnonzero(fits)
        if not len(found):
            return whole
        x1, y1, x2, y2 = np.rint(windows[found[0]] * (width, height, width, height)).astype(int).tolist()
        x1, y1 = min(x1, width - 1), min(y1, height - 1)
        return {"crop_coords": (x1, y1, max(x2, x1 + 1), max(y2, y1 + 1))}

    def get_transform_init_args_names(self) -> tuple[str, ...]:
        """No arguments of its own."""
        return ()


class DetectionAugmentation:
    """Crop, expansion, the model's resize rule, flip and colours; its draws depend on the seed it is given alone."""

    def __init__(
        self,
        preprocessing: Preprocessing,
        *,
        crop: float = 0.7,
        expand: float = 0.3,
        max_expansion: float = 3.0,
        flip: float = 0.5,
        color_jitter: float = 0.0,
    ) -> None:
        """Set up the pipeline.

        Args:
            preprocessing: The model's; "stretch" or "letterbox".
            crop: Probability of a random crop, see `IouCrop`.
            expand: Probability of putting the image on a larger canvas, which makes objects smaller.
            max_expansion: Largest ratio of the canvas's sides to the image's.
            flip: Probability of a horizontal flip.
            color_jitter: Largest relative change of brightness, contrast and saturation; half the images have it.
        """
        for name, value in (("crop", crop), ("expand", expand), ("flip", flip)):
            if not 0 <= value <= 1:
                raise ConfigError(f"augmentation.{name}={value} is no probability")
        if not 1 <= max_expansion <= 8:
            raise ConfigError(f"augmentation.max_expansion={max_expansion} is not in 1..8")
        if color_jitter < 0:
            raise ConfigError(f"augmentation.color_jitter={color_jitter} must not be negative")
        if preprocessing.resize == "crop":
            raise ConfigError("preprocessing.resize=crop would cut off objects; for detection: stretch, letterbox")
        self.preprocessing = preprocessing
        self.flip = flip
        boxes = A.BboxParams(
            "pascal_voc", ["index"], min_visibility=_MIN_VISIBLE, clip=True, filter_invalid_bboxes=True
        )
        margin = (max_expansion - 1) / 2
        fill = preprocessing.padding_value
        steps = [
            A.CropAndPad(percent=(0.0, margin), sample_independently=True, keep_size=False, fill=fill, p=expand),
            IouCrop(p=crop),
        ]
        self._geometric = A.Compose(steps, bbox_params=boxes) if crop or (expand and margin) else None
        span = (max(0.0, 1 - color_jitter), 1 + color_jitter)
        jitter = A.ColorJitter(brightness=span, contrast=span, saturation=span, hue=(-0.05, 0.05), p=0.5)
        self._photometric = A.Compose([jitter]) if color_jitter else None

    def __call__(self, sample: Sample, seed: int) -> Sample:
        """Augment image and boxes with draws from `seed`."""
        cv2.setNumThreads(0)  # one thread per worker; OpenCV's own would fight over the cores
        assert sample.boxes is not None
        image, boxes, index = sample.image, sample.boxes, np.arange(len(sample.boxes))
        if self._geometric is not None:
            self._geometric.set_random_seed(seed)
            done = self._geometric(image=image, bboxes=boxes, index=index)
            image = done["image"]
            boxes = np.asarray(done["bboxes"], np.float32).reshape(-1, 4)
            index = np.asarray(done["index"], np.int64)
        place = self.preprocessing.placement(*image.shape[:2])
        scale = np.array([place.width / image.shape[1], place.height / image.shape[0]] * 2, np.float32)
        boxes = boxes * scale
        image = self.preprocessing.prepare(image)
        if np.random.default_rng(seed).random() < self.flip:
            image, boxes = _flip(image, boxes)
        if self._photometric is not None:
            self._photometric.set_random_seed(seed)
            image = self._photometric(image=image)["image"]
        kept = {
            name: values[index]
            for name in ("labels", "is_crowd", "difficult", "areas")
            if (values := getattr(sample, name)) is not None
        }
        return replace(sample, image=image, boxes=boxes, mask=None, **kept)


def _flip(image: NDArray[np.uint8], boxes: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    width = np.float32(image.shape[1])
    turned = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)
    return np.ascontiguousarray(image[:, ::-1]), turned
