"""Prediction for one image or many, with the model's own preprocessing."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from mnv2vision.backbones import fold_batch_norm
from mnv2vision.backbones.packing import pack_convolutions
from mnv2vision.data.decoding import decode_image
from mnv2vision.detection.model import SSDLite
from mnv2vision.detection.postprocess import check_max_detections, detect
from mnv2vision.detection.results import to_photos
from mnv2vision.errors import ConfigError, DataError
from mnv2vision.segmentation.inference import InferenceOptions, probabilities, sliding_window, to_masks
from mnv2vision.vision_model import VisionModel

log = logging.getLogger(__name__)

ImageLike = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]


@dataclass(frozen=True)
class Classification:
    """A photo's class.

    Attributes:
        scores: (C,) float32 probabilities.
        names: Class names by label.
    """

    scores: NDArray[np.float32]
    names: tuple[str, ...]

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """The k best classes with their probabilities, best first."""
        order = np.argsort(-self.scores, kind="stable")[:k]
        return [(self.names[label], float(self.scores[label])) for label in order]


@dataclass(frozen=True)
class Detection:
    """A photo's objects, best first.

    Attributes:
        boxes: (n, 4) float32 (x1, y1, x2, y2) in the photo's pixels.
        scores: (n,) float32 in 0..1.
        labels: (n,) int64.
        names: Class names by label.
    """

    boxes: NDArray[np.floating]
    scores: NDArray[np.floating]
    labels: NDArray[np.int64]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Segmentation:
    """A photo's classes by pixel.

    Attributes:
        mask: (H, W) uint8 labels, of the photo's size.
        names: Class names by label.
    """

    mask: NDArray[np.uint8]
    names: tuple[str, ...]

    def shares(self) -> list[tuple[str, float]]:
        """The classes that occur, with their share of the photo's pixels, largest first."""
        counts = np.bincount(self.mask.ravel(), minlength=len(self.names))
        order = np.argsort(-counts, kind="stable")
        return [(self.names[label], float(counts[label] / self.mask.size)) for label in order if counts[label]]


Prediction = Classification | Detection | Segmentation


