"""The temperature of a classifier: found at the end of training, kept in its file, and used wherever it answers."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import mnv2vision as mv
from mnv2vision.cli.main import main
from mnv2vision.contracts import HeadConfig
from mnv2vision.errors import ConfigError

NAMES = ("ant", "bee", "fly")


def metrics(folder: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((folder / "metrics.json").read_text())
    return found


@pytest.fixture
def model(randomize: Callable[[nn.Module], None]) -> Any:
    model = mv.create_model("classification", width=0.35, names=NAMES, image_size=64)
    randomize(model)
    return model.eval()


def with_temperature(model: Any, temperature: float) -> Any:
    heads = {name: replace(head, temperature=temperature) for name, head in model.config.heads.items()}
    model.config = replace(model.config, heads=heads)
    return model


def test_logits_are_divided_in_evaluation_alone(model: Any, tmp_path: Path) -> None:
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    photo = np.random.default_rng(0).integers(0, 256, (80, 90, 3), dtype=np.uint8)
    with torch.no_grad():
        before = model(images)
    scores = np.log(mv.Predictor(model)(photo).scores)  # type: ignore[union-attr]
    mv.save(with_temperature(model, 2.5), tmp_path / "a.safetensors")
    kept = mv.load(tmp_path / "a.safetensors")
    assert kept.config.head.temperature == 2.5
    with torch.no_grad():
        assert torch.allclose(kept.eval()(images), before / 2.5, atol=1e-5)
        for layer in kept.modules():
            layer.training = isinstance(layer, type(kept))  # batch norm and dropout as in evaluation
        assert torch.allclose(kept(images), before, atol=1e-5)
    calm = np.log(mv.Predictor(tmp_path / "a.safetensors", runtime="torch")(photo).scores)  # type: ignore[union-attr]
    assert calm - calm.max() == pytest.approx((scores - scores.max()) / 2.5, abs=1e-4)


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "2"])
def test_no_temperature(value: Any) -> None:
    with pytest.raises(ConfigError, match="temperature="):
        HeadConfig("classification", 3, temperature=value)


def test_of_classification_alone() -> None:
    with pytest.raises(ConfigError, match=r"temperature=2\.0 is for classification, not for detection"):
        HeadConfig("detection", 3, temperature=2.0)


@pytest.mark.slow
def test_training_keeps_it(tiny: tuple[str, ...], tmp_path: Path) -> None:
    given = [argument for argument in tiny if not argument.startswith(("dataset.", "optimizer."))]
    data = ("dataset.image_size=48", "dataset.train_size=160")
    for size in (60, 150):
        run = tmp_path / str(size)
        own = (*data, f"dataset.val_size={size}")
        assert (
            main(
                [
                    "train",
                    *given,
                    *own,
                    "optimizer.name=adamw",
                    "optimizer.lr=0.003",
                    "trainer.max_epochs=6",
                    f"run_dir={run}",
                ]
            )
            == 0
        )
        found, kept = metrics(run), mv.load(run / "model.safetensors").config.head.temperature
        if size == 60:
            assert kept == 1
            continue
        assert kept == pytest.approx(found["temperature"])
        assert kept != 1
        assert main(["eval", f"run={run}", f"run_dir={tmp_path}/eval", "loader.workers=0"]) == 0
        again = metrics(tmp_path / "eval")
        assert again["top1"] == found["top1"]
        assert again["ece"] == pytest.approx(found["ece_calibrated"], abs=1e-3)
        assert again["temperature"] == pytest.approx(1, abs=1e-2)
