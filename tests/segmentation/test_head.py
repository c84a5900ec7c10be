"""Segmentation heads: what they cost by the paper, torchvision's LR-ASPP, and the output stride changed in place."""

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.segmentation import LRASPP_MobileNet_V3_Large_Weights, lraspp_mobilenet_v3_large

import mnv2vision as mv
from mnv2vision.errors import ConfigError
from mnv2vision.weights.importers.from_torchvision import name_pairs

pytestmark = pytest.mark.slow

Randomize = Callable[[nn.Module], None]
ASPP = (6, 12, 18)
BACKBONES = [
    ("mobilenet_v1", 0.5),
    ("mobilenet_v2", 0.35),
    ("mobilenet_v2", 1.0),
    ("mobilenet_v3_large", 1.0),
    ("mobilenet_v3_small", 1.0),
]


def on_meta(**options: Any) -> Any:
    with torch.device("meta"):
        return mv.create_model("segmentation", **options).eval()


def random_model(randomize: Randomize, **options: Any) -> Any:
    model = mv.create_model("segmentation", **{"num_classes": 5, **options}).eval()
    randomize(model)
    return model


def images(count: int, height: int, width: int) -> torch.Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def exact_images(count: int, height: int, width: int) -> torch.Tensor:
    """For comparing outputs: random weights amplify float32's rounding, which other kernels do otherwise."""
    return images(count, height, width).double()


# ---- costs: paper_facts 2.3, "ours plain" ----

V2, V2_ASPP = {"backbone": "mobilenet_v2"}, {"backbone": "mobilenet_v2", "atrous_rates": ASPP}
V1_ASPP = {"backbone": "mobilenet_v1", "atrous_rates": ASPP}
DM05 = {"backbone": "mobilenet_v2", "width": 0.5, "divisor": 1}


@pytest.mark.parametrize(
    ("options", "output_stride", "params", "madds"),
    [
        # Million parameters, thousand million multiply-adds, to as many decimals as paper_facts has.
        (V2, 16, "2.1136", "2.741"),
        (V2, 8, "2.1136", "8.826"),
        (V2_ASPP, 16, "4.5235", "5.364"),
        (V2_ASPP, 8, "4.5235", "19.00"),
        (V1_ASPP, 16, "11.1453", "12.761"),
        (V1_ASPP, 8, "11.1453", "46.40"),
        (DM05, 16, "0.697", "0.8675"),
        (DM05, 8, "0.697", "2.8186"),
    ],
)
def test_costs(options: dict[str, Any], output_stride: int, params: str, madds: str) -> None:
    costs = mv.complexity(on_meta(output_stride=output_stride, **options), (513, 513))
    assert f"{costs.params / 1e6:.{len(params.partition('.')[2])}f}" == params
    assert f"{costs.madds / 1e9:.{len(madds.partition('.')[2])}f}" == madds


@pytest.mark.parametrize(("options", "madds"), [(V2, 152.33), (V2_ASPP, 327.93), (V1_ASPP, 800.75)])
def test_costs_of_multi_scale_and_flip(options: dict[str, Any], madds: float) -> None:
    model = on_meta(output_stride=8, **options)
    total = 2 * sum(mv.complexity(model, (side, side)).madds for side in (257, 385, 513, 641, 769, 897))
    assert round(total / 1e9, 2) == madds


def test_parameters_do_not_depend_on_the_output_stride() -> None:
    counts = {
        stride: mv.complexity(on_meta(output_stride=stride, **V2_ASPP), (65, 65)).params for stride in (8, 16, 32)
    }
    assert len(set(counts.values())) == 1


# ---- structure ----


def test_defaults() -> None:
    model = on_meta()
    assert (model.task, model.num_classes, model.names) == ("segmentation", 21, ())
    assert model.preprocessing.image_size == (513, 513)
    assert model.preprocessing.resize == "letterbox"
    assert model(torch.empty(2, 3, 513, 513, device="meta")).shape == (2, 21, 33, 33)
    # The block's linear output of 320 channels, before the last convolution (paper: "second last feature map").
    assert [tuple(model.backbone.feature_specs[tap]) for tap in model.backbone.taps] == [(320, 16)]
    assert not any(name.startswith("backbone.last") for name in model.state_dict())


