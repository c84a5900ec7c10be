"""timm's MobileNets: the same outputs at random weights, both ways, and the counts of its deeper models."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import mnv2vision as mv
from mnv2vision.data.formats.imagenet import imagenet_names
from mnv2vision.errors import ConfigError, WeightsError
from mnv2vision.models.vision_model import VisionModel
from mnv2vision.weights.importers.from_timm import (
    MODELS,
    convert,
    create_model_arguments,
    export_state,
    import_classifier,
)

pytestmark = pytest.mark.slow

Randomize = Callable[[nn.Module], None]
TF_NAMES = [f"tf_mobilenetv3_{size}" for size in ("large_075", "large_100", "small_075", "small_100")]


def assert_same_outputs(ours: nn.Module, theirs: nn.Module) -> None:
    # In double precision, as random weights amplify the rounding, which other kernels do otherwise.
    x = torch.randn(2, 3, 64, 82, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    with torch.no_grad():
        a, b = ours.double()(x), theirs.double()(x)
    assert b.std() > 1e-3
    assert (a - b).abs().max() <= 1e-5 * b.abs().max()


@torch.no_grad()
def tame(model: nn.Module) -> None:
    """Bring V3's hidden layer to where hard-swish differs from ReLU; random weights make it hundreds."""
    hidden = model.head.hidden if isinstance(model, VisionModel) else getattr(model, "conv_head", None)
    if hidden is not None and hidden.bias is not None:
        hidden.weight /= 300


@pytest.mark.parametrize("name", [*MODELS, *TF_NAMES])
def test_outputs(name: str, tmp_path: Path, randomize: Randomize) -> None:
    tf = name.startswith("tf_")
    theirs = timm.create_model(name).eval()
    randomize(theirs)
    tame(theirs)
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    ours = convert("classification", tmp_path / "model.safetensors", **({"padding": "tf"} if tf else {}))
    assert_same_outputs(ours, theirs)
    assert not ours.training
    assert ours.names == imagenet_names()
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    # It can go on training with the same batch norm.
    our_norms, their_norms = (
        [(norm.eps, norm.momentum) for norm in model.modules() if isinstance(norm, nn.BatchNorm2d)]
        for model in (ours, theirs)
    )
    assert our_norms == their_norms
    # The preprocessing of its default weights; those of mobilenetv3_large_100 have others.
    wanted: Any = theirs.default_cfg
    got = ours.preprocessing
    if wanted["tag"] != "untrained" and name != "mobilenetv3_large_100":
        assert (got.mean, got.std, got.crop_fraction) == (wanted["mean"], wanted["std"], wanted["crop_pct"])
        assert (got.interpolation, got.image_size) == (wanted["interpolation"], wanted["input_size"][1:])


@pytest.mark.parametrize(("name", "millions"), [("mobilenetv2_110d", 4.52), ("mobilenetv2_120d", 5.83)])
def test_deeper_models_have_the_published_counts(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = mv.create_model("classification", **MODELS[name])
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == millions


@pytest.mark.parametrize("padding", ["tf", "symmetric"])
@pytest.mark.parametrize(
    "options",
    [
        {"width": 0.5},
        {"width": 1.1, "depth": 1.2, "fixed_ends": True},
        {"backbone": "mobilenet_v3_small", "width": 0.75, "norm_eps": 1e-4},
        {"backbone": "mobilenet_v3_large", "minimalistic": True},
    ],
)
def test_back_to_timm(options: dict[str, Any], padding: str, randomize: Randomize) -> None:
    ours = mv.create_model("classification", num_classes=9, padding=padding, **options).eval()
    randomize(ours)
    tame(ours)
    theirs = timm.create_model(**create_model_arguments(ours))
    theirs.load_state_dict(export_state(ours))
    assert_same_outputs(ours, theirs.eval())


def test_the_arguments_are_plain() -> None:
    model = mv.create_model("classification", num_classes=7, padding="tf", norm_eps=1e-3)
    assert create_model_arguments(model) == {
        "model_name": "mobilenetv2_100",
        "num_classes": 7,
        "pad_type": "same",
        "bn_eps": 1e-3,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 1.3}, "timm has no model with backbone=mobilenet_v2, width=1.3; it has mobilenetv2_035"),
        ({"width": 1.1, "depth": 1.2}, "timm has no model with backbone=mobilenet_v2, width=1.1, depth=1.2;"),
        ({"backbone": "mobilenet_v3_small", "width": 0.5, "minimalistic": True}, "width=0.5, minimalistic=True;"),
        ({"backbone": "mobilenet_v1"}, "timm has no model with backbone=mobilenet_v1;"),
        ({"variant": "paddle"}, "timm: its mobilenet_v2 does not support variant='paddle'"),
        ({"task": "detection", "num_classes": 3}, "only classifiers can be exported"),
    ],
)
def test_what_timm_cannot_compute(options: dict[str, Any], message: str) -> None:
    model = mv.create_model(**({"task": "classification"} | options))
    with pytest.raises(WeightsError, match=re.escape(message)):
        export_state(model)


def test_what_does_not_fit_is_named() -> None:
    state = timm.create_model("mobilenetv3_small_075", num_classes=7).state_dict()
    part = "blocks.3.1.se.conv_reduce.weight"
    shape = str(tuple(state[part].shape))
    with pytest.raises(
        WeightsError, match=rf"^x: lacks {part} {re.escape(shape)} .*mobilenet_v3_small, width=0\.75\)$"
    ):
        import_classifier({key: value for key, value in state.items() if key != part}, "x")
    with pytest.raises(WeightsError, match=rf"^x: {part} is \(1, 2\), but the model has {re.escape(shape)}"):
        import_classifier(state | {part: torch.zeros(1, 2)}, "x")
    with pytest.raises(WeightsError, match=r"^x: blocks\.9\.weight \(3,\) has no place in the model"):
        import_classifier(state | {"blocks.9.weight": torch.zeros(3)}, "x")
    with pytest.raises(WeightsError, match=r"^x: not a state of timm's"):
        import_classifier(timm.create_model("resnet18").state_dict(), "x")
    # A relative that timm's code shares, with other channels and norms.
    with pytest.raises(WeightsError, match=r"^x: .* \(closest: backbone="):
        import_classifier(timm.create_model("mobilenetv3_rw").state_dict(), "x")


@pytest.mark.parametrize("depth", [0, -1.2, float("nan"), "deep"])
def test_depths_that_are_none(depth: Any) -> None:
    with pytest.raises(ConfigError, match=r"depth=.* is not a depth multiplier"):
        mv.create_backbone("mobilenet_v2", depth=depth)
