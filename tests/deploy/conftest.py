"""Small models of every task, and what describes their exported files."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import mnv2vision as mv
from mnv2vision.deploy.graph import ExportGraph
from mnv2vision.deploy.written import ExportOptions, Written
from mnv2vision.inference.bundle import Bundle
from mnv2vision.models.tasks import TASKS
from mnv2vision.models.vision_model import VisionModel
from mnv2vision.training.quantization import FakeQuantization

Describe = Callable[..., Bundle]
Models = dict[str, VisionModel]
Outputs = dict[str, NDArray[Any]]


@pytest.fixture(scope="session")
def models(randomize: Callable[[nn.Module], None]) -> Models:
    made = {
        "classification": mv.create_model("classification", width=0.35, depth=0.5, num_classes=10, image_size=64),
        "detection": mv.create_model("detection", width=0.35, depth=0.5, num_classes=3, image_size=96, padding="tf"),
        "segmentation": mv.create_model("segmentation", width=0.35, depth=0.5, num_classes=5, image_size=65),
    }
    for model in made.values():
        randomize(model)
        model.eval()
    (head,) = made["classification"].config.heads.values()
    calibrated = {"classification": replace(head, temperature=1.7)}  # every format must divide by it
    made["classification"].config = replace(made["classification"].config, heads=calibrated)
    return made


def images(count: int, model: VisionModel) -> NDArray[np.uint8]:
    """Smooth pictures, of which photos have more than noise."""
    height, width = model.preprocessing.image_size
    cells = torch.rand((count, 3, 5, 5), generator=torch.Generator().manual_seed(0))
    pictures = nn.functional.interpolate(cells, size=(height, width), mode="bicubic").clamp(0, 1) * 255
    return pictures.permute(0, 2, 3, 1).round().to(torch.uint8).numpy()


@pytest.fixture(scope="session")
def pictures() -> Callable[[int, VisionModel], NDArray[np.uint8]]:
    return images


@pytest.fixture(scope="session")
def describe() -> Describe:
    def describe(kind: str, written: Written, graph: ExportGraph, options: ExportOptions) -> Bundle:
        """As far as runtimes read it."""
        rest: dict[str, Any] = {"heads": {}, "preprocessing": {}, "steps": (), "model": {}}
        return Bundle(
            format=kind,
            precision=options.precision,
            file="",
            sha256="",
            input=written.input,
            layout=graph.layout,
            post=graph.post,
            outputs=written.outputs,
            **rest,
        )

    return describe


@pytest.fixture(scope="session")
def noise_ratio() -> Callable[[Outputs, Outputs], float]:
    """Signal to noise in dB, of the worst output."""

    def ratio(found: Outputs, expected: Outputs) -> float:
        return min(
            10 * np.log10(values.var() / np.square(found[name] - values).mean()) for name, values in expected.items()
        )

    return ratio


@pytest.fixture(scope="session")
def int8_noise_ratio(noise_ratio: Callable[[Outputs, Outputs], float]) -> Callable[..., float]:
    """That of 8 bits as such: of the model with weights and activations rounded by torch, over the images' ranges."""

    @torch.no_grad()
    def ratio(model: VisionModel, images: NDArray[np.uint8]) -> float:
        kind = TASKS[model.task].export
        batch = model.preprocessing.normalize(torch.from_numpy(images).permute(0, 3, 1, 2))
        rounded = FakeQuantization(model, model.preprocessing.image_size).eval()
        found, expected = (
            {name: tensor.numpy() for name, tensor in kind.outputs(raw).items()}
            for raw in (rounded(model, batch), model(batch))
        )
        return noise_ratio(found, expected)

    return ratio
