"""Inference in splits: the folded model's outputs, in the memory that arithmetic gives.

Outputs in float64, where what equals up to rounding equals to nine digits.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mnv2vision as mv
from mnv2vision.backbones.blocks import InvertedResidual
from mnv2vision.backbones.layers import LayerOptions
from mnv2vision.backbones.split import _SplitResidual, split_inference
from mnv2vision.benchmarks.memory import peak_bytes
from mnv2vision.benchmarks.speed import settle
from mnv2vision.errors import ConfigError

pytestmark = pytest.mark.slow

Randomize = Callable[[nn.Module], None]


def images() -> Tensor:
    return torch.randn(1, 3, 65, 98, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def assert_equal(ours: Tensor, reference: Tensor, tolerance: float = 1e-9) -> None:
    assert ours.shape == reference.shape
    scale = reference.abs().max()
    assert scale > 1e-3
    assert (ours - reference).abs().max() <= tolerance * scale


def parts(model: nn.Module) -> dict[str, int]:
    return {name: len(layer.parts) for name, layer in model.named_modules() if isinstance(layer, _SplitResidual)}


@pytest.mark.parametrize("splits", [1, 3, 7, 48])
@pytest.mark.parametrize("padding", ["symmetric", "tf"])
@pytest.mark.parametrize(
    ("out_channels", "stride", "dilation", "options"),
    [
        (8, 1, 1, {}),
        (12, 1, 1, {}),
        (8, 2, 1, {}),
        (8, 1, 2, {}),
        (8, 1, 1, {"shortcut": "none"}),
        (8, 1, 1, {"bottleneck_activation": "relu6"}),
        (12, 2, 1, {"kernel_size": 5}),
        (8, 1, 4, {"kernel_size": 5}),
    ],
)
def test_a_block(
    out_channels: int,
    stride: int,
    dilation: int,
    options: dict[str, Any],
    padding: Any,
    splits: int,
    randomize: Randomize,
) -> None:
    block = InvertedResidual(8, 48, out_channels, stride=stride, options=LayerOptions(padding), **options).double()
    block.set_stride(stride, dilation)
    randomize(block)
    folded = mv.fold_batch_norm(block)
    split = _SplitResidual(folded, folded.expand, splits)

    widths = [part.depthwise.conv.weight.shape[0] for part in split.parts]
    assert len(widths) == splits
    assert sum(widths) == 48
    assert max(widths) - min(widths) <= 1
    x = torch.randn(2, 8, 13, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    before = x.clone()
    assert_equal(split(x), folded(x))
    assert torch.equal(x, before)  # in-place sums must not touch the input
    # Atrous convolution can be chosen afterwards, as with any backbone.
    split.set_stride(1, 3)
    folded.set_stride(1, 3)
    assert_equal(split(x), folded(x))


@pytest.mark.parametrize("splits", [4, 1000])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mobilenet_v2", {"width": 0.35}),
        ("mobilenet_v2", {"padding": "tf", "output_stride": 8, "width": 0.5}),
        ("mobilenet_v2", {"width": 0.25, "variant": "paddle"}),
        ("mobilenet_v2", {"width": 0.5, "shortcut": "expansion"}),
        ("mobilenet_v2", {"width": 0.5, "linear_bottleneck": False}),
        ("mobilenet_v2", {"width": 0.5, "taps": ("stem", "block3", "block13.expand")}),
        ("mobilenet_v3_large", {"padding": "tf", "width": 0.5}),
        ("mobilenet_v3_small", {"minimalistic": True}),
    ],
)
def test_a_backbone(name: str, options: dict[str, Any], splits: int, randomize: Randomize) -> None:
    backbone = mv.create_backbone(name, **options).double()
    randomize(backbone)
    state = {key: value.clone() for key, value in backbone.state_dict().items()}
    split, folded = split_inference(backbone, splits=splits), mv.fold_batch_norm(backbone)
    with torch.no_grad():
        for output_stride in (None, 16):
            if output_stride is not None:
                split.set_output_stride(output_stride)
                folded.set_output_stride(output_stride)
            ours, reference = split(images()), folded(images())
            assert tuple(ours) == backbone.taps
            assert split.feature_specs == folded.feature_specs
            for tap in backbone.taps:
                assert_equal(ours[tap], reference[tap])

    assert 1 < max(parts(split).values()) <= splits
    assert not any(parameter.requires_grad for parameter in split.parameters())
    assert not split.training
    assert backbone.training
    assert all(torch.equal(state[key], value) for key, value in backbone.state_dict().items())


@pytest.mark.parametrize("task", ["classification", "detection", "segmentation"])
def test_a_model(task: str, randomize: Randomize) -> None:
    model = mv.create_model(task, width=0.35, num_classes=5, image_size=96).double()
    randomize(model)
    with torch.inference_mode():
        ours, reference = split_inference(model, splits=3)(images()), mv.fold_batch_norm(model)(images())
    if task == "detection":
        assert_equal(ours.box_codes, reference.box_codes)
        assert_equal(ours.class_logits, reference.class_logits)
    else:
        assert_equal(ours, reference)


def test_float32() -> None:
    torch.manual_seed(0)
    model = mv.create_model("classification", num_classes=100)
    settle(model, 128)
    x = torch.randn(2, 3, 128, 128)
    with torch.inference_mode():
        assert not parts(split_inference(model, splits=1))
        # float32's kernels alone make 7e-6 of difference here.
        assert_equal(split_inference(model)(x), mv.fold_batch_norm(model)(x), 1e-4)


def test_whole_blocks() -> None:
    with torch.device("meta"):
        tapped = mv.create_backbone("mobilenet_v2", taps=("stem", "block1.expand", "block5"))
        shortcuts = mv.create_backbone("mobilenet_v2", shortcut="expansion")
        gated = mv.create_backbone("mobilenet_v3_large")
    assert not {"block0", "block1"} & set(parts(split_inference(tapped, splits=6)))
    # Block 2 hands its expansion to block 3's sum, and so on: it stays whole, and sets the peak.
    assert set(parts(split_inference(shortcuts, splits=6))) == {"block1"}
    assert not {f"block{i}" for i in (3, 4, 5, 10, 11, 12, 13, 14)} & set(parts(split_inference(gated, splits=6)))


@pytest.mark.parametrize("splits", [2, 3, 4, 6])
def test_the_peak_is_what_table_2_gives(splits: int) -> None:
    """Block 1's: the image and the block's input, output and a part of its hidden channels, at both resolutions."""
    with torch.device("meta"):
        backbone = mv.create_backbone("mobilenet_v2")
    values = 3 * 224**2 + 16 * 112**2 + 24 * 56**2 + -(-96 // splits) * (112**2 + 56**2)
    cost = mv.complexity(split_inference(backbone, splits=splits), (224, 224))
    assert cost.peak_activation_bytes == 4 * values
    assert cost.madds == mv.complexity(backbone, (224, 224)).madds
    assert mv.complexity(backbone, (224, 224)).peak_activation_bytes == 4 * (
        3 * 224**2 + 16 * 112**2 + 96 * (112**2 + 56**2)
    )


@pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="without oneDNN, convolutions allocate memory to work in"
)
def test_the_allocator_confirms_the_peak() -> None:
    torch.manual_seed(0)
    model = mv.create_model("classification")
    settle(model, 128)
    x = torch.randn(1, 3, 224, 224).to(memory_format=torch.channels_last)
    measured = {}
    for splits in (1, 4):
        prepared = split_inference(model, splits=splits).to(memory_format=torch.channels_last)
        measured[splits] = peak_bytes(prepared, x)
        assert measured[splits] == pytest.approx(mv.complexity(prepared, (224, 224)).peak_activation_bytes, rel=0.01)
    assert measured[4] < 0.45 * measured[1]


@pytest.mark.parametrize("splits", [0, -1, 2.0, True, "4", None])
def test_splits_that_are_none(splits: Any) -> None:
    with pytest.raises(ConfigError, match=r"splits=.* must be an integer of 1 or more"):
        split_inference(mv.create_backbone("mobilenet_v2", width=0.35), splits=splits)


def test_nothing_to_split() -> None:
    with pytest.raises(ConfigError, match="MobileNetV1 has no inverted residual"):
        split_inference(mv.create_model("classification", backbone="mobilenet_v1", width=0.25))
    with pytest.raises(ConfigError, match="Linear has no inverted residual"):
        split_inference(nn.Linear(3, 3))


def test_no_second_split() -> None:
    once = split_inference(mv.create_backbone("mobilenet_v2", width=0.35))
    with pytest.raises(ConfigError, match="already been split; split the original model"):
        split_inference(once)
