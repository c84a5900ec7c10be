"""Training augmentation for detection, and for several heads: expansion, random crop, flip and colour jitter."""

from dataclasses import replace
from typing import Literal, NamedTuple

import albumentations as A
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors
from torchvision.transforms import v2

from mnv2vision.data.augment.classification import torch_draws
from mnv2vision.data.sample import IGNORE_INDEX, Boxes, Sample
from mnv2vision.errors import ConfigError
from mnv2vision.preprocessing import Preprocessing

CropRule = Literal["coverage", "iou"]

_COVERAGES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
_ATTEMPTS = 100
_RATIOS = (0.5, 2.0)
_LEAST_AREA = 0.1
_LEAST_SIDE = 4  # pixels; of a smaller image, 0.3 may be an empty crop
_NO_OBJECTS = Boxes.of(np.empty((0, 4), np.float32), np.empty(0, np.int64))


class Window(NamedTuple):
    """The visible part of a canvas, in its pixels."""

    left: int
    top: int
    right: int
    bottom: int


def coverage_crop(
    boxes: NDArray[np.float32], height: int, width: int, rng: np.random.Generator
) -> tuple[Window, NDArray[np.bool_]]:
    """TensorFlow's `ssd_random_crop`: a window that covers a random share of some object.

    Windows have 0.1 to 1 of the image's area and a width of 0.5 to 2 times their height, with uniform heights; the
    first of a hundred that covers the share of an object is used, otherwise the whole image. An image without objects
    counts as one object. Objects with a smaller visible share are dropped.

    Source: TF object_detection/core/preprocessor.py (ssd_random_crop, _strict_random_crop_image) and
    tensorflow/core/kernels/image/sample_distorted_bounding_box_op.cc.

    Args:
        boxes: (n, 4) (x1, y1, x2, y2) in pixels.
        height: Of the image.
        width: Of the image.
        rng: Where the draws come from.

    Returns:
        The window, and which objects stay (n,).
    """
    coverage = _COVERAGES[rng.integers(len(_COVERAGES))]
    ratio = rng.uniform(*_RATIOS, _ATTEMPTS)
    area = height * width
    low, high = (np.rint(np.sqrt(share * area / ratio)) for share in (_LEAST_AREA, 1.0))
    high = np.where(np.rint(high * ratio) > width, np.floor((width + 0.5 - 1e-7) / ratio), high).clip(max=height)
    low = np.minimum(low, high)
    rows = low + np.floor(rng.random(_ATTEMPTS) * (high - low + 1))
    rows += rows * np.rint(rows * ratio) < _LEAST_AREA * area  # lost by rounding
    columns = np.rint(rows * ratio)
    top, left = (
        np.floor(rng.random(_ATTEMPTS) * (side - length)) for side, length in ((height, rows), (width, columns))
    )
    windows = np.stack([left, top, left + columns, top + rows], axis=1)
    fits = (rows <= height) & (columns <= width) & (rows > 0) & (columns > 0) & (rows * columns >= _LEAST_AREA * area)
    objects = boxes if len(boxes) else np.array([[0, 0, width, height]], np.float32)
    found = np.flatnonzero(fits & (_shown(objects, windows) >= coverage).any(axis=1))
    window = windows[found[0]] if len(found) else np.array([0, 0, width, height], np.float64)
    shown = _shown(boxes, window[None])[0]
    return Window(*window.astype(int).tolist()), (shown > 0) & (shown >= coverage)


def _shown(boxes: NDArray[np.float32], windows: NDArray[np.float64]) -> NDArray[np.float64]:
    """(m, n) visible shares of n boxes in each of m windows."""
    boxes = boxes.astype(np.float64)  # else rounding makes a fully visible box seem cut
    low = np.maximum(windows[:, None, :2], boxes[None, :, :2])
    high = np.minimum(windows[:, None, 2:], boxes[None, :, 2:])
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return np.asarray(np.clip(high - low, 0, None).prod(axis=2) / np.maximum(areas, 1e-9))


