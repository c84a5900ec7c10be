"""Prediction for one image or many, with the model's own preprocessing."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from mnv2vision.backbones import fold_batch_norm
from mnv2vision.backbones.packing import pack_convolutions
from mnv2vision.data.decoding import decode_image
from mnv2vision.errors import ConfigError, DataError
from mnv2vision.vision_model import VisionModel

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


class Predictor:
    """A model ready for inference: batch norm folded, channels last, on a CPU with packed convolutions."""

    def __init__(self, model: VisionModel, *, device: str | torch.device | None = None, batch_size: int = 16) -> None:
        """Prepare a copy of the model.

        Args:
            model: Left as it is.
            device: Where to run; the GPU if there is one, by default.
            batch_size: Images at a time, where a list is given.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size={batch_size} must be at least 1")
        try:
            self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:  # as torch tells of devices it was not built for
            raise ConfigError(f"device={device} cannot be used here ({str(error).splitlines()[0]})") from error
        self.preprocessing = model.preprocessing
        self.names = model.names or tuple(f"class {label}" for label in range(model.num_classes))
        self.batch_size = batch_size
        self.model = fold_batch_norm(model).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.device.type == "cpu":
            pack_convolutions(self.model)

    @overload
    def __call__(self, images: ImageLike) -> Classification: ...

    @overload
    def __call__(self, images: list[ImageLike]) -> list[Classification]: ...

    def __call__(self, images: ImageLike | list[ImageLike]) -> Classification | list[Classification]:
        """Predict.

        Args:
            images: A path, a PIL image or an (H, W, 3) uint8 RGB array; or a list of them.

        Returns:
            A prediction, or a list of them.

        Raises:
            DataError: Naming the image that cannot be used.
        """
        if isinstance(images, list):
            return [
                prediction
                for start in range(0, len(images), self.batch_size)
                for prediction in self._predict(images[start : start + self.batch_size])
            ]
        return self._predict([images])[0]

    @torch.inference_mode()
    def _predict(self, images: Sequence[ImageLike]) -> list[Classification]:
        prepared = np.stack([self.preprocessing.prepare(as_array(image)) for image in images])
        batch = torch.from_numpy(prepared).permute(0, 3, 1, 2).to(self.device)
        logits = self.model(self.preprocessing.normalize(batch))
        return [Classification(scores, self.names) for scores in logits.softmax(1).cpu().numpy()]


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
