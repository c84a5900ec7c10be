"""Classification heads: what they are made of, what they cost, and what they refuse."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision.models as tv
from torch import nn

import mnv2vision as mv
from mnv2vision.errors import ConfigError
from mnv2vision.preprocessing import Preprocessing


def make(**options: Any) -> Any:
    with torch.device("meta"):
        return mv.create_model("classification", **options)


# Torchvision measured these of its own models; its hidden layer of V3 is the paper's.
@pytest.mark.parametrize(
    ("backbone", "weights"),
    [
        ("mobilenet_v2", tv.MobileNet_V2_Weights.IMAGENET1K_V1),
        ("mobilenet_v3_large", tv.MobileNet_V3_Large_Weights.IMAGENET1K_V1),
        ("mobilenet_v3_small", tv.MobileNet_V3_Small_Weights.IMAGENET1K_V1),
    ],
)
def test_costs_are_the_published_ones(backbone: str, weights: Any) -> None:
    model = make(backbone=backbone)
    costs = mv.complexity(model, (224, 224))
    assert costs.params == weights.meta["num_params"]
    assert costs.madds / 1e9 == pytest.approx(weights.meta["_ops"], abs=0.0006)
    assert model.num_classes == 1000


def test_costs_of_v1() -> None:
    costs = mv.complexity(make(backbone="mobilenet_v1"), (224, 224))
    assert round(costs.madds / 1e6) == 569  # arXiv 1704.04861, table 4
    assert round(costs.params / 1e6, 1) == 4.2


def test_classes_cost_what_a_linear_layer_costs() -> None:
    two, seven = (mv.complexity(make(num_classes=count), (64, 64)) for count in (2, 7))
    assert seven.params - two.params == 5 * (1280 + 1)
    assert seven.madds - two.madds == 5 * 1280


@pytest.mark.parametrize(("backbone", "hidden"), [("mobilenet_v3_large", 1280), ("mobilenet_v3_small", 1024)])
def test_v3_has_a_hidden_layer(backbone: str, hidden: int, randomize: Callable[[nn.Module], None]) -> None:
    model: Any = mv.create_model("classification", backbone=backbone, num_classes=3)
    randomize(model)
    model.eval()
    assert model.head.hidden.out_features == model.head.classifier.in_features == hidden
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pooled = model.backbone(x)["last"].double().mean((2, 3))
        z = pooled @ model.head.hidden.weight.double().T + model.head.hidden.bias
        z = z * torch.clamp(z + 3, 0, 6) / 6  # h-swish, arXiv 1905.02244, section 5.2
        wanted = z @ model.head.classifier.weight.double().T + model.head.classifier.bias
        torch.testing.assert_close(model(x).double(), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tap", ["last", "block5", "block13.expand"])
def test_it_classifies_the_mean_of_its_tap(tap: str, randomize: Callable[[nn.Module], None]) -> None:
    model: Any = mv.create_model("classification", width=0.35, num_classes=4, taps=(tap,), dropout=0.5)
    randomize(model)
    model.eval()
    assert model.head.hidden is None
    torch.manual_seed(0)
    x = torch.randn(2, 3, 64, 98)
    with torch.no_grad():
        pooled = model.backbone(x)[tap].double().mean((2, 3))
        wanted = pooled @ model.head.classifier.weight.double().T + model.head.classifier.bias
        torch.testing.assert_close(model(x).double(), wanted, rtol=1e-4, atol=1e-4)
        # Dropout is for training alone, and zeroes half of what the classifier sees.
        assert torch.equal(model(x), model(x))
        seen: list[torch.Tensor] = []
        model.head.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        model.head.dropout.train()
        model(x)
        kept = seen[0] != 0
        assert 0 < int(kept.sum()) < kept.numel()
        torch.testing.assert_close(seen[0].double()[kept], 2 * pooled[kept], rtol=1e-4, atol=1e-4)


def test_num_classes_and_names() -> None:
    assert make(names=("a", "b")).num_classes == 2
    assert make(names=["a", "b"]).names == ("a", "b")
    assert make(num_classes=2, names=("a", "b")).head.classifier.out_features == 2
    assert make(num_classes=7).names == ()
    assert make().task == "classification"


def test_preprocessing() -> None:
    assert make().preprocessing == Preprocessing(image_size=(224, 224))
    assert make(image_size=96).preprocessing.image_size == (96, 96)
    assert make(image_size=(96, 64)).preprocessing.image_size == (96, 64)
    rule = Preprocessing(image_size=(32, 32), crop_fraction=1.0, mean=(0, 0, 0))
    assert make(preprocessing=rule).preprocessing == rule
    changed = make(preprocessing=rule, image_size=48).preprocessing
    assert (changed.image_size, changed.crop_fraction, changed.mean) == ((48, 48), 1.0, (0, 0, 0))
    assert make(preprocessing={"resize": "stretch"}).preprocessing.resize == "stretch"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "detecting"}, r"task 'detecting' is unknown; valid: classification"),
        ({"backbone": "mobilenet_v4"}, r"mobilenet_v4.*valid: mobilenet_v1, mobilenet_v2, mobilenet_v3_large"),
        ({"num_classes": 0}, r"num_classes=0"),
        ({"num_classes": 3, "names": ("a", "b")}, r"num_classes=3, but there are 2 class names"),
        ({"widht": 0.5}, r"widht; did you mean width\? \(valid: width, .*padding"),
        ({"backbone": "mobilenet_v1", "expansion": 6}, r"classification model with mobilenet_v1: expansion \(valid: "),
        ({"width": 0}, r"width=0 "),
        ({"width": "wide"}, r"width='wide'"),
        ({"padding": "same"}, r"padding='same' is unknown; valid: symmetric, tf"),
        ({"output_stride": 4}, r"output_stride=4 is unknown; valid: 32, 16, 8"),
        ({"taps": ("block99",)}, r"block99.*valid: stem, block0"),
        ({"dropout": 1.5}, r"dropout=1\.5"),
        ({"dropout": "much"}, r"dropout='much'"),
        ({"image_size": 0}, r"image_size=0 "),
        ({"image_size": (1, 2, 3)}, r"image_size=\(1, 2, 3\)"),
        ({"image_size": 2.5}, r"image_size=2\.5"),
        ({"image_size": "big"}, r"image_size='big'"),
        ({"preprocessing": {"image_sise": 3}}, r"image_sise; did you mean image_size\?"),
    ],
)
def test_mistakes_are_named_with_what_is_valid(options: dict[str, Any], message: str) -> None:
    task = options.pop("task", "classification")
    with pytest.raises(ConfigError, match=message) as caught, torch.device("meta"):
        mv.create_model(task, **options)
    assert "\n" not in str(caught.value)
