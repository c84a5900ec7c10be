"""Prediction for one image or many, with the model's own preprocessing."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mnv2vision.data.decoding import decode_image, decode_picture
from mnv2vision.errors import ConfigError, DataError
from mnv2vision.inference.bundle import is_bundle
from mnv2vision.inference.cached import RUNTIMES, check_runtime, export_once, fastest_export
from mnv2vision.inference.engine import Engine, PredictingHead, Prediction
from mnv2vision.predictions.detection import check_threshold

# torch is imported where a model needs it: exported ones do not.
if TYPE_CHECKING:
    import torch

    from mnv2vision.contracts import InferenceOptions
    from mnv2vision.models.vision_model import VisionModel

log = logging.getLogger(__name__)

ImageLike = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]


class Predictor:
    """A model ready for inference: in torch as it is fastest there, or an exported one in its runtime, without torch.

    Attributes:
        preprocessing: The model's.
        heads: Task and class names of each head, by its name.
        batch_size: Images at a time.
    """

    def __init__(
        self,
        model: "VisionModel | str | os.PathLike[str]",
        *,
        device: "str | torch.device | None" = None,
        batch_size: int = 16,
        score_threshold: float | str = 0.3,
        max_detections: int | None = None,
        inference: "InferenceOptions | None" = None,
        runtime: str = "auto",
    ) -> None:
        """Prepare the model, or a copy of it.

        Args:
            model: A model, which is left as it is; a model file; the folder of an exported model; or what else `load`
                takes.
            device: Where to run; the GPU if there is one, by default. Exported models run on the CPU.
            batch_size: Images at a time, where a list is given.
            score_threshold: Of detections, in 0..1: those with less are dropped; "auto": as the model recommends for
                each class.
            max_detections: How many objects are found on a photo at most, the best ones; None: as the model says.
            inference: Windows, for large photos; of segmentation also scales and flips.
            runtime: "torch"; "onnxruntime" or "openvino", which run a model file's export on the CPU, made once and
                kept in the cache; "auto": on a CPU the fastest of those kept, else torch.

        Raises:
            ConfigError: For options that cannot work.
            WeightsError: For a model that cannot be used.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size={batch_size} must be at least 1")
        check_threshold(score_threshold)
        self.batch_size = batch_size
        options: dict[str, object] = {"score_threshold": score_threshold, "max_detections": max_detections}
        self._engine: Engine
        exported = _exported(model, runtime, device, inference)
        if exported is not None:
            from mnv2vision.inference.exported import ExportedEngine

            self._engine = ExportedEngine(exported, options)
        else:
            from mnv2vision.inference.torch_engine import TorchEngine
            from mnv2vision.models.vision_model import VisionModel
            from mnv2vision.weights.registry import load

            loaded = model if isinstance(model, VisionModel) else load(model)
            self._engine = TorchEngine(loaded, device, {**options, "inference": inference})
        self.preprocessing, self.heads = self._engine.preprocessing, self._engine.heads

    @property
    def task(self) -> str:
        """The task of the only head; ConfigError where there are several."""
        return self._only.task

    @property
    def names(self) -> tuple[str, ...]:
        """Class names by label of the only head; ConfigError where there are several."""
        return self._only.names

    @property
    def _only(self) -> PredictingHead:
        if len(self.heads) > 1:
            raise ConfigError(f"the model has the heads {', '.join(self.heads)}: which is meant?")
        return next(iter(self.heads.values()))

    @property
    def model(self) -> "VisionModel":
        """The copy that torch runs; AttributeError for an exported model."""
        from mnv2vision.inference.torch_engine import TorchEngine

        if not isinstance(self._engine, TorchEngine):
            raise AttributeError("an exported model has no torch model")
        return self._engine.model

    @property
    def is_torch_on_cpu(self) -> bool:
        """Whether torch predicts, on the CPU, where an export is mostly faster."""
        return str(getattr(self._engine, "device", "")) == "cpu"  # which the engine of exported models lacks

    @overload
    def __call__(self, images: list[ImageLike]) -> list[Prediction]: ...

    @overload
    def __call__(self, images: ImageLike) -> Prediction: ...

    def __call__(self, images: ImageLike | list[ImageLike]) -> Prediction | list[Prediction]:
        """Predict.

        Args:
            images: A path, a PIL image or an (H, W, 3) uint8 RGB array; or a list of them.

        Returns:
            A `Classification`, `Detection` or `Segmentation`, as the model's task is; of a model with several heads
            `Answers`, with these by the heads' names; or a list of them.

        Raises:
            DataError: Naming the image that cannot be used.
        """
        before = self.remarks()
        many = images if isinstance(images, list) else [images]
        predictions = [
            prediction
            for start in range(0, len(many), self.batch_size)
            for prediction in self.predict_batch(many[start : start + self.batch_size])
        ]
        if not before:
            for remark in self.remarks():
                log.warning("%s (said once)", remark)
        return predictions if isinstance(images, list) else predictions[0]

    def remarks(self) -> list[str]:
        """What the predictions so far leave out, in a line each."""
        return self._engine.remarks()

    def predict_batch(self, images: Sequence[ImageLike]) -> Sequence[Prediction]:
        """Predict for some images at once; `remarks` are not told."""
        return self._engine.predict(as_array(image) for image in images)


def _exported(
    model: "VisionModel | str | os.PathLike[str]",
    runtime: str,
    device: "str | torch.device | None",
    inference: "InferenceOptions | None",
) -> Path | None:
    """The folder of the exported model that predicts; None where torch does. See `Predictor` for the arguments."""
    check_runtime(runtime)
    if not isinstance(model, str | os.PathLike):
        if runtime in RUNTIMES:
            raise ConfigError(f"runtime={runtime} runs model files and published names; save the model, or export it")
        return None
    exported = is_bundle(model)
    if exported and runtime != "auto":
        raise ConfigError(f"runtime={runtime}: {model} is exported, and has its own")
    if runtime == "torch":
        return None
    limit = _limit(device, inference)
    if exported or runtime != "auto":
        if limit is not None:
            raise ConfigError(limit)
        return Path(model) if exported else export_once(_file(model), runtime)
    folder = fastest_export(_file(model)) if limit is None else None
    if folder is None or (device is None and _has_gpu()):
        return None
    log.info("runtime: %s, by the export of %s in the cache", folder.name, model)
    return folder


def _limit(device: "str | torch.device | None", inference: "InferenceOptions | None") -> str | None:
    """What exported models cannot do of what is asked for."""
    if inference is not None:
        return "inference: exported models look at the whole photo once, without scales, flips and windows"
    if device is not None and str(device) != "cpu":
        return f"device={device}: exported models run on the CPU here"
    return None


def _file(model: str | os.PathLike[str]) -> Path:
    if Path(model).is_file():
        return Path(model)
    from mnv2vision.weights.registry import resolve

    return resolve(model)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def as_array(image: ImageLike) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of whatever holds an image."""
    if isinstance(image, str | os.PathLike):
        return decode_image(image)
    if isinstance(image, Image.Image):
        return decode_picture(image)
    is_array = isinstance(image, np.ndarray) and image.dtype == np.uint8
    if is_array and image.ndim == 3 and image.shape[2] == 3 and image.size:
        return image
    described = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
    hint = "; of 16 bits: (array >> 8).astype('uint8')" if described.startswith("uint16") else ""
    raise DataError(f"an image is a path, a PIL image or an (H, W, 3) uint8 RGB array, not {described}{hint}")