@pytest.mark.parametrize(
    ("backbone", "head", "taps"),
    [
        ("mobilenet_v1", "aspp", [(1024, 16)]),
        ("mobilenet_v3_large", "aspp", [(960, 16)]),
        ("mobilenet_v3_small", "aspp", [(576, 16)]),
        ("mobilenet_v1", "lraspp", [(256, 8), (1024, 16)]),
        ("mobilenet_v2", "lraspp", [(32, 8), (1280, 16)]),
        ("mobilenet_v3_large", "lraspp", [(40, 8), (960, 16)]),  # torchvision's low_channels and high_channels
        ("mobilenet_v3_small", "lraspp", [(24, 8), (576, 16)]),
    ],
)
def test_features(backbone: str, head: str, taps: list[tuple[int, int]]) -> None:
    model = on_meta(backbone=backbone, head=head)
    assert [tuple(model.backbone.feature_specs[tap]) for tap in model.backbone.taps] == taps


def test_head_by_hand(randomize: Randomize) -> None:
    """Pooling first, then 1x1, then the atrous branches; written with functions alone."""
    model = random_model(randomize, width=0.35, atrous_rates=(2, 3), head_channels=16, head_norm_eps=1e-5)
    x = torch.randn(2, 112, 9, 7, generator=torch.Generator().manual_seed(0))

    def unit(layer: Any, features: torch.Tensor, dilation: int = 1) -> torch.Tensor:
        weight, norm = layer.conv.weight, layer.norm
        out = F.conv2d(features, weight, padding=dilation if weight.shape[-1] == 3 else 0, dilation=dilation)
        return F.batch_norm(out, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=1e-5).relu()

    head = model.head
    with torch.no_grad():
        parts = [
            unit(head.pooling, x.mean((2, 3), keepdim=True)).expand(-1, -1, 9, 7),
            unit(head.pointwise, x),
            unit(head.atrous[0], x, 2),
            unit(head.atrous[1], x, 3),
        ]
        wanted = F.conv2d(unit(head.project, torch.cat(parts, 1)), head.classifier.weight, head.classifier.bias)
        ours = head([x], (144, 112))
    assert wanted.std() > 0.1
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)


def test_initial_weights_of_the_classifier() -> None:
    """Truncated normal of deviation 0.01, cut at two deviations, which leaves 0.88 of it; no bias."""
    torch.manual_seed(0)
    for head in ("aspp", "lraspp"):
        model: Any = mv.create_model("segmentation", width=0.35, head=head, num_classes=200)
        parts = [model.head.classifier] if head == "aspp" else [model.head.low_classifier, model.head.high_classifier]
        for part in parts:
            assert part.weight.abs().max() <= 0.02
            assert part.weight.std().item() == pytest.approx(0.01 * 0.8796, rel=0.05)
            assert not part.bias.any()


