"""Heads taken from a model, and models of one backbone made into one."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import mnv2vision as mv
from mnv2vision.contracts import RawDetections
from mnv2vision.errors import ConfigError
from mnv2vision.models.vision_model import VisionModel

HEADS: dict[str, dict[str, Any]] = {
    "classification": {"names": ("ant", "bee")},
    "faces": {"task": "detection", "num_classes": 1},
    "segmentation": {"num_classes": 3, "head_channels": 8},
}


@pytest.fixture
def joint(randomize: Callable[[nn.Module], None]) -> VisionModel:
    model = mv.create_model(HEADS, width=0.35, image_size=64).eval()
    randomize(model)
    return model


def tensors(raw: Any) -> list[torch.Tensor]:
    return [raw.box_codes, raw.class_logits] if isinstance(raw, RawDetections) else [raw]


def assert_equal(ours: Any, wanted: Any) -> None:
    assert all(torch.equal(*pair) for pair in zip(tensors(ours), tensors(wanted), strict=True))


@torch.no_grad()
def test_a_head_alone(joint: VisionModel) -> None:
    images = torch.randn(2, 3, 64, 64)
    raw = joint(images)
    for name in HEADS:
        alone = joint.only(name)
        assert list(alone.heads) == [name]
        assert not alone.training
        assert_equal(alone(images), raw[name])
    assert "last" not in dict(joint.only("segmentation").backbone.named_children())
    two = joint.only("segmentation", "classification")(images)
    assert list(two) == ["segmentation", "classification"]
    with pytest.raises(ConfigError, match="no head 'boxes'; valid: classification, faces, segmentation"):
        joint.only("boxes")


def test_a_copy(joint: VisionModel) -> None:
    alone = joint.only("classification")
    with torch.no_grad():
        next(alone.parameters()).zero_()
    assert not torch.equal(next(alone.parameters()), next(joint.parameters()))


def test_joined_again(joint: VisionModel) -> None:
    again = mv.join({name: joint.only(name) for name in HEADS})
    assert again.config == joint.config
    state = again.state_dict()
    assert state.keys() == joint.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in joint.state_dict().items())


@torch.no_grad()
def test_names_of_ones_own(joint: VisionModel) -> None:
    model = mv.join({"kind": joint.only("classification"), "again": joint.only("classification")})
    images = torch.randn(1, 3, 64, 64)
    assert_equal(model(images)["again"], joint(images)["classification"])


def test_backbones_that_differ(joint: VisionModel) -> None:
    one, other = joint.only("classification"), joint.only("faces")
    with torch.no_grad():
        other.backbone.get_parameter("block3.project.conv.weight").add_(1e-6)
    with pytest.raises(
        ConfigError, match=r"backbone\.block3\.project\.conv\.weight of classification and faces differ"
    ):
        mv.join({"classification": one, "faces": other})
    wide = mv.create_model("detection", width=0.5, num_classes=1, image_size=64, output_stride=16)
    with pytest.raises(ConfigError, match=r"the backbones differ: width is 0\.35 in classification, 0\.5 in faces"):
        mv.join({"classification": one, "faces": wide})
    with pytest.raises(ConfigError, match="which is meant"):
        mv.join({"all": joint})
    with pytest.raises(ConfigError, match="at least one"):
        mv.join({})


def test_images_that_differ(joint: VisionModel) -> None:
    one, other = joint.only("classification"), joint.only("faces")
    other.preprocessing = replace(other.preprocessing, image_size=(96, 96))
    with pytest.raises(ConfigError, match=r"want different images \(image_size \(64, 64\), \(96, 96\)\)"):
        mv.join({"classification": one, "faces": other})
    model = mv.join({"classification": one, "faces": other}, preprocessing=other.preprocessing)
    assert model.preprocessing.image_size == (96, 96)
