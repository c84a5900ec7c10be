"""Models as programs of torch.export, for batches of any size."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mnv2vision as mv
from mnv2vision.contracts import RawDetections
from mnv2vision.detection.postprocess import detect

pytestmark = pytest.mark.slow


class Found(nn.Module):
    """A detector with its post-processing; without labels and counts, which a rounding may turn over."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(detect(self.model(images), max_detections=20))


def exported(model: nn.Module, images: Tensor) -> nn.Module:
    batch = torch.export.Dim("batch", min=1, max=64)
    return torch.export.export(model, (images,), dynamic_shapes={"images": {0: batch}}).module()


def parts(raw: Any) -> tuple[Tensor, ...]:
    """The tensors of a raw output."""
    return (raw.box_codes, raw.class_logits, raw.anchors) if isinstance(raw, RawDetections) else (raw,)


def batches(size: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(count, 3, size, size, generator=generator) for count in (2, 1, 5)]


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("classification", {}),
        ("detection", {}),
        ("segmentation", {}),
        ("segmentation", {"output_stride": 16, "atrous_rates": (2, 4)}),
        ("segmentation", {"head": "lraspp", "backbone": "mobilenet_v3_small", "width": 1.0}),
        ("classification", {"backbone": "mobilenet_v3_small", "padding": "tf"}),
        ("detection", {"backbone": "mobilenet_v1", "padding": "tf"}),
    ],
)
def test_a_batch_of_any_size(task: str, options: dict[str, Any], randomize: Callable[[nn.Module], None]) -> None:
    model = mv.create_model(task, **({"width": 0.35, "num_classes": 3, "image_size": 64} | options)).eval()
    randomize(model)
    inputs = batches(64)
    program = exported(model, inputs[0])
    for images in inputs:
        with torch.no_grad():
            ours, wanted = program(images), model(images)
        torch.testing.assert_close(parts(ours), parts(wanted), rtol=1e-3, atol=1e-3)


def test_detections_of_a_batch_of_any_size(randomize: Callable[[nn.Module], None]) -> None:
    model: Any = mv.create_model("detection", width=0.35, num_classes=3, image_size=64).eval()
    randomize(model)
    inputs = batches(64)
    program = exported(Found(model), inputs[0])
    for images in inputs:
        with torch.no_grad():
            found = program(images)
            wanted = detect(model(images), max_detections=20)
        assert wanted.counts.tolist() == [20] * len(images)
        for ours, theirs in zip(found, wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
