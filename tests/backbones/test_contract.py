"""What every backbone promises: taps, feature specifications, output strides, and surviving what PyTorch does to it."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import mnv2vision as mv
from mnv2vision.backbones.layers import ConvNormAct
from mnv2vision.errors import ConfigError

pytestmark = pytest.mark.slow

Randomize = Callable[[nn.Module], None]

BLOCKS = {"mobilenet_v1": 13, "mobilenet_v2": 17, "mobilenet_v3_large": 15, "mobilenet_v3_small": 11}
TAPS = {
    name: (
        "stem",
        *(
            tap
            for index in range(count)
            # V1 has no expansions, and the first block of the others widens nothing.
            for tap in ((f"block{index}.expand",) if index and name != "mobilenet_v1" else ()) + (f"block{index}",)
        ),
        *(("last",) if name != "mobilenet_v1" else ()),
    )
    for name, count in BLOCKS.items()
}
NAMES = tuple(TAPS)
PADDINGS = ("symmetric", "tf")
SIZE = (65, 98)


def images(size: tuple[int, int] = SIZE, batch: int = 2, channels: int = 3) -> Tensor:
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(1))


def exact_images(size: tuple[int, int] = SIZE, batch: int = 2) -> Tensor:
    """For comparing outputs: random weights amplify float32's rounding, which other kernels do otherwise."""
    return images(size, batch).double()


def relative_error(ours: Tensor, reference: Tensor) -> float:
    assert ours.shape == reference.shape
    return float((ours - reference).abs().max() / reference.abs().max())


def tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