def iou_crop(boxes: NDArray[np.float32], height: int, width: int, seed: int) -> tuple[Window, NDArray[np.bool_]]:
    """A window from torchvision's `RandomIoUCrop`, which overlaps some object by a random minimum IoU.

    Objects whose centre lies outside are dropped. Images without objects and tiny images stay whole.

    Args:
        boxes: (n, 4) (x1, y1, x2, y2) in pixels.
        height: Of the image.
        width: Of the image.
        seed: Of the draws.

    Returns:
        The window, and which objects stay (n,).
    """
    whole = Window(0, 0, width, height), np.ones(len(boxes), bool)
    if not len(boxes) or min(height, width) < _LEAST_SIDE:
        return whole
    objects = tv_tensors.BoundingBoxes(torch.from_numpy(boxes), format="XYXY", canvas_size=(height, width))
    with torch_draws(seed):
        found = v2.RandomIoUCrop().make_params([objects])
    if not found:
        return whole
    top, left = found["top"], found["left"]
    return Window(left, top, left + found["width"], top + found["height"]), found["is_within_crop_area"].numpy()


class DetectionAugmentation:
    """Expansion, crop, the model's resize rule, flip and colour jitter; randomness depends only on the given seed.

    Expansion and crop only select a part of a larger canvas: the photo is resized once, to its place in the network's
    input.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        *,
        crop: float = 0.7,
        crop_by: CropRule = "coverage",
        expand: float = 0.3,
        max_expansion: float = 3.0,
        flip: float = 0.5,
        color_jitter: float = 0.0,
    ) -> None:
        """Set up the pipeline.

        Args:
            preprocessing: The model's; "stretch" or "letterbox".
            crop: Probability of a random crop.
            crop_by: "coverage" is TensorFlow's crop, see `coverage_crop`; "iou" is torchvision's, see `iou_crop`.
            expand: Probability of placing the image on a larger canvas of its ratio, which makes objects smaller (SSD,
                arXiv 1512.02325, section 3.6).
            max_expansion: Largest ratio of the canvas's sides to the image's.
            flip: Probability of a horizontal flip.
            color_jitter: Largest relative change of brightness, contrast and saturation, for half of the images.
        """
        for name, value in (("crop", crop), ("expand", expand), ("flip", flip)):
            if not 0 <= value <= 1:
                raise ConfigError(f"augmentation.{name}={value} is not a probability")
        if crop_by not in ("coverage", "iou"):
            raise ConfigError(f"augmentation.crop_by={crop_by} is unknown; valid: coverage, iou")
        if not 1 <= max_expansion <= 8:
            raise ConfigError(f"augmentation.max_expansion={max_expansion} is not in 1..8")
        if color_jitter < 0:
            raise ConfigError(f"augmentation.color_jitter={color_jitter} must not be negative")
        if preprocessing.resize == "crop":
            raise ConfigError("preprocessing.resize=crop would cut off objects; for detection: stretch, letterbox")
        self.preprocessing = preprocessing
        self.crop, self.crop_by = crop, crop_by
        self.expand, self.max_expansion = expand, max_expansion
        self.flip = flip
        span = (max(0.0, 1 - color_jitter), 1 + color_jitter)
        jitter = A.ColorJitter(brightness=span, contrast=span, saturation=span, hue=(-0.05, 0.05), p=0.5)
        self._photometric = A.Compose([jitter]) if color_jitter else None

    def __call__(self, sample: Sample, seed: int) -> Sample:
        """Augment image, boxes and mask by `seed`; what lies beyond the photo has no class."""
        cv2.setNumThreads(0)  # one thread per worker, which OpenCV's own would slow down
        objects = _NO_OBJECTS if sample.boxes is None else sample.boxes
        rng = np.random.default_rng(seed)
        expands, crops, flips = rng.random(3) < (self.expand, self.crop, self.flip)
        height, width = sample.image.shape[:2]
        left = top = 0
        if expands:
            ratio = rng.uniform(1.0, self.max_expansion)
            left, top = (int(rng.random() * (int(side * ratio) - side + 1)) for side in (width, height))
            height, width = int(height * ratio), int(width * ratio)
        boxes = objects.boxes + np.array([left, top] * 2, np.float32)
        window, kept = Window(0, 0, width, height), np.ones(len(boxes), bool)
        if crops:
            by_coverage = self.crop_by == "coverage"
            window, kept = (
                coverage_crop(boxes, height, width, rng) if by_coverage else iou_crop(boxes, height, width, seed)
            )
        image = self._render(sample.image, left, top, window)
        mask = None if sample.mask is None else self._render_mask(sample.mask, left, top, window)
        place = self.preprocessing.placement(window.bottom - window.top, window.right - window.left)
        limits = np.array([window.right - window.left, window.bottom - window.top] * 2, np.float32)
        boxes = np.clip(boxes[kept] - np.array(window[:2] * 2, np.float32), 0, limits)
        boxes *= np.array([place.width, place.height] * 2, np.float32) / limits
        if flips:
            image, boxes = _flip(image, boxes)
            mask = None if mask is None else np.ascontiguousarray(mask[:, ::-1])
        if self._photometric is not None:
            self._photometric.set_random_seed(seed)
            image = self._photometric(image=image)["image"]
        moved = None if sample.boxes is None else objects.take(kept, boxes)
        return replace(sample, image=image, boxes=moved, mask=mask)

    def _render(self, photo: NDArray[np.uint8], left: int, top: int, window: Window) -> NDArray[np.uint8]:
        """The network's input for a window of the canvas that has the photo at (left, top)."""
        shown, part = _visible(photo, left, top, window)
        if shown == window:
            return self.preprocessing.prepare(part)
        image = np.full((*self.preprocessing.image_size, 3), self.preprocessing.padding_value, np.uint8)
        if part.size:
            rows, columns = self._place(shown, window)
            image[rows, columns] = self.preprocessing.resized(
                part, rows.stop - rows.start, columns.stop - columns.start
            )
        return image

    def _render_mask(self, mask: NDArray[np.uint8], left: int, top: int, window: Window) -> NDArray[np.uint8]:
        """The mask of the network's input for that window, 255 beyond the photo."""
        shown, part = _visible(mask, left, top, window)
        done = np.full(self.preprocessing.image_size, IGNORE_INDEX, np.uint8)
        if part.size:
            rows, columns = self._place(shown, window)
            size = (columns.stop - columns.start, rows.stop - rows.start)
            done[rows, columns] = cv2.resize(part, size, interpolation=cv2.INTER_NEAREST_EXACT)
        return done

    def _place(self, part: Window, window: Window) -> tuple[slice, slice]:
        """Rows and columns of the network's input that a part of a window comes to lie on."""
        height, width = window.bottom - window.top, window.right - window.left
        place = self.preprocessing.placement(height, width)
        return (
            _span(part.top - window.top, part.bottom - window.top, height, place.height),
            _span(part.left - window.left, part.right - window.left, width, place.width),
        )


def _visible(pixels: NDArray[np.uint8], left: int, top: int, window: Window) -> tuple[Window, NDArray[np.uint8]]:
    """What a window shows of a photo, or mask, at (left, top): where that is on the canvas, and its pixels."""
    height, width = pixels.shape[:2]
    x1, x2 = max(window.left, left), min(window.right, left + width)
    y1, y2 = max(window.top, top), min(window.bottom, top + height)
    return Window(x1, y1, x2, y2), pixels[max(0, y1 - top) : max(0, y2 - top), max(0, x1 - left) : max(0, x2 - left)]


def _span(start: int, stop: int, length: int, resized: int) -> slice:
    """Where start..stop of a length is after resizing, at least one pixel."""
    first = min(round(start * resized / length), resized - 1)
    return slice(first, max(first + 1, round(stop * resized / length)))


def _flip(image: NDArray[np.uint8], boxes: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    width = np.float32(image.shape[1])
    turned = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)
    return np.asarray(cv2.flip(image, 1), np.uint8), turned
