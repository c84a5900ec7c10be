"""Padding and rounding against their definitions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from mnv2vision.backbones.layers import Conv2d, ConvNormAct, LayerOptions, make_divisible, tf_same_padding


@given(
    size=st.tuples(st.integers(1, 600), st.integers(1, 600)),
    kernel=st.sampled_from((1, 2, 3, 5, 7)),
    stride=st.integers(1, 4),
    dilation=st.integers(1, 4),
)
def test_tf_same_padding(size: tuple[int, int], kernel: int, stride: int, dilation: int) -> None:
    left, right, top, bottom = tf_same_padding(size, kernel, stride, dilation)
    extent = dilation * (kernel - 1) + 1
    for length, before, after in (size[0], top, bottom), (size[1], left, right):
        outputs = -(-length // stride)
        assert after - before in (0, 1)  # the odd pixel goes below and to the right
        assert before >= 0
        # As many outputs as SAME promises, and not a pixel more than they need.
        assert (length + before + after - extent) // stride + 1 == outputs
        assert before + after == max((outputs - 1) * stride + extent - length, 0)


@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    kernel=st.sampled_from((1, 3, 5)),
    stride=st.sampled_from((1, 2)),
    dilation=st.integers(1, 4),
)
def test_convolutions_give_the_size_they_promise(
    size: tuple[int, int], kernel: int, stride: int, dilation: int
) -> None:
    for padding in ("symmetric", "tf"):
        conv = Conv2d(1, 1, kernel, padding=padding)
        conv.set_stride(stride, dilation if stride == 1 else 1)
        assert conv(torch.zeros(1, 1, *size)).shape[2:] == tuple(-(-length // stride) for length in size)


def test_tf_padding_by_hand() -> None:
    # 4 pixels, kernel 3, stride 2: SAME reads (0, 1, 2) and (2, 3, -); symmetric padding reads (-, 0, 1) and (1, 2, 3).
    row = torch.tensor([1.0, 10.0, 100.0, 1000.0]).reshape(1, 1, 1, 4)
    for padding, expected in ("tf", [111.0, 1100.0]), ("symmetric", [11.0, 1110.0]):
        conv = Conv2d(1, 1, 3, stride=2, padding=padding)
        conv.weight.data = F.pad(torch.ones(1, 1, 1, 3), (0, 0, 1, 1))  # the middle row of the kernel
        assert conv(row).flatten().tolist() == expected


@given(value=st.floats(0.01, 10_000), divisor=st.sampled_from((1, 2, 4, 8, 16, 32)))
def test_make_divisible(value: float, divisor: int) -> None:
    rounded = make_divisible(value, divisor)
    assert rounded % divisor == 0
    assert rounded >= divisor
    assert rounded >= 0.9 * value
    assert rounded == divisor or rounded - value <= divisor
    nearest = max(divisor, int(value / divisor + 0.5) * divisor)
    assert rounded in (nearest, nearest + divisor)
    assert (rounded == nearest) == (nearest >= 0.9 * value)


@pytest.mark.parametrize(("value", "rounded"), [(16 * 0.35, 8), (24 * 0.35, 8), (32 * 0.35, 16), (11, 16), (12, 16)])
def test_make_divisible_by_hand(value: float, rounded: int) -> None:
    # 11.2 would round to 8, which is more than 10 % below it.
    assert make_divisible(value) == rounded


def test_strided_depthwise_gradients_are_the_same_under_autocast():
    """Computed in float32 for speed: no result may change beyond bfloat16's rounding, nor the dtype."""
    torch.manual_seed(0)
    conv = Conv2d(16, 16, 3, stride=2, groups=16, padding="tf")
    images = torch.randn(2, 16, 15, 20, requires_grad=True)
    conv(images).square().sum().backward()
    expected = conv.weight.grad.clone()
    conv.weight.grad = None
    with torch.autocast("cpu", torch.bfloat16):
        out = conv(images.bfloat16())
    assert out.dtype == torch.bfloat16
    out.float().square().sum().backward()
    torch.testing.assert_close(conv.weight.grad, expected, rtol=0.05, atol=0.05 * expected.abs().max().item())


@pytest.mark.parametrize(("size", "rate"), [((8, 8), 2), ((7, 9), 2), ((5, 6), 4), ((33, 17), 4)])
def test_space_to_batch_is_the_dilated_convolution(size: tuple[int, int], rate: int) -> None:
    torch.manual_seed(0)
    conv = Conv2d(6, 6, 3, groups=6).double()
    conv.set_stride(1, rate)
    x = torch.randn(2, 6, *size, dtype=torch.double, requires_grad=True)
    expected = F.conv2d(x, conv.weight, padding=rate, dilation=rate, groups=6)
    actual = conv._space_to_batch(x)
    torch.testing.assert_close(actual, expected)
    inputs = (x, conv.weight)
    weights = torch.randn_like(expected)
    gradients = [torch.autograd.grad((out * weights).sum(), inputs) for out in (expected, actual)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_dilated_depthwise_training_under_autocast() -> None:
    torch.manual_seed(0)
    conv = Conv2d(6, 6, 3, groups=6).train()
    conv.set_stride(1, 2)
    x = torch.randn(2, 6, 9, 9)
    with torch.autocast("cpu", torch.bfloat16):
        trained, inferred = conv(x), conv.eval()(x)
    torch.testing.assert_close(trained.float(), inferred.float(), rtol=0.02, atol=0.02)


def test_batch_norm_of_one_value_a_channel() -> None:
    """qfgaohao/pytorch-ssd#27: torch refuses it; there is nothing to normalise by but the running statistics."""
    block = ConvNormAct(3, 4, options=LayerOptions())
    with torch.no_grad():
        assert isinstance(block.norm, torch.nn.BatchNorm2d)
        assert block.norm.running_mean is not None
        block.norm.running_mean.copy_(torch.arange(4.0))
    single = torch.randn(1, 3, 1, 1)
    expected = block.eval()(single)
    before = {name: value.clone() for name, value in block.state_dict().items()}
    torch.testing.assert_close(block.train()(single), expected)
    assert all(torch.equal(value, before[name]) for name, value in block.state_dict().items())
    block(torch.randn(2, 3, 1, 1))  # two values are normalised by each other, as ever
    assert not torch.equal(block.norm.running_mean, before["norm.running_mean"])