# ---- taps and feature specifications ----


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("output_stride", [32, 16, 8])
@pytest.mark.parametrize("width", [0.35, 1.0])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_feature_specs_are_the_real_shapes(name: str, width: float, output_stride: int, padding: str) -> None:
    backbone = mv.create_backbone(name, width=width, output_stride=output_stride, padding=padding, taps=TAPS[name])
    backbone.eval()
    assert tuple(backbone.feature_specs) == backbone.taps == TAPS[name]
    assert max(spec.stride for spec in backbone.feature_specs.values()) == output_stride
    for height, across in (64, 96), (65, 98), (33, 1):
        features = backbone(images((height, across), batch=1))
        assert tuple(features) == TAPS[name]
        for tap, (channels, stride) in backbone.feature_specs.items():
            assert features[tap].shape == (1, channels, -(-height // stride), -(-across // stride)), tap


@pytest.mark.parametrize("name", NAMES)
def test_nothing_behind_the_deepest_tap_is_built(name: str) -> None:
    with torch.device("meta"):
        whole = mv.create_backbone(name, taps=TAPS[name])
        shapes = {key: value.shape for key, value in whole.state_dict().items()}
        for index, tap in enumerate(TAPS[name]):
            backbone = mv.create_backbone(name, taps=(tap,))
            layers = [child for child, _ in backbone.named_children()]
            assert layers == [each for each in TAPS[name][: index + 1] if "." not in each] + (
                [tap.removesuffix(".expand")] if "." in tap else []
            )
            if "." in tap:
                assert {key.split(".")[1] for key in backbone.state_dict() if key.startswith(f"{layers[-1]}.")} == {
                    "expand"
                }
            # The names of the weights do not depend on the taps.
            assert all(shapes[key] == value.shape for key, value in backbone.state_dict().items())
            assert backbone.feature_specs == {tap: whole.feature_specs[tap]}


def test_deeplabs_backbone_has_no_last_convolution() -> None:
    whole = mv.create_backbone("mobilenet_v2")
    trunk = mv.create_backbone("mobilenet_v2", taps=("block16",))
    missing = whole.state_dict().keys() - trunk.state_dict().keys()
    assert {key.split(".")[0] for key in missing} == {"last"}
    assert trunk.state_dict().keys() < whole.state_dict().keys()


def test_features_come_in_the_order_asked_for() -> None:
    backbone = mv.create_backbone("mobilenet_v2", taps=("block5", "stem", "block5.expand"))
    assert list(backbone(images((32, 32)))) == list(backbone.feature_specs) == ["block5", "stem", "block5.expand"]


def test_taps_do_not_change_one_another(randomize: Randomize) -> None:
    # In-place activations must not reach into a feature that has been handed out.
    whole = mv.create_backbone("mobilenet_v2", taps=TAPS["mobilenet_v2"]).eval()
    randomize(whole)
    whole.double()
    with torch.no_grad():
        features = whole(exact_images())
        for tap in ("stem", "block2", "block2.expand", "block13.expand"):
            alone = mv.create_backbone("mobilenet_v2", taps=(tap,)).eval().double()
            alone.load_state_dict(whole.state_dict(), strict=False)
            torch.testing.assert_close(alone(exact_images())[tap], features[tap], rtol=1e-4, atol=1e-5)
    assert features["block2"].min() < 0 <= features["block2.expand"].min()  # linear bottleneck, ReLU6
    assert features["block2.expand"].max() == 6


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_other_taps_of_the_same_weights(name: str, randomize: Randomize) -> None:
    backbone = mv.create_backbone(name, width=0.35, output_stride=16).eval()
    randomize(backbone)
    every = mv.create_backbone(name, width=0.35, output_stride=16, taps=TAPS[name]).eval()
    every.load_state_dict(backbone.state_dict())
    features = every.double()(exact_images())
    backbone.double()
    middle = len(TAPS[name]) // 2
    for taps in (TAPS[name][middle::-2], TAPS[name][middle - 1 : middle]):  # deeper ones are dropped, one after another
        backbone.set_taps(taps)
        found = backbone(exact_images())
        assert tuple(found) == tuple(backbone.feature_specs) == taps
        fresh = mv.create_backbone(name, width=0.35, output_stride=16, taps=taps)
        assert backbone.state_dict().keys() == fresh.state_dict().keys()
        assert backbone.feature_specs == fresh.feature_specs
        for tap in taps:
            torch.testing.assert_close(found[tap], features[tap], rtol=1e-4, atol=1e-5)
    kept = tensors(backbone)
    with pytest.raises(ConfigError, match=rf"unknown taps \['{TAPS[name][-1]}'\]; valid: stem, block0, "):
        backbone.set_taps((TAPS[name][-1],))
    assert_same(tensors(backbone), kept)
    assert backbone.taps == taps


# ---- output stride ----


@pytest.mark.parametrize("name", NAMES)
def test_changing_the_output_stride_keeps_the_weights(name: str) -> None:
    backbone = mv.create_backbone(name)
    before = tensors(backbone)
    specs = dict(backbone.feature_specs)
    for output_stride in (8, 16):
        backbone.set_output_stride(output_stride)
        assert backbone.output_stride == output_stride
        assert [spec.stride for spec in backbone.feature_specs.values()] == [output_stride]
        assert_same(before, tensors(backbone))
    backbone.set_output_stride(32)
    assert backbone.feature_specs == specs


@pytest.mark.parametrize(
    ("output_stride", "expected"),
    [
        # (stride, dilation) of the depthwise convolutions, for the blocks where it is not (1, 1). A block that loses
        # its stride still has the dilation of those before it (TF-slim, nets/mobilenet/mobilenet.py).
        (32, {1: (2, 1), 3: (2, 1), 6: (2, 1), 13: (2, 1)}),
        (16, {1: (2, 1), 3: (2, 1), 6: (2, 1), 14: (1, 2), 15: (1, 2), 16: (1, 2)}),
        (8, {1: (2, 1), 3: (2, 1)} | dict.fromkeys(range(7, 14), (1, 2)) | dict.fromkeys(range(14, 17), (1, 4))),
    ],
)
def test_dilations_of_mobilenet_v2(output_stride: int, expected: dict[int, tuple[int, int]]) -> None:
    backbone = mv.create_backbone("mobilenet_v2", output_stride=output_stride)
    for index in range(17):
        conv = backbone.get_submodule(f"block{index}.depthwise.conv")
        assert isinstance(conv, nn.Conv2d)
        assert (conv.stride[0], conv.dilation[0]) == expected.get(index, (1, 1)), f"block{index}"


# Dilation computes the strided network's cells and those between. That holds for the whole network unless padding moves
# the grid (TF's at even sizes) or a gate averages over the map (squeeze-and-excitation).
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mobilenet_v1", {}),
        ("mobilenet_v2", {}),
        ("mobilenet_v3_large", {"minimalistic": True}),
        ("mobilenet_v3_small", {"minimalistic": True}),
    ],
)
@pytest.mark.parametrize(
    ("padding", "size"), [("symmetric", (64, 64)), ("symmetric", (70, 75)), ("symmetric", (65, 97)), ("tf", (65, 97))]
)
def test_the_strided_network_is_the_dilated_one_subsampled(
    name: str, options: dict[str, Any], padding: str, size: tuple[int, int], randomize: Randomize
) -> None:
    backbone = mv.create_backbone(name, padding=padding, **options).eval()
    randomize(backbone)
    backbone.double()
    features = {}
    with torch.no_grad():
        for output_stride in (32, 16, 8):
            backbone.set_output_stride(output_stride)
            (features[output_stride],) = backbone(exact_images(size)).values()
    assert relative_error(features[16][..., ::2, ::2], features[32]) < 1e-5
    assert relative_error(features[8][..., ::4, ::4], features[32]) < 1e-5


