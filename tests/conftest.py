"""What all tests share: one thread, a home of their own, and where the data beside the repository is."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

Randomize = Callable[[nn.Module], None]

ROOT = Path(__file__).parents[1]

# On tensors this small, threads spend their time waiting for one another: minutes, on a machine with other work.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNV2VISION_HOME", str(tmp_path / "mnv2vision_home"))
    monkeypatch.delenv("MNV2VISION_RUN_DIR", raising=False)  # a run without run_dir leaves it for its other processes


@pytest.fixture(scope="session")
def patience() -> float:
    """Seconds after which a test takes what it waits for to be stuck: a busy machine needs ten times as long."""
    return 900


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with official weights and data, which is no part of the repository."""
    folder = Path(os.environ.get("MNV2VISION_SHARED", ROOT / "../shared")).resolve()
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent (MNV2VISION_SHARED)")
    return folder


@torch.no_grad()
def _randomize(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)

    def uniform(tensor: torch.Tensor, low: float, high: float) -> None:
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            uniform(layer.weight, 0.5, 1.5)
            uniform(layer.running_var, 0.5, 1.5)
            uniform(layer.bias, -0.5, 0.5)
            uniform(layer.running_mean, -0.5, 0.5)
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            # Uniform in +-sqrt(6 / fan_in) keeps the signal's scale through ReLU, depthwise layers included.
            bound = (6 / layer.weight[0].numel()) ** 0.5
            uniform(layer.weight, -bound, bound)
            if layer.bias is not None:
                uniform(layer.bias, -0.5, 0.5)


@pytest.fixture(scope="session")
def randomize() -> Randomize:
    """Give a module random weights and random running statistics, the same ones every time."""
    return _randomize


@pytest.fixture(scope="session")
def exported() -> Callable[..., Path]:
    """Writes a model's folder, without the proof that `export` measures."""

    def exported(
        model: nn.Module, folder: Path, *, name: str = "onnx", layout: str = "NHWC", post: str = "raw"
    ) -> Path:
        from mnv2vision.deploy.export import Target, write
        from mnv2vision.deploy.graph import ExportGraph
        from mnv2vision.deploy.predict_script import predict_script
        from mnv2vision.deploy.written import ExportOptions

        folder.mkdir(parents=True)
        graph = ExportGraph(model, layout=layout, post=post)  # type: ignore[arg-type]
        bundle = write(graph, folder, Target(name, "float"), ExportOptions(), provenance={})
        if (script := predict_script(bundle)) is not None:
            (folder / "predict.py").write_text(script, encoding="utf-8")
        return folder

    return exported