@pytest.mark.parametrize("head", ["aspp", "lraspp"])
@pytest.mark.parametrize(("backbone", "width"), BACKBONES)
def test_any_size(backbone: str, width: float, head: str, randomize: Randomize) -> None:
    for padding in ("symmetric", "tf"):
        model = random_model(randomize, backbone=backbone, width=width, head=head, padding=padding)
        stride = 16 if head == "aspp" else 8  # the size of the logits
        for height, width_ in ((64, 64), (65, 97), (33, 160), (1, 1), (17, 30)):
            with torch.no_grad():
                logits = model(images(1, height, width_))
            assert logits.shape == (1, 5, -(-height // stride), -(-width_ // stride))
            assert logits.isfinite().all()
            assert logits.std() > 0.01


# ---- torchvision ----


@torch.no_grad()
def _copy(reference: Any, model: Any) -> None:
    """Torchvision's weights into ours, by name, every one used."""
    theirs = reference.state_dict()
    pairs = {ours: name for ours, name in name_pairs(model) if name.startswith("features")}
    state = {ours: theirs.pop(name.replace("features", "backbone")) for ours, name in pairs.items()}
    names = {"project.conv": "cbr.0", "project.norm": "cbr.1", "gate": "scale.1"}
    names |= {name: name for name in ("low_classifier", "high_classifier")}
    for ours, name in names.items():
        for key in [key for key in theirs if key.startswith(f"classifier.{name}.")]:
            state[key.replace(f"classifier.{name}", f"heads.segmentation.{ours}")] = theirs.pop(key)
    assert not theirs
    model.load_state_dict(state)


@pytest.mark.parametrize("size", [(64, 64), (97, 129)])
def test_equals_torchvisions_lraspp(size: tuple[int, int], randomize: Randomize) -> None:
    reference = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=21).eval()
    randomize(reference)
    # Where a stride is given up for dilation, torchvision dilates that very layer, TensorFlow (and we) those behind it.
    depthwise = reference.backbone["13"].block[1][0]
    assert depthwise.dilation == (2, 2)
    depthwise.dilation, depthwise.padding = (1, 1), (2, 2)
    model: Any = mv.create_model(
        "segmentation", backbone="mobilenet_v3_large", head="lraspp", num_classes=21, head_norm_eps=1e-5
    ).eval()
    _copy(reference, model)
    with torch.no_grad():
        x = exact_images(2, *size)
        ours, wanted = model.double()(x), reference.double()(x)["out"]
    assert wanted.std() > 0.1
    ours = F.interpolate(ours, size=size, mode="bilinear", align_corners=False)
    assert (ours - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_parameters_of_lraspp_are_torchvisions() -> None:
    model = on_meta(backbone="mobilenet_v3_large", head="lraspp")
    published = LRASPP_MobileNet_V3_Large_Weights.DEFAULT.meta["num_params"]
    assert mv.complexity(model, (65, 65)).params == published == 3_221_538


# ---- output stride ----


@pytest.mark.parametrize(("backbone", "width"), BACKBONES)
def test_set_output_stride(backbone: str, width: float, randomize: Randomize) -> None:
    options: dict[str, Any] = {"backbone": backbone, "width": width, "atrous_rates": ASPP, "head_channels": 8}
    model = random_model(randomize, **options).double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    results = {}
    for stride in (8, 32, 16):
        model.set_output_stride(stride)
        assert model.config.backbone_options["output_stride"] == stride
        fresh = random_model(randomize, output_stride=stride, **options).double()
        fresh.load_state_dict(before)
        with torch.no_grad():
            ours, wanted = model(exact_images(1, 65, 97)), fresh(exact_images(1, 65, 97))
        assert ours.shape[-2:] == (-(-65 // stride), -(-97 // stride))
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)
        results[stride] = ours
        # "12/24/36 (OS8)": the reach in pixels is the same.
        rates = [branch.conv.dilation for branch in model.head.atrous]
        assert rates == [(rate * 16 // stride,) * 2 for rate in ASPP]
        assert [branch.conv.padding for branch in model.head.atrous] == rates
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    # Cells that lie at the same place see the image alike, but not the same.
    assert not torch.allclose(results[8][..., ::2, ::2], results[16])


def test_rates_of_the_backbone() -> None:
    """TF's rule: the block that loses its stride has the previous rate (paper_facts 2.3)."""
    model = on_meta()

    def rates() -> list[tuple[int, int]]:
        layers = [model.backbone.get_submodule(f"block{index}.depthwise.conv") for index in range(17)]
        return [(layer.stride[0], layer.dilation[0]) for layer in layers]

    first = [(1, 1), (2, 1), (1, 1), (2, 1), (1, 1), (1, 1)]
    assert rates() == [*first, (2, 1), *[(1, 1)] * 6, (1, 1), *[(1, 2)] * 3]
    model.set_output_stride(8)
    assert rates() == [*first, (1, 1), *[(1, 2)] * 6, (1, 2), *[(1, 4)] * 3]
    model.set_output_stride(32)
    assert rates() == [*first, (2, 1), *[(1, 1)] * 6, (2, 1), *[(1, 1)] * 3]


def test_a_wrong_output_stride_changes_nothing(randomize: Randomize) -> None:
    model = random_model(randomize, width=0.35)
    with torch.no_grad():
        before = model(images(1, 65, 65))
        with pytest.raises(ConfigError, match="output_stride=4 is unknown; valid: 32, 16, 8"):
            model.set_output_stride(4)
        assert torch.equal(model(images(1, 65, 65)), before)
    assert model.config.backbone_options.get("output_stride", 16) == 16


# ---- training ----


@pytest.mark.parametrize("head", ["aspp", "lraspp"])
@pytest.mark.parametrize("backbone", ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small"])
def test_trains_with_a_batch_of_one(backbone: str, head: str) -> None:
    torch.manual_seed(0)
    model: Any = mv.create_model("segmentation", backbone=backbone, head=head, num_classes=3).train()
    for count, side in ((1, 33), (2, 16)):  # one pooled value a channel; feature maps of a single cell
        model.zero_grad()
        logits = model(images(count, side, side))
        assert logits.shape[:2] == (count, 3)
        (logits * torch.randn_like(logits)).sum().backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
        assert all(gradients[name].any() for name in gradients if "classifier" in name)
    assert all(buffer.isfinite().all() for buffer in model.buffers())


def test_pooling_has_a_norm_of_its_own_in_a_batch(randomize: Randomize) -> None:
    """A batch is normalised by its own statistics, one image alone by the running ones, and both go on training."""
    model = random_model(randomize, width=0.35, head_channels=8, dropout=0.0)
    pooling = model.head.pooling
    x = torch.randn(6, 112, 1, 1, generator=torch.Generator().manual_seed(0))
    alone = pooling(x[:1])
    pooling.train()
    running = pooling.norm.running_mean.clone()
    assert torch.equal(pooling(x[:1]), alone)
    assert torch.equal(pooling.norm.running_mean, running)
    norm = pooling.norm
    own = F.batch_norm(pooling.conv(x), None, None, norm.weight, norm.bias, training=True, eps=norm.eps).relu()
    torch.testing.assert_close(pooling(x), own)
    assert not torch.equal(norm.running_mean, running)


def test_dropout_is_for_training_alone(randomize: Randomize) -> None:
    model = random_model(randomize, width=0.35, dropout=0.5)
    torch.manual_seed(0)
    x = [torch.randn(2, 112, 4, 4)]
    with torch.no_grad():
        assert torch.equal(model.head(x, (64, 64)), model.head(x, (64, 64)))
        model.head.dropout.train()
        assert not torch.equal(model.head(x, (64, 64)), model.head(x, (64, 64)))


# ---- files and options ----


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"atrous_rates": (2, 4), "output_stride": 8, "head_channels": 12, "dropout": 0.3},
        {"head_norm_eps": 0.1, "head_activation": "relu6", "padding": "tf", "norm_eps": 1e-3, "divisor": 1},
        {"head": "lraspp", "head_channels": 24},
    ],
)
def test_save_and_load(options: dict[str, Any], tmp_path: Path, randomize: Randomize) -> None:
    names = ("background", "a", "b")
    model: Any = mv.create_model("segmentation", width=0.35, names=names, image_size=(64, 97), **options).eval()
    randomize(model)
    stride = 32 if options.get("output_stride") == 8 else 8
    for change in (False, True):
        if change:
            model.set_output_stride(stride)
        mv.save(model, tmp_path / "x.safetensors")
        loaded: Any = mv.load(tmp_path / "x.safetensors")
        assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
        x = exact_images(2, 64, 97)
        with torch.no_grad():
            ours, wanted = loaded.double()(x), copy.deepcopy(model).double()(x)
        assert wanted.std() > 0.1
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)
        assert (loaded.task, loaded.names, loaded.num_classes) == ("segmentation", names, 3)
        assert loaded.preprocessing == model.preprocessing
        assert loaded.backbone.output_stride == model.backbone.output_stride


@pytest.mark.parametrize(
    ("first", "second"),
    itertools.pairwise(
        [{"head_norm_eps": 0.1}, {"head_norm_eps": 1.0}, {}, {"head_activation": "relu6"}, {"atrous_rates": (6,)}]
    ),
)
def test_options_tell(first: dict[str, Any], second: dict[str, Any], randomize: Randomize) -> None:
    results = []
    for options in (first, second):
        model = random_model(randomize, width=0.35, **options)
        with torch.no_grad():
            results.append(model(3 * images(1, 65, 65)))
    assert not torch.allclose(*results)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "fcn"}, r"head='fcn' is unknown; valid: aspp, lraspp"),
        ({"head_activation": "swish"}, r"head_activation='swish' is unknown; valid: relu, relu6"),
        ({"dropout": 1.0}, r"dropout=1\.0 "),
        ({"dropout": -0.1}, r"dropout=-0\.1 "),
        ({"dropout": "0.1"}, r"dropout='0\.1' "),
        ({"atrous_rates": (6, 0)}, r"atrous_rates=\[6, 0\] "),
        ({"atrous_rates": (6.0,)}, r"atrous_rates=\[6\.0\] "),
        ({"head": "lraspp", "atrous_rates": ASPP}, r"atrous_rates=.*head=aspp"),
        ({"output_stride": 4}, r"output_stride=4 is unknown; valid: 32, 16, 8"),
        ({"num_classes": 0}, r"num_classes=0"),
        ({"num_classes": 3, "names": ("a", "b")}, r"num_classes=3, but there are 2 class names"),
        ({"nms_iou": 0.5}, r"option of a segmentation model with mobilenet_v2: nms_iou"),
        ({"atrous_rate": 6}, r"atrous_rate; did you mean atrous_rates\?"),
    ],
)
def test_mistakes_are_named_with_what_is_valid(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        on_meta(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"atrous_rates": 6}, "atrous_rates"),
        ({"head_channels": 0}, "head_channels"),
        ({"head_channels": -8}, "head_channels"),
        ({"head_norm_eps": -1.0}, "head_norm_eps"),
        ({"head": "aspp", "taps": ("block5", "block16")}, "taps"),
        ({"head": "lraspp", "taps": ("block16",)}, "taps"),
    ],
)
def test_values_that_cannot_work_are_named(options: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        on_meta(**options)