# ---- mistakes ----


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("mobilenet_v9", {}, ("mobilenet_v9", *NAMES)),
        ("mobilenet_v2", {"widht": 1.0}, ("widht", "did you mean width", "output_stride")),
        ("mobilenet_v1", {"expansion": 6}, ("expansion", "mobilenet_v1", "activation")),
        ("mobilenet_v2", {"taps": ("block17",)}, ("block17", "stem", "block13.expand", "block16", "last")),
        ("mobilenet_v2", {"taps": ("block0.expand", "last")}, ("block0.expand", "block1.expand")),
        ("mobilenet_v1", {"taps": ("last",)}, ("last", "block12")),
        ("mobilenet_v2", {"taps": ()}, ("taps",)),
        ("mobilenet_v2", {"taps": "last"}, ("taps='last'", "list")),
        ("mobilenet_v2", {"width": "wide"}, ("width", "wide")),
        ("mobilenet_v2", {"divisor": 0}, ("divisor", "0")),
        ("mobilenet_v2", {"expansion": 0}, ("expansion", "0")),
        ("mobilenet_v2", {"width": 0.0}, ("width", "0.0")),
        ("mobilenet_v2", {"width": float("nan")}, ("width", "nan")),
        ("mobilenet_v2", {"padding": "same"}, ("same", "symmetric", "tf")),
        ("mobilenet_v2", {"output_stride": 4}, ("output_stride", "4", "32, 16, 8")),
        ("mobilenet_v2", {"activation": "swish"}, ("swish", "relu6", "relu")),
        ("mobilenet_v2", {"initialization": "zeros"}, ("zeros", "kaiming", "tf")),
        ("mobilenet_v2", {"variant": "torch"}, ("torch", "slim", "paddle")),
        ("mobilenet_v2", {"shortcut": "both"}, ("both", "bottleneck", "expansion", "none")),
    ],
)
def test_mistakes_are_answered_with_what_is_valid(name: str, options: dict[str, Any], words: tuple[str, ...]) -> None:
    with torch.device("meta"), pytest.raises(ConfigError) as error:
        mv.create_backbone(name, **options)
    assert [word for word in words if word not in str(error.value)] == []


# ---- training ----


@pytest.mark.parametrize("name", NAMES)
def test_frozen_layers_do_not_change(name: str, randomize: Randomize) -> None:
    backbone = mv.create_backbone(name)
    randomize(backbone)
    backbone.freeze(3)
    backbone.train()
    before = tensors(backbone)
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.1, weight_decay=0.1)
    (features,) = backbone(images()).values()
    features.square().mean().backward()
    optimizer.step()

    after = tensors(backbone)
    changed = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert changed == {layer for layer, _ in backbone.layers()} - {"stem", "block0", "block1", "block2"}

    backbone.freeze(0)
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    assert all(module.training for module in backbone.modules())
    backbone.freeze(99)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def count_additions(backbone: nn.Module) -> int:
    class Additions(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.count += func is torch.ops.aten.add.Tensor
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), Additions() as additions:
        backbone.eval()(images((32, 32)))
    return additions.count


# 17 blocks, 7 of which change the size or the number of channels.
@pytest.mark.parametrize(("shortcut", "count"), [("bottleneck", 10), ("expansion", 10), ("none", 0)])
def test_shortcuts_of_figure_6b(shortcut: str, count: int, randomize: Randomize) -> None:
    backbone = mv.create_backbone("mobilenet_v2", shortcut=shortcut)
    randomize(backbone)
    assert count_additions(backbone) == count
    backbone.train()(images())["last"].square().mean().backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_nonlinear_bottlenecks_of_figure_6a(randomize: Randomize) -> None:
    # Block 16 has no shortcut, so that its output shows the activation behind the projection.
    minima = {}
    for linear in (True, False):
        backbone = mv.create_backbone("mobilenet_v2", linear_bottleneck=linear, taps=("block16",)).eval()
        randomize(backbone)
        # The stem, 16 expansions and 17 depthwise convolutions; then the 17 projections as well.
        activations = sum(isinstance(module, nn.ReLU6) for module in backbone.modules())
        assert activations == (34 if linear else 51)
        with torch.no_grad():
            minima[linear] = float(backbone(images())["block16"].min())
    assert minima[True] < 0 == minima[False]


