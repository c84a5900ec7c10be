"""A model ready for inference in torch: batch norm folded, channels last, on a CPU with packed convolutions."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mnv2vision.backbones import fold_batch_norm
from mnv2vision.backbones.packing import pack_convolutions
from mnv2vision.contracts import Decoder, HeadInUse, class_names
from mnv2vision.errors import ConfigError, keyword_names
from mnv2vision.inference.engine import Prediction
from mnv2vision.models.tasks import TASKS
from mnv2vision.models.vision_model import VisionModel


class TorchEngine:
    """See `inference.engine.Engine`.

    Attributes:
        model: The copy that runs.
        device: Where.
    """

    def __init__(self, model: VisionModel, device: str | torch.device | None, options: dict[str, object]) -> None:
        """Prepare a copy of the model.

        Args:
            model: Left as it is.
            device: Where to run; the GPU if there is one, by default.
            options: Of the task's decoder, of which those of other tasks are left out.
        """
        if (channels := model.config.backbone_options.get("in_channels", 3)) != 3:
            raise ConfigError(f"in_channels={channels}: photos have 3 channels, and are predicted on")
        if options["max_detections"] is not None and model.task != "detection":
            raise ConfigError(f"max_detections is for detection, not for a model of {model.task}")
        try:
            self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:  # as torch tells of devices it was not built for
            raise ConfigError(f"device={device} cannot be used here ({str(error).splitlines()[0]})") from error
        self.preprocessing = model.preprocessing
        self.names = class_names(model.config.head)
        self.task = model.task
        self.model: VisionModel = fold_batch_norm(model).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.device.type == "cpu":
            pack_convolutions(self.model)
        kind = TASKS[model.task].decoder
        given = {key: value for key, value in options.items() if key in keyword_names(kind)}
        self._decoder: Decoder[Any] = kind(HeadInUse(self.model.head, model.config.head, model.preprocessing), **given)

    def remarks(self) -> list[str]:
        """What the predictions so far leave out, in a line each."""
        return self._decoder.remarks()

    @torch.inference_mode()
    def predict(self, photos: Iterable[NDArray[np.uint8]]) -> Sequence[Prediction]:
        """See `Engine.predict`."""
        if self._decoder.takes_photos:
            return [self._predict_photo(photo) for photo in photos]
        prepared, sizes = [], []
        for photo in photos:  # one at a time: a batch of large photos would not fit in memory
            prepared.append(self.preprocessing.prepare(photo))
            sizes.append(photo.shape[:2])
        batch = torch.from_numpy(np.stack(prepared)).permute(0, 3, 1, 2).to(self.device)
        return self._decoder(self.model, self.preprocessing.normalize(batch), sizes)

    def _predict_photo(self, photo: NDArray[np.uint8]) -> Prediction:
        image = torch.from_numpy(np.require(photo, requirements=("C", "W"))[None]).permute(0, 3, 1, 2).to(self.device)
        prediction: Prediction = self._decoder(self.model, image, [photo.shape[:2]])[0]
        return prediction
