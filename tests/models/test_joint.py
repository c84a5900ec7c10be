"""One backbone with several heads, against the models of one head with the same weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mnv2vision as mv
from mnv2vision.contracts import RawDetections
from mnv2vision.errors import ConfigError
from mnv2vision.weights import file

Randomize = Callable[[nn.Module], None]
HEADS: dict[str, dict[str, Any]] = {
    "classification": {"names": ("ant", "bee", "cat", "dog")},
    "detection": {"num_classes": 3, "max_detections": 7},
    "segmentation": {"num_classes": 5, "atrous_rates": (2, 4), "head_channels": 16},
}
OUTPUT_STRIDE = 16  # for all alike


def images(*size: int) -> Tensor:
    """In double precision, as random weights amplify the rounding."""
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def joint(randomize: Randomize) -> Any:
    model = mv.create_model(HEADS, width=0.35, image_size=(64, 96), output_stride=OUTPUT_STRIDE).eval()
    randomize(model)
    return model.double()


def single(joint: Any, name: str, output_stride: int = OUTPUT_STRIDE) -> Any:
    """The model of one head, with weights of the joint one, every one of its own used."""
    options: dict[str, Any] = {"width": 0.35, "image_size": (64, 96), "output_stride": output_stride}
    model = mv.create_model(name, **options, **HEADS[name]).eval().double()
    state = joint.state_dict()
    model.load_state_dict({key: state[key] for key in model.state_dict()})
    return model


def parts(raw: Any) -> tuple[Tensor, ...]:
    return (raw.box_codes, raw.class_logits, raw.anchors) if isinstance(raw, RawDetections) else (raw,)


def assert_equal(ours: Any, wanted: Any) -> None:
    assert type(ours) is type(wanted)
    for part, other in zip(parts(ours), parts(wanted), strict=True):
        assert part.isfinite().all()
        torch.testing.assert_close(part, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", HEADS)
def test_each_head_gives_what_it_gives_alone(name: str, joint: Any) -> None:
    alone = single(joint, name)
    for size in ((64, 96), (97, 65)):
        with torch.no_grad():
            ours, wanted = joint(images(*size)), alone(images(*size))
        assert list(ours) == list(HEADS)
        assert parts(wanted)[-2 if name == "detection" else 0].std() > 0.1
        assert_equal(ours[name], wanted)


def test_weights_are_those_of_the_single_models(joint: Any) -> None:
    """None more, none less: the backbone is there once."""
    names = {key for name in HEADS for key in single(joint, name).state_dict()}
    assert set(joint.state_dict()) == names
    assert {key.split(".")[1] for key in names if key.startswith("heads.")} == set(HEADS)


def test_taps_are_the_union(joint: Any) -> None:
    taps = [single(joint, name).backbone.taps for name in HEADS]
    assert taps == [("last",), ("block13.expand", "last"), ("block16",)]
    assert joint.backbone.taps == ("last", "block13.expand", "block16")


@pytest.mark.parametrize("output_stride", [8, 32])
def test_set_output_stride(output_stride: int, joint: Any) -> None:
    joint.set_output_stride(output_stride)
    assert joint.config.backbone_options["output_stride"] == output_stride
    with torch.no_grad():
        raw = joint(images(64, 96))
        for name in HEADS:
            assert_equal(raw[name], single(joint, name, output_stride)(images(64, 96)))
    assert raw["segmentation"].shape[-2:] == (64 // output_stride, 96 // output_stride)
    assert joint.heads["segmentation"].stride == output_stride
    with pytest.raises(ConfigError, match="output_stride=4"):
        joint.set_output_stride(4)
    with torch.no_grad():
        assert_equal(joint(images(64, 96))["segmentation"], raw["segmentation"])


def test_save_and_load(joint: Any, tmp_path: Path) -> None:
    joint = joint.float()
    joint.set_output_stride(8)
    path = tmp_path / "joint.safetensors"
    file.save(joint, path)
    loaded = file.load(path)
    assert json.dumps(loaded.config.to_dict(), sort_keys=True) == json.dumps(joint.config.to_dict(), sort_keys=True)
    assert set(loaded.heads) == set(HEADS)
    assert loaded.config.heads["classification"].names == ("ant", "bee", "cat", "dog")
    state = loaded.state_dict()
    assert state.keys() == joint.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in joint.state_dict().items())
    with torch.no_grad():
        ours, wanted = loaded.double()(images(64, 96)), joint.double()(images(64, 96))
    for name in HEADS:
        assert_equal(ours[name], wanted[name])


@pytest.mark.parametrize("what", ["head", "task", "names", "num_classes"])
def test_which_head_is_meant(what: str, joint: Any) -> None:
    with pytest.raises(ConfigError, match=r"heads classification, detection, segmentation: which is meant\?"):
        getattr(joint, what)


@pytest.mark.slow
def test_complexity(joint: Any) -> None:
    """The backbone's once, and the heads'."""
    size = (64, 96)
    joint = joint.float()
    ours = mv.complexity(joint, size)
    backbone = mv.complexity(joint.backbone, size)
    singles = [single(joint, name).float() for name in HEADS]
    own = [(mv.complexity(model, size), mv.complexity(model.backbone, size)) for model in singles]
    assert ours.params == backbone.params + sum(model.params - below.params for model, below in own)
    assert ours.madds == backbone.madds + sum(model.madds - below.madds for model, below in own)
    assert ours.params == sum(parameter.numel() for parameter in joint.parameters())
    assert ours.peak_activation_bytes >= max(model.peak_activation_bytes for model, _ in own)


def test_trains(joint: Any) -> None:
    """The gradients of all heads meet in the backbone."""
    raw = joint.train()(images(64, 96))
    total: Any = sum((part * torch.randn_like(part)).sum() for value in raw.values() for part in parts(value)[:2])
    total.backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in joint.parameters())


def test_two_heads_of_a_task() -> None:
    """Named as one likes, with the task told."""
    heads: dict[str, dict[str, object]] = {
        "kind": {"task": "classification", "num_classes": 3},
        "color": {"task": "classification", "num_classes": 5, "taps": ("block5",)},
    }
    model: Any = mv.create_model(heads, width=0.35, image_size=64).eval()
    with torch.no_grad():
        raw = model(images(64, 64).float())
    assert {name: tuple(logits.shape) for name, logits in raw.items()} == {"kind": (2, 3), "color": (2, 5)}
    assert model.backbone.taps == ("last", "block5")


@pytest.mark.parametrize(
    ("heads", "options", "message"),
    [
        *(({name: {"task": "classification"}}, {}, "cannot be the name of a head") for name in ("a.b", "", "type", 1)),
        ({"classification": {}}, {"taps": ("last",)}, "taps are given by head"),
        ({"classification": {"taps": "last"}}, {}, "taps='last' must be a list of names"),
        ({"classification": {"names": 3}}, {}, "names=3 must be a list of names"),
        ({"classification": 3}, {}, "several heads are given as"),
    ],
)
def test_heads_that_cannot_be(heads: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mv.create_model(heads, width=0.35, **options)


def test_a_head_is_found_by_its_task(tmp_path: Path) -> None:
    """Weights of a detector whose head has a name of its own start another, all of it."""
    heads = {"objects": {"task": "detection", "names": ("a", "b")}, "classification": {"num_classes": 3}}
    joint = mv.create_model(heads, width=0.35, image_size=64)
    mv.save(joint, tmp_path / "joint.safetensors")
    detector = mv.create_model("detection", names=("a", "b"), width=0.35, image_size=64)
    line = file.initialize_from(detector, file.read(tmp_path / "joint.safetensors"), "joint")
    assert "new" not in line
    state = joint.heads["objects"].state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in detector.head.state_dict().items())
