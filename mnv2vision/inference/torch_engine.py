"""A model ready for inference in torch: batch norm folded, channels last, on a CPU with packed convolutions."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mnv2vision.backbones import fold_batch_norm
from mnv2vision.backbones.packing import pack_convolutions
from mnv2vision.contracts import Decoder, InferenceOptions, class_names
from mnv2vision.errors import ConfigError, keyword_names
from mnv2vision.inference.engine import OfHead, PredictingHead, Prediction, by_photo, check_options
from mnv2vision.models.shared_pass import shared_pass
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
        tasks = {head.task for head in model.config.heads.values()}
        check_options(options, tasks)
        _check_inference(options.get("inference"), tasks)
        try:
            self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:  # as torch tells of devices it was not built for
            raise ConfigError(f"device={device} cannot be used here ({str(error).splitlines()[0]})") from error
        self.preprocessing = model.preprocessing
        self.heads: Mapping[str, PredictingHead] = {
            name: PredictingHead(head.task, class_names(head)) for name, head in model.config.heads.items()
        }
        self.model: VisionModel = fold_batch_norm(model).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.device.type == "cpu":
            pack_convolutions(self.model)
        self._decoders: dict[str, Decoder[Any]] = {}
        for name, head in self.model.heads_in_use():
            kind = TASKS[head.config.task].decoder
            self._decoders[name] = kind(
                head, **{key: value for key, value in options.items() if key in keyword_names(kind)}
            )

    def remarks(self) -> list[str]:
        """What the predictions so far leave out, in a line each."""
        return [remark for decoder in self._decoders.values() for remark in decoder.remarks()]

    @torch.inference_mode()
    def predict(self, photos: Iterable[NDArray[np.uint8]]) -> Sequence[Prediction]:
        """See `Engine.predict`."""
        by_photo_itself = {name for name, decoder in self._decoders.items() if decoder.takes_photos}
        found: dict[str, list[OfHead]] = {name: [] for name in self._decoders}
        prepared, sizes = [], []
        for photo in photos:  # one at a time: a batch of large photos would not fit in memory
            if len(by_photo_itself) < len(found):
                prepared.append(self.preprocessing.prepare(photo))
            sizes.append(photo.shape[:2])
            for name in by_photo_itself:
                found[name] += self._decode({name}, self._tensor(photo[None]), sizes[-1:])[name]
        if prepared:
            images = self.preprocessing.normalize(self._tensor(np.stack(prepared)))
            found |= self._decode(found.keys() - by_photo_itself, images, sizes)
        return by_photo(found)

    def _tensor(self, images: NDArray[np.uint8]) -> Tensor:
        return torch.from_numpy(np.require(images, requirements=("C", "W"))).permute(0, 3, 1, 2).to(self.device)

    def _decode(self, heads: set[str], images: Tensor, sizes: Sequence[tuple[int, int]]) -> dict[str, list[OfHead]]:
        networks = shared_pass(self.model, heads)
        return {name: list(self._decoders[name](networks[name], images, sizes)) for name in heads}


def _check_inference(inference: object, tasks: Collection[str]) -> None:
    """Raise ConfigError for ways to look that none of the tasks has."""
    if not isinstance(inference, InferenceOptions):
        return
    if (inference.flip or list(inference.scales) != [1]) and "segmentation" not in tasks:
        raise ConfigError(f"inference.scales and inference.flip are for segmentation, not for {', '.join(tasks)}")
    if inference.window and tasks == {"classification"}:
        raise ConfigError("inference.window is for detection and segmentation, not for classification")
