"""An exported model in the place of a torch model, for evaluation by the same decoding and evaluators."""

import os
from dataclasses import replace

import torch
from torch import Tensor

from mnv2vision.contracts import ModelConfig, Raw
from mnv2vision.errors import ConfigError, WeightsError
from mnv2vision.inference.bundle import Bundle
from mnv2vision.inference.exported import open_runtime
from mnv2vision.models.tasks import TASKS
from mnv2vision.models.vision_model import VisionModel

_PIXELS = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255, 1 / 255, 1 / 255)}


class ExportedModel(VisionModel):
    """A model whose `forward` runs the exported file; its own layers, of random weights, are of no use.

    Normalisation is in the file: the model's own preprocessing leaves pixel values as they are.

    Attributes:
        folder: Of the exported model.
        digest: Of its file.
    """

    def __init__(self, folder: str | os.PathLike[str], bundle: Bundle | None = None) -> None:
        """Open an exported model.

        Args:
            folder: Of the model.
            bundle: What `Bundle.read` gave of it; read by default.

        Raises:
            ConfigError: For finished answers (post=fixed), of which no evaluator's measure can be taken, or a missing
                runtime.
            WeightsError: For a folder that is damaged.
        """
        self.folder = str(folder)
        bundle = bundle or Bundle.read(folder)
        if bundle.post != "raw":
            raise ConfigError(f"{folder}: was exported with post={bundle.post}; evaluation needs post=raw")
        try:
            config = ModelConfig.from_dict(bundle.model)
            super().__init__(replace(config, preprocessing=replace(config.preprocessing, **_PIXELS)))  # type: ignore[arg-type]
        except (ConfigError, KeyError, TypeError, AttributeError) as error:
            raise WeightsError(f"{folder}: its model's description is damaged ({error})") from error
        self._bundle, self._runtime = bundle, open_runtime(folder, bundle)
        self.digest = bundle.sha256

    def forward(self, images: Tensor) -> Raw | dict[str, Raw]:
        """See `VisionModel.forward`.

        Args:
            images: (N, 3, H, W) pixel values, 0..255, of the size that the file was exported for.
        """
        if images.shape[-2:] != self.preprocessing.image_size:
            wanted, given = ("x".join(map(str, size)) for size in (self.preprocessing.image_size, images.shape[-2:]))
            raise ConfigError(f"{self.folder}: was exported for {wanted} pixels, not for {given}")
        pixels = images.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
        tensors = {name: torch.from_numpy(values) for name, values in self._runtime.run(pixels).items()}
        raw = {}
        for name, head in self._bundle.heads.items():
            outputs = {output: tensors[tensor].to(images.device) for output, tensor in head.outputs.items()}
            raw[name] = TASKS[head.task].export.raw(outputs, head.parameters)
        return raw if len(raw) > 1 else next(iter(raw.values()))

    def set_output_stride(self, output_stride: int) -> None:
        """Raise ConfigError: the file has the one that it was exported with."""
        raise ConfigError(f"model.output_stride={output_stride}: {self.folder} is exported, and keeps its own")