class Predictor:
    """A model ready for inference: batch norm folded, channels last, on a CPU with packed convolutions.

    Attributes:
        crowded: Photos so far on which `max_detections` left objects out.
    """

    def __init__(
        self,
        model: VisionModel,
        *,
        device: str | torch.device | None = None,
        batch_size: int = 16,
        score_threshold: float = 0.3,
        max_detections: int | None = None,
        inference: InferenceOptions | None = None,
    ) -> None:
        """Prepare a copy of the model.

        Args:
            model: Left as it is.
            device: Where to run; the GPU if there is one, by default.
            batch_size: Images at a time, where a list is given.
            score_threshold: Of detections, in 0..1: those with less are dropped.
            max_detections: How many objects are found on a photo at most, the best ones; None: as the model says.
            inference: Of segmentation: scales, flips and windows.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size={batch_size} must be at least 1")
        if not 0 <= score_threshold <= 1:
            raise ConfigError(f"score_threshold={score_threshold} is not in 0..1")
        if max_detections is not None and model.task != "detection":
            raise ConfigError(f"max_detections is for detection, not for a model of {model.task}")
        self.crowded = 0
        self.score_threshold = score_threshold
        self.inference = inference or InferenceOptions()
        try:
            self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:  # as torch tells of devices it was not built for
            raise ConfigError(f"device={device} cannot be used here ({str(error).splitlines()[0]})") from error
        self.preprocessing = model.preprocessing
        self.names = model.names or tuple(f"class {label}" for label in range(model.num_classes))
        self.batch_size = batch_size
        self.task = model.task
        self.model: Any = fold_batch_norm(model).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if max_detections is not None:
            self.model.max_detections = check_max_detections(max_detections)
        if self.device.type == "cpu":
            pack_convolutions(self.model)

    @overload
    def __call__(self, images: list[ImageLike]) -> list[Any]: ...

    @overload
    def __call__(self, images: ImageLike) -> Any: ...

    def __call__(self, images: ImageLike | list[ImageLike]) -> Any:
        """Predict.

        Args:
            images: A path, a PIL image or an (H, W, 3) uint8 RGB array; or a list of them.

        Returns:
            A `Classification`, `Detection` or `Segmentation`, as the model's task is; or a list of them.

        Raises:
            DataError: Naming the image that cannot be used.
        """
        before = self.crowded
        many = images if isinstance(images, list) else [images]
        predictions = [
            prediction
            for start in range(0, len(many), self.batch_size)
            for prediction in self.predict_batch(many[start : start + self.batch_size])
        ]
        if self.crowded and not before:
            log.warning("%s (said once)", self.told_crowded())
        return predictions if isinstance(images, list) else predictions[0]

    def told_crowded(self) -> str:
        """How many photos had more objects than `max_detections`, in a line."""
        photos = "1 photo has" if self.crowded == 1 else f"{self.crowded} photos have"
        return f"{photos} more than max_detections={self.model.max_detections} objects: the best are kept"

    @torch.inference_mode()
    def predict_batch(self, images: Sequence[ImageLike]) -> Sequence[Prediction]:
        """Predict for some images at once; what `crowded` counts is not told."""
        photos = [as_array(image) for image in images]
        if self.task == "segmentation" and self.inference.window:
            return [self._through_windows(photo) for photo in photos]
        prepared = np.stack([self.preprocessing.prepare(photo) for photo in photos])
        batch = torch.from_numpy(prepared).permute(0, 3, 1, 2).to(self.device)
        normalized = self.preprocessing.normalize(batch)
        if self.task == "segmentation":
            scores = probabilities(self.model.pixel_logits, normalized, self.inference)
            masks = to_masks(scores, self.preprocessing, [photo.shape[:2] for photo in photos])
            return [Segmentation(mask.cpu().numpy(), self.names) for mask in masks]
        raw = self.model(normalized)
        if self.task == "detection":
            return self._detections(raw, [photo.shape[:2] for photo in photos])
        return [Classification(scores, self.names) for scores in raw.softmax(1).cpu().numpy()]

    def _through_windows(self, photo: NDArray[np.uint8]) -> Segmentation:
        image = torch.from_numpy(np.ascontiguousarray(photo)[None]).permute(0, 3, 1, 2).to(self.device)
        size = self.preprocessing.image_size
        normalized = self.preprocessing.normalize(image)
        scores = sliding_window(self.model.pixel_logits, normalized, size, self.inference)
        return Segmentation(scores[0].argmax(0).to(torch.uint8).cpu().numpy(), self.names)

    def _detections(self, raw: Any, sizes: list[tuple[int, int]]) -> list[Detection]:
        model: SSDLite = self.model
        limit = model.max_detections
        found = detect(
            raw.box_codes,
            raw.class_logits,
            model.anchors,
            scores=model.scores,
            nms_iou=model.nms_iou,
            score_threshold=self.score_threshold,
            max_detections=limit + 1,  # one more, to see whether any are left out
        )
        self.crowded += int((found.counts > limit).sum())
        return [
            Detection(item.boxes[:limit], item.scores[:limit], item.labels[:limit], self.names)
            for item in to_photos(found, self.preprocessing, sizes)
        ]


def as_array(image: ImageLike) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of whatever holds an image."""
    if isinstance(image, str | os.PathLike):
        return decode_image(image)
    if isinstance(image, Image.Image):
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    is_array = isinstance(image, np.ndarray) and image.dtype == np.uint8
    if is_array and image.ndim == 3 and image.shape[2] == 3 and image.size:
        return image
    described = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
    raise DataError(f"an image is a path, a PIL image or an (H, W, 3) uint8 RGB array, not {described}")