def test_initializations() -> None:
    torch.manual_seed(0)
    kaiming = mv.create_backbone("mobilenet_v2", initialization="kaiming")
    weight = kaiming.get_parameter("last.conv.weight").detach()
    assert float(weight.std()) == pytest.approx((2 / 1280) ** 0.5, rel=0.02)
    depthwise = kaiming.get_parameter("block16.depthwise.conv.weight").detach()
    assert float(depthwise.std()) == pytest.approx((2 / (960 * 9)) ** 0.5, rel=0.05)

    tf = mv.create_backbone("mobilenet_v2", initialization="tf")
    for name in ("last", "block16.depthwise", "block16.project"):
        weight = tf.get_parameter(f"{name}.conv.weight").detach()
        # A normal distribution cut off at two deviations has 0.88 of its deviation left.
        assert float(weight.std()) == pytest.approx(0.09 * 0.8796, rel=0.03)
        assert weight.abs().max() <= 0.18
    for key, value in tf.state_dict().items():
        if "norm" in key:
            assert (value == ("weight" in key or "var" in key)).all(), key


# ---- what PyTorch does to modules ----


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("name", NAMES)
def test_copies_memory_formats_and_precisions(name: str, padding: str, randomize: Randomize) -> None:
    backbone = mv.create_backbone(name, padding=padding).eval()
    randomize(backbone)
    (tap,) = backbone.taps
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            half = backbone(images())[tap]
        assert half.dtype == torch.bfloat16

        backbone.double()
        reference = backbone(exact_images())[tap]
        # Random weights amplify rounding, so that 8 bits leave a likeness rather than digits.
        assert torch.corrcoef(torch.stack([half.double().flatten(), reference.flatten()]))[0, 1] > 0.9

        duplicate = copy.deepcopy(backbone)
        with torch.device("meta"):
            revived = mv.create_backbone(name, padding=padding).eval()
        revived.load_state_dict(backbone.state_dict(), assign=True)
        for other in duplicate, revived:
            assert_same(tensors(other), tensors(backbone))
            torch.testing.assert_close(other(exact_images())[tap], reference, rtol=1e-4, atol=1e-5)

        duplicate.to(memory_format=torch.channels_last)
        last = duplicate(exact_images().contiguous(memory_format=torch.channels_last))[tap]
        assert last.is_contiguous(memory_format=torch.channels_last)
        assert relative_error(last, reference) < 1e-9

        next(duplicate.parameters()).zero_()
        assert torch.equal(backbone(exact_images())[tap], reference)


@pytest.mark.parametrize("name", NAMES)
def test_one_input_channel(name: str) -> None:
    backbone = mv.create_backbone(name, in_channels=1)
    (features,) = backbone(images(channels=1)).values()
    assert features.shape[1] == next(iter(backbone.feature_specs.values())).channels


@pytest.mark.parametrize(
    ("name", "padding"), [("mobilenet_v1", "tf"), ("mobilenet_v2", "symmetric"), ("mobilenet_v3_small", "tf")]
)
def test_compiles_without_graph_breaks(name: str, padding: str, randomize: Randomize) -> None:
    backbone = mv.create_backbone(name, padding=padding).eval()
    randomize(backbone)
    backbone.double()
    torch.compiler.reset()
    compiled = torch.compile(backbone, fullgraph=True, backend="eager")
    with torch.no_grad():
        for ours, reference in zip(compiled(exact_images()).values(), backbone(exact_images()).values(), strict=True):
            torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "padding"), [("mobilenet_v2", "tf"), ("mobilenet_v3_small", "symmetric")])
def test_exports_with_dynamic_batch_and_size(name: str, padding: str, randomize: Randomize) -> None:
    backbone = mv.create_backbone(name, padding=padding).eval()
    randomize(backbone)
    backbone.double()
    batch, rows, columns = (torch.export.Dim(dim, min=2, max=64) for dim in ("batch", "rows", "columns"))
    program = torch.export.export(
        backbone, (exact_images((96, 64)),), dynamic_shapes=({0: batch, 2: 32 * rows, 3: 32 * columns},)
    ).module()
    with torch.no_grad():
        for x in exact_images((64, 128), batch=3), exact_images((160, 96), batch=1):
            for ours, reference in zip(program(x).values(), backbone(x).values(), strict=True):
                assert relative_error(ours, reference) < 1e-5


def test_units_are_what_folding_knows() -> None:
    # Every batch norm belongs to a ConvNormAct, or folding would leave it behind.
    for name in NAMES:
        with torch.device("meta"):
            backbone = mv.create_backbone(name)
        norms = sum(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
        assert norms == sum(isinstance(module, ConvNormAct) for module in backbone.modules()) > 0
