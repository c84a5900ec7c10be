"""`mv.create_model` from weights that exist already."""

import logging
from pathlib import Path

import pytest
import torch

import mnv2vision as mv
from mnv2vision.errors import ConfigError, WeightsError


@pytest.fixture
def start(tmp_path: Path) -> Path:
    heads = {"classification": {"names": ("ant", "bee"), "dropout": 0.3}, "detection": {"num_classes": 3}}
    model = mv.create_model(
        heads, backbone="mobilenet_v1", width=0.25, padding="tf", preprocessing={"mean": (0.5, 0.5, 0.5)}
    )
    mv.save(model, tmp_path / "start.safetensors")
    return tmp_path / "start.safetensors"


def test_init_from(start: Path, caplog: pytest.LogCaptureFixture) -> None:
    theirs = mv.load(start)
    with caplog.at_level(logging.INFO):
        model = mv.create_model("classification", init_from=start, names=("cat", "dog"))
    assert "new, for classification instead of classification, detection" in caplog.text
    assert (model.config.backbone, model.names) == ("mobilenet_v1", ("cat", "dog"))
    assert model.config.backbone_options == theirs.config.backbone_options
    assert model.config.head.options == {"dropout": 0.3}
    assert model.preprocessing == theirs.preprocessing
    state = theirs.backbone.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.backbone.state_dict().items())


def test_what_is_said_stands_above_the_file(start: Path) -> None:
    model = mv.create_model("segmentation", init_from=start, num_classes=4, padding="symmetric", image_size=64)
    assert model.config.backbone_options == {"width": 0.25, "padding": "symmetric", "output_stride": 16}
    assert model.preprocessing.image_size == (64, 64)
    assert (model.preprocessing.mean, model.preprocessing.resize) == ((0.5, 0.5, 0.5), "letterbox")
    both = {"things": {"task": "detection", "num_classes": 3}, "classification": {"dropout": 0.1}}
    assert mv.create_model(both, init_from=start).config.heads["classification"].options == {"dropout": 0.1}


def test_weights_of_another_backbone(start: Path) -> None:
    with pytest.raises(ConfigError, match=r"backbone=mobilenet_v2, but .*start\.safetensors holds mobilenet_v1"):
        mv.create_model("classification", init_from=start, backbone="mobilenet_v2")
    with pytest.raises(WeightsError, match=r"start\.safetensors: backbone\.stem\.conv\.weight is"):
        mv.create_model("classification", init_from=start, width=1.0)
