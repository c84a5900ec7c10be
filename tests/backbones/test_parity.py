"""The same weights in another library's module give the same numbers, at every feature that module shows.

In float64: random weights amplify float32's rounding, which other kernels do otherwise.
"""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from transformers import MobileNetV2Config, MobileNetV2Model

import mnv2vision as mv

pytestmark = pytest.mark.slow

Randomize = Callable[[nn.Module], None]
ShareWeights = Callable[[nn.Module, nn.Module], None]

SIZES = ((64, 64), (65, 97), (96, 50))  # even, odd, not square
TF_EPS = 1e-3
BLOCKS = tuple(f"block{index}" for index in range(17))


def images(size: tuple[int, int]) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def assert_equal(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        assert b.std() > 1e-3, "the signal has vanished, so that everything would be equal"
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


@torch.no_grad()
def check(
    backbone: mv.Backbone, reference: nn.Module, theirs: Callable[[Tensor], Iterable[Tensor]], share: ShareWeights
) -> None:
    share(reference, backbone)
    backbone.eval().double()
    reference.eval().double()
    for size in SIZES:
        assert_equal(backbone(images(size)).values(), theirs(images(size)))


# ---- torchvision ----


# At 0.25 the stem and block 0 both have 8 channels, so that block 0 has a shortcut.
@pytest.mark.parametrize("width", [0.25, 0.35, 0.5, 1.0, 1.4])
def test_torchvision_mobilenet_v2(width: float, randomize: Randomize, share_weights: ShareWeights) -> None:
    reference = torchvision.models.mobilenet_v2(width_mult=width)
    randomize(reference)

    def theirs(x: Tensor) -> Iterable[Tensor]:
        for layer in reference.features:
            x = layer(x)
            yield x

    backbone = mv.create_backbone("mobilenet_v2", width=width, taps=("stem", *BLOCKS, "last"))
    check(backbone, reference, theirs, share_weights)


# Not with torchvision's `dilated=True`: there the block that loses its stride is dilated already, and not in TF.
@pytest.mark.parametrize(("name", "blocks"), [("mobilenet_v3_large", 15), ("mobilenet_v3_small", 11)])
def test_torchvision_mobilenet_v3(name: str, blocks: int, randomize: Randomize, share_weights: ShareWeights) -> None:
    reference = getattr(torchvision.models, name)()
    randomize(reference)

    def theirs(x: Tensor) -> Iterable[Tensor]:
        for layer in reference.features:
            x = layer(x)
            yield x

    check(mv.create_backbone(name, taps=("stem", *BLOCKS[:blocks], "last")), reference, theirs, share_weights)


# ---- timm, whose rule for output strides is TF's ----


@pytest.mark.parametrize("output_stride", [32, 16, 8])
@pytest.mark.parametrize(
    ("theirs", "name", "width"),
    [
        ("mobilenetv1_100", "mobilenet_v1", 1.0),
        ("mobilenetv2_050", "mobilenet_v2", 0.5),
        ("mobilenetv2_100", "mobilenet_v2", 1.0),
        ("mobilenetv2_140", "mobilenet_v2", 1.4),
    ],
)
def test_timm_mobilenet_v1_and_v2(
    theirs: str, name: str, width: float, output_stride: int, randomize: Randomize, share_weights: ShareWeights
) -> None:
    reference = timm.create_model(theirs, output_stride=output_stride)
    randomize(reference)
    backbone = mv.create_backbone(name, width=width, output_stride=output_stride)
    check(backbone, reference, lambda x: [reference.forward_features(x)], share_weights)


@pytest.mark.parametrize("output_stride", [32, 16, 8])
@pytest.mark.parametrize(
    ("theirs", "name", "options"),
    [
        ("mobilenetv3_large_100", "mobilenet_v3_large", {"norm_eps": 1e-5}),
        ("mobilenetv3_small_100", "mobilenet_v3_small", {"norm_eps": 1e-5}),
        ("tf_mobilenetv3_large_100", "mobilenet_v3_large", {"padding": "tf"}),
        ("tf_mobilenetv3_large_075", "mobilenet_v3_large", {"padding": "tf", "width": 0.75}),
        ("tf_mobilenetv3_large_minimal_100", "mobilenet_v3_large", {"padding": "tf", "minimalistic": True}),
        ("tf_mobilenetv3_small_100", "mobilenet_v3_small", {"padding": "tf"}),
        ("tf_mobilenetv3_small_075", "mobilenet_v3_small", {"padding": "tf", "width": 0.75}),
        ("tf_mobilenetv3_small_minimal_100", "mobilenet_v3_small", {"padding": "tf", "minimalistic": True}),
    ],
)
def test_timm_mobilenet_v3(
    theirs: str,
    name: str,
    options: dict[str, Any],
    output_stride: int,
    randomize: Randomize,
    share_weights: ShareWeights,
) -> None:
    # The features of timm's V3 end before the classifier's hidden layer, which its forward_features does not always do.
    reference = timm.create_model(theirs, features_only=True, output_stride=output_stride)
    randomize(reference)
    backbone = mv.create_backbone(name, output_stride=output_stride, **options)
    check(backbone, reference, lambda x: reference(x)[-1:], share_weights)


# ---- transformers ----


@pytest.mark.parametrize("output_stride", [32, 16, 8])
@pytest.mark.parametrize("padding", ["tf", "symmetric"])
@pytest.mark.parametrize(("width", "block0_expands"), [(0.35, False), (1.0, False), (1.0, True), (1.4, False)])
def test_transformers_mobilenet_v2(
    width: float,
    block0_expands: bool,
    padding: str,
    output_stride: int,
    randomize: Randomize,
    share_weights: ShareWeights,
) -> None:
    config = MobileNetV2Config(
        depth_multiplier=width,
        output_stride=output_stride,
        tf_padding=padding == "tf",
        first_layer_is_expansion=not block0_expands,
        layer_norm_eps=TF_EPS,
    )
    reference = MobileNetV2Model(config)
    randomize(reference)

    def theirs(x: Tensor) -> Iterable[Tensor]:
        outputs = reference(x, output_hidden_states=True)
        return (*outputs.hidden_states, outputs.last_hidden_state)

    backbone = mv.create_backbone(
        "mobilenet_v2",
        width=width,
        output_stride=output_stride,
        padding=padding,
        norm_eps=TF_EPS,
        variant="paddle" if block0_expands else "slim",  # at width 1 they differ in block 0's expansion alone
        taps=(*BLOCKS[1:], "last"),
    )
    check(backbone, reference, theirs, share_weights)


def test_the_paddings_agree_at_multiples_of_32_plus_1(randomize: Randomize, share_weights: ShareWeights) -> None:
    # There every strided layer sees an odd size. At 64 they must differ, or the tests above could not tell them apart.
    tf = mv.create_backbone("mobilenet_v2", padding="tf").eval()
    randomize(tf)
    symmetric = mv.create_backbone("mobilenet_v2", padding="symmetric").eval()
    share_weights(tf, symmetric)
    tf.double()
    symmetric.double()
    with torch.no_grad():
        assert_equal(tf(images((65, 97))).values(), symmetric(images((65, 97))).values())
        even = images((64, 64))
        assert (tf(even)["last"] - symmetric(even)["last"]).abs().mean() > 0.1
