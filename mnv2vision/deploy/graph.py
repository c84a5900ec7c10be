"""What is exported: a model with its normalisation, from pixel values to named tensors."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from mnv2vision.backbones import fold_batch_norm
from mnv2vision.contracts import Raw
from mnv2vision.errors import ConfigError
from mnv2vision.models.tasks import TASKS
from mnv2vision.models.vision_model import VisionModel

Layout = Literal["NHWC", "NCHW"]
Post = Literal["raw", "fixed"]


class ExportGraph(nn.Module):
    """A model as its exported file computes it, with batch norm folded.

    Attributes:
        model: A folded copy, of the heads that are exported.
        output_names: Of what `forward` returns, in its order.
    """

    def __init__(self, model: VisionModel, *, layout: Layout = "NHWC", post: Post = "raw") -> None:
        """Prepare a copy of the model.

        Args:
            model: Left as it is.
            layout: Of the input.
            post: "raw": the heads' outputs; "fixed": finished answers of a fixed shape.
        """
        super().__init__()
        self.model = fold_batch_norm(model).eval()
        self.layout, self.post = layout, post
        preprocessing = model.preprocessing
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("offset", -mean / std)
        with torch.no_grad():
            self.output_names = tuple(self._named(self.example(1)))

    def example(self, batch: int, dtype: torch.dtype = torch.uint8) -> Tensor:
        """Images of noise that the graph takes."""
        height, width = self.model.preprocessing.image_size
        shape = (batch, height, width, 3) if self.layout == "NHWC" else (batch, 3, height, width)
        return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).to(dtype)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Tensors by `output_names`.

        Args:
            images: Pixel values 0..255, uint8 or float32, (N, H, W, 3) or (N, 3, H, W).
        """
        return tuple(self._named(images).values())

    def raw(self, images: Tensor) -> dict[str, Raw]:
        """The heads' raw outputs by name."""
        if self.layout == "NHWC":
            images = images.permute(0, 3, 1, 2)
        assert isinstance(self.scale, Tensor)
        assert isinstance(self.offset, Tensor)
        raw = self.model(images.float() * self.scale + self.offset)
        return raw if isinstance(raw, dict) else {next(iter(self.model.config.heads)): raw}

    def _named(self, images: Tensor) -> dict[str, Tensor]:
        named: dict[str, Tensor] = {}
        for name, raw in self.raw(images).items():
            kind, head = TASKS[self.model.config.heads[name].task].export, self.model.heads[name]
            if self.post == "raw":
                outputs = kind.outputs(raw)
            else:
                outputs = kind.fixed(head, raw, self.model.preprocessing.image_size)  # type: ignore[arg-type]
            named |= {self.tensor_name(name, output): tensor for output, tensor in outputs.items()}
        return named

    def tensor_name(self, head: str, output: str) -> str:
        """Name of a head's output in the graph: with the head's before it, where there are several."""
        return output if len(self.model.config.heads) == 1 else f"{head}.{output}"


def only_heads(model: VisionModel, heads: Sequence[str]) -> VisionModel:
    """A model of some of the heads, on the same weights; ConfigError for unknown names."""
    if unknown := [name for name in heads if name not in model.config.heads]:
        raise ConfigError(f"heads={unknown}: unknown; the model has {', '.join(model.config.heads)}")
    config = replace(model.config, heads={name: model.config.heads[name] for name in heads})
    kept = VisionModel(config)
    state = {name: tensor for name, tensor in model.state_dict().items() if name in kept.state_dict()}
    kept.load_state_dict(state)
    return kept.eval()
