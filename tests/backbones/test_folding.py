"""Batch norm folded for inference, and recovered for training.

In float64, where outputs equal up to rounding are equal to nine digits: random weights amplify float32's rounding.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import mnv2vision as mv
from mnv2vision.backbones import BACKBONES, has_folded_batch_norm
from mnv2vision.backbones.folding import carry_bias
from mnv2vision.backbones.layers import ConvNormAct

Randomize = Callable[[nn.Module], None]


def images(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 65, 98, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def output(backbone: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        (features,) = backbone(x).values()
    assert isinstance(features, Tensor)
    return features


def relative_error(ours: Tensor, reference: Tensor) -> float:
    assert ours.shape == reference.shape
    return float((ours - reference).abs().max() / reference.abs().max())


def norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    return [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]


@pytest.mark.parametrize("padding", ["symmetric", "tf"])
@pytest.mark.parametrize("name", BACKBONES)
def test_folding_keeps_the_outputs_and_the_original(name: str, padding: str, randomize: Randomize) -> None:
    backbone = mv.create_backbone(name, padding=padding).double()
    randomize(backbone)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}

    folded = mv.fold_batch_norm(backbone)

    assert not norms(folded)
    assert not folded.training
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    assert backbone.training
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    assert before.keys() == backbone.state_dict().keys()
    assert all(torch.equal(before[key], value) for key, value in backbone.state_dict().items())

    reference = output(backbone.eval(), images())
    assert reference.std() > 1e-3
    assert relative_error(output(folded, images()), reference) < 1e-9
    folded.set_output_stride(16)
    backbone.set_output_stride(16)
    assert relative_error(output(folded, images()), output(backbone, images())) < 1e-9


def with_folded_weights(backbone: mv.Backbone) -> mv.Backbone:
    """The same function, held as published folded weights are: in convolutions, with norms that only add a bias."""
    folded = mv.fold_batch_norm(backbone)
    target = mv.create_backbone("mobilenet_v2", taps=backbone.taps, norm_eps=1e-3).double()
    for ours, theirs in zip(target.modules(), folded.modules(), strict=False):
        assert type(ours) is type(theirs) or isinstance(ours, nn.BatchNorm2d)
        if isinstance(ours, ConvNormAct):
            assert isinstance(theirs, ConvNormAct)
            assert isinstance(ours.norm, nn.BatchNorm2d)
            assert theirs.conv.bias is not None
            ours.conv.weight.data.copy_(theirs.conv.weight)
            carry_bias(ours.norm, theirs.conv.bias)
    return target


@pytest.mark.slow
def test_recovering_keeps_the_outputs_and_makes_training_possible(randomize: Randomize) -> None:
    original = mv.create_backbone("mobilenet_v2", norm_eps=1e-3).double().eval()
    randomize(original)
    backbone = with_folded_weights(original).eval()
    x = images(batch=8)
    reference = output(original, x)
    assert relative_error(output(backbone, x), reference) < 1e-9
    assert has_folded_batch_norm(backbone)
    assert not has_folded_batch_norm(original)
    assert not has_folded_batch_norm(mv.create_backbone("mobilenet_v2"))

    # What recovery is for: as they are, the first step of training would normalise with statistics never seen.
    collapsed = output(with_folded_weights(original).train(), x)
    assert relative_error(collapsed, reference) > 0.1

    backbone.train()
    mv.recover_batch_norm(backbone, x)
    assert backbone.training
    assert not has_folded_batch_norm(backbone)
    # In training the norms use the statistics of the batch; they are the running ones now, so nothing jumps.
    assert relative_error(output(backbone, x), reference) < 1e-3
    normalized: list[Tensor] = []
    for norm in norms(backbone):
        norm.register_forward_hook(
            lambda layer, _, out: normalized.append((out - layer.bias[:, None, None]) / layer.weight[:, None, None])
        )
    output(backbone, x)
    assert len(normalized) == 52
    for z in normalized:
        assert z.mean((0, 2, 3)).abs().max() < 1e-3
    assert float(torch.cat([z.var((0, 2, 3), correction=0) for z in normalized]).median()) == pytest.approx(1, abs=0.05)

    # In inference the outputs are those of before on other images, too.
    other = torch.flip(x, (1,))
    backbone = with_folded_weights(original)
    mv.recover_batch_norm(backbone, x)
    assert relative_error(output(backbone.eval(), other), output(original, other)) < 1e-3


def test_recovering_leaves_other_norms_alone(randomize: Randomize) -> None:
    backbone = mv.create_backbone("mobilenet_v2", taps=("block3",)).double()
    randomize(backbone)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    mv.recover_batch_norm(backbone, images())
    assert all(torch.equal(before[key], value) for key, value in backbone.state_dict().items())
