"""Packed convolutions compute what the folded model computes."""

from types import SimpleNamespace

import pytest
import torch

from mnv2vision.backbones import create_backbone, fold_batch_norm, packing
from mnv2vision.backbones.packing import pack_convolutions


@pytest.mark.parametrize("padding", ["tf", "symmetric"])
@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small"])
@pytest.mark.parametrize("size", [(64, 64), (65, 97)])
def test_packed_equals_folded(name, padding, size):
    torch.manual_seed(0)
    model = create_backbone(name, width=0.5, padding=padding, output_stride=16)
    images = torch.randn(2, 3, *size).to(memory_format=torch.channels_last)
    model.train()(images)  # running statistics, so that the outputs do not vanish
    folded, packed = fold_batch_norm(model), fold_batch_norm(model)
    pack_convolutions(packed)
    count = sum(isinstance(module, packing._PackedConv) for module in packed.modules())
    assert count == sum(isinstance(module, packing.ConvNormAct) for module in folded.modules())
    with torch.inference_mode():
        expected, actual = folded(images), packed(images)
    for tap, feature in expected.items():
        scale = feature.abs().max()
        assert scale > 1e-3
        assert (actual[tap] - feature).abs().max() <= 1e-5 * scale


def without(name: str) -> SimpleNamespace:
    """oneDNN's private operators, but for one."""
    names = {"_convolution_pointwise", "_reorder_convolution_weight"} - {name}
    return SimpleNamespace(**{other: getattr(torch.ops.mkldnn, other) for other in names})


def changed() -> SimpleNamespace:
    """The same operators with a signature of another PyTorch."""
    operators = without("_convolution_pointwise")
    operators._convolution_pointwise = lambda images, weight, *, bias: images
    return operators


@pytest.mark.parametrize(
    "operators",
    [None, without("_convolution_pointwise"), without("_reorder_convolution_weight"), changed()],
    ids=["no oneDNN", "no convolution", "no reordering", "another signature"],
)
def test_nothing_is_packed_without_the_operators(monkeypatch, operators):
    if operators is None:
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    else:
        monkeypatch.setattr(torch.ops, "mkldnn", operators)
    model = fold_batch_norm(create_backbone("mobilenet_v2", width=0.35))
    pack_convolutions(model)
    assert not any(isinstance(module, packing._PackedConv) for module in model.modules())
    with torch.inference_mode():
        model(torch.zeros(1, 3, 64, 64))


def test_inputs_of_changing_size_and_count():
    torch.manual_seed(0)
    model = create_backbone("mobilenet_v2", width=0.35)
    model.train()(torch.randn(4, 3, 64, 64))
    folded, packed = fold_batch_norm(model), fold_batch_norm(model)
    pack_convolutions(packed)
    for shape in ((1, 3, 64, 64), (1, 3, 96, 64), (3, 3, 64, 64), (1, 3, 64, 64)):
        images = torch.randn(shape).to(memory_format=torch.channels_last)
        with torch.inference_mode():
            expected, actual = folded(images)["last"], packed(images)["last"]
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
