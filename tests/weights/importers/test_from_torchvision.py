"""torchvision's MobileNets: the same outputs at random weights, and the published weights by their names."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision.models as tv
from PIL import Image
from torch import Tensor, nn
from torchvision.models._api import WeightsEnum

import mnv2vision as mv
from mnv2vision.backbones.folding import carry_bias
from mnv2vision.common.cache import home
from mnv2vision.data.formats.imagenet import imagenet_names
from mnv2vision.errors import WeightsError
from mnv2vision.weights.importers.from_torchvision import convert, export_state, import_classifier

pytestmark = pytest.mark.slow

Randomize = Callable[[nn.Module], None]


def small_state(randomize: Randomize) -> dict[str, Tensor]:
    theirs: nn.Module = tv.mobilenet_v2(width_mult=0.5, num_classes=7)
    randomize(theirs)
    return theirs.state_dict()


def assert_same_outputs(ours: nn.Module, theirs: nn.Module) -> None:
    # In double precision, as random weights amplify the rounding, which other kernels do otherwise.
    x = torch.randn(2, 3, 65, 50, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    with torch.no_grad():
        a, b = ours.double()(x), theirs.double()(x)
    assert b.std() > 1e-3
    assert (a - b).abs().max() <= 1e-5 * b.abs().max()


@pytest.mark.parametrize(
    ("create", "width", "backbone"),
    [
        (tv.mobilenet_v2, 0.5, "mobilenet_v2"),
        (tv.mobilenet_v2, 1.0, "mobilenet_v2"),
        (tv.mobilenet_v2, 1.4, "mobilenet_v2"),
        (tv.mobilenet_v3_large, 1.0, "mobilenet_v3_large"),
        (tv.mobilenet_v3_small, 1.0, "mobilenet_v3_small"),
    ],
)
def test_outputs(
    create: Callable[..., nn.Module], width: float, backbone: str, tmp_path: Path, randomize: Randomize
) -> None:
    options = {"width_mult": width} if backbone == "mobilenet_v2" else {}
    theirs = create(**options)
    randomize(theirs)
    theirs.eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = convert("classification", tmp_path / "weights.pth")

    assert ours.config.arguments["backbone"] == backbone
    assert ours.config.arguments["width"] == width
    assert ours.names == imagenet_names()
    assert not ours.training
    assert_same_outputs(ours, theirs)
    # It can go on training with the same batch norm.
    our_norms, their_norms = (
        [(norm.eps, norm.momentum) for norm in model.modules() if isinstance(norm, nn.BatchNorm2d)]
        for model in (ours, theirs)
    )
    assert our_norms == their_norms


@pytest.mark.parametrize(
    ("create", "backbone", "options"),
    [
        (tv.mobilenet_v2, "mobilenet_v2", {"width": 0.5}),
        (tv.mobilenet_v2, "mobilenet_v2", {"width": 1.4, "padding": "symmetric", "dropout": 0.5}),
        (tv.mobilenet_v3_large, "mobilenet_v3_large", {}),
        (tv.mobilenet_v3_small, "mobilenet_v3_small", {}),
    ],
)
def test_back_to_torchvision(
    create: Callable[..., nn.Module], backbone: str, options: dict[str, Any], randomize: Randomize
) -> None:
    ours = mv.create_model("classification", backbone=backbone, num_classes=9, **options)
    randomize(ours)
    theirs = create(num_classes=9, **({"width_mult": options["width"]} if options else {}))
    theirs.load_state_dict(export_state(ours))
    assert_same_outputs(ours.eval(), theirs.eval())


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "mobilenet_v3_small"])
def test_a_temperature_goes_into_the_last_layer(backbone: str, randomize: Randomize) -> None:
    ours = mv.create_model("classification", backbone=backbone, num_classes=9)
    randomize(ours)
    heads = {name: replace(head, temperature=2.5) for name, head in ours.config.heads.items()}
    ours.config = replace(ours.config, heads=heads)
    theirs = getattr(tv, backbone)(num_classes=9)
    theirs.load_state_dict(export_state(ours))
    assert_same_outputs(ours.eval(), theirs.eval())


def test_folded_weights_go_back(randomize: Randomize) -> None:
    ours = mv.create_model("classification", width=0.35, num_classes=9)
    randomize(ours)
    for layer in ours.modules():
        if isinstance(layer, nn.BatchNorm2d):
            carry_bias(layer, layer.bias.detach().clone())
    theirs = tv.mobilenet_v2(width_mult=0.35, num_classes=9)
    theirs.load_state_dict(export_state(ours))
    assert_same_outputs(ours.eval(), theirs.eval())
    with pytest.raises(WeightsError, match=r"has no backbone.stem.norm.weight; export it before folding"):
        export_state(mv.backbones.fold_batch_norm(ours))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": "tf"}, "torchvision: its mobilenet_v2 does not support padding='tf'"),
        ({"norm_eps": 1e-3}, "its mobilenet_v2 does not support norm_eps=0.001"),
        ({"depth": 1.2}, "its mobilenet_v2 does not support depth=1.2"),
        ({"output_stride": 16}, "its mobilenet_v2 does not support output_stride=16"),
        ({"taps": ["block16"]}, "its mobilenet_v2 classifies last, not block16"),
        (
            {"backbone": "mobilenet_v3_small", "norm_eps": 1e-5},
            "its mobilenet_v3_small does not support norm_eps=1e-05",
        ),
        ({"backbone": "mobilenet_v3_large", "width": 0.75}, "its mobilenet_v3_large does not support width=0.75"),
        ({"backbone": "mobilenet_v1"}, "torchvision has no mobilenet_v1"),
        ({"task": "segmentation"}, "only classifiers can be exported"),
    ],
)
def test_what_torchvision_cannot_compute(options: dict[str, Any], message: str) -> None:
    model = mv.create_model(**({"task": "classification"} | options))
    with pytest.raises(WeightsError, match=re.escape(message)):
        export_state(model)


def test_preprocessing_that_differs(randomize: Randomize) -> None:
    model = import_classifier(small_state(randomize), "x", preprocessing={"image_size": [160, 160]})
    assert model.preprocessing == mv.Preprocessing(image_size=(160, 160))


def test_classes_of_ones_own(randomize: Randomize) -> None:
    model = import_classifier(small_state(randomize), "x")
    assert model.num_classes == 7
    assert model.names == ()


def changed(state: dict[str, Tensor], **changes: Tensor | None) -> dict[str, Tensor]:
    return {key: value for key, value in (state | changes).items() if value is not None}


def test_what_does_not_fit_is_named(randomize: Randomize) -> None:
    state = small_state(randomize)
    for changes, message in (
        ({"features.3.conv.1.1.bias": None}, "lacks features.3.conv.1.1.bias (96,)"),
        ({"features.0.0.weight": None}, "lacks features.0.0.weight (16, 3, 3, 3)"),
        ({"classifier.1.weight": None}, "lacks classifier.1.weight (7, 1280)"),
        ({"features.19.weight": torch.zeros(2, 3)}, "features.19.weight (2, 3) has no place"),
        (
            {"features.0.0.weight": torch.zeros(17, 3, 3, 3)},
            "features.0.0.weight is (17, 3, 3, 3), but the model has (16, 3, 3, 3)",
        ),
    ):
        with pytest.raises(WeightsError, match=rf"^x: {re.escape(message)}.*width=0\.5\)$"):
            import_classifier(changed(state, **changes), "x")
    # A width that no one has published.
    with pytest.raises(
        WeightsError, match=r"^x: .* is \(.*, but the model has .*closest: backbone=mobilenet_v2, width="
    ):
        import_classifier(tv.mobilenet_v2(width_mult=0.6).state_dict(), "x")


def test_bad_files(tmp_path: Path) -> None:
    def refusal(content: Any = None) -> str:
        path = tmp_path / "w.pth"
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            torch.save(content, path)
        with pytest.raises(WeightsError) as caught:
            convert("classification", path)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no such file" in refusal()
    assert "not a state dictionary" in refusal(b"no zip")
    assert "not a state dictionary" in refusal(b"")
    assert "not a state dictionary" in refusal([1, 2])
    assert "not a state dictionary" in refusal({"epoch": 3})
    assert "not a state dictionary" in refusal(nn.Linear(2, 2))  # a whole module would need to be unpickled
    assert "not a state of torchvision's" in refusal(tv.resnet18().state_dict())


# ---- published weights by name, without the network ----


@pytest.mark.parametrize(
    ("name", "create", "resize"),
    [
        ("MobileNet_V2_Weights.IMAGENET1K_V1", tv.mobilenet_v2, 256),
        ("MobileNet_V2_Weights.IMAGENET1K_V2", tv.mobilenet_v2, 232),
        ("MobileNet_V3_Large_Weights.IMAGENET1K_V2", tv.mobilenet_v3_large, 232),
        ("MobileNet_V3_Small_Weights.IMAGENET1K_V1", tv.mobilenet_v3_small, 256),
    ],
)
def test_published_names(
    name: str, create: Callable[..., nn.Module], resize: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = create()
    asked: list[str] = []

    def downloaded(self: WeightsEnum, *args: Any, **kwargs: Any) -> Any:
        asked.append(str(self))
        assert kwargs["check_hash"]
        assert kwargs["model_dir"] == str(home() / "downloads")
        return theirs.state_dict()

    monkeypatch.setattr(WeightsEnum, "get_state_dict", downloaded)
    model: Any = convert("classification", name)
    assert asked == [name]
    assert torch.equal(model.head.classifier.weight, list(theirs.parameters())[-2])
    assert model.preprocessing.crop_fraction == pytest.approx(224 / resize)
    assert model.names == imagenet_names()

    # The weights' own transform gives the same input, up to a level of brightness.
    cells = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    photo = Image.fromarray(cells).resize((500, 375), Image.Resampling.BICUBIC)
    prepared = torch.from_numpy(model.preprocessing.prepare(np.asarray(photo))).permute(2, 0, 1)[None]
    level = 1 / 255 / 0.224
    wanted = tv.get_weight(name).transforms()(photo)
    assert (model.preprocessing.normalize(prepared)[0] - wanted).abs().max() <= 1.1 * level


def test_names_that_are_none_and_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MobileNet_V2_Weights.IMAGENET99K", "MobileNet_V9_Weights.IMAGENET1K_V1"):
        with pytest.raises(WeightsError, match="torchvision has no weights by this name"):
            convert("classification", name)

    def offline(self: WeightsEnum, *args: Any, **kwargs: Any) -> Any:
        raise URLError("Name or service not known")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", offline)
    with pytest.raises(WeightsError, match=r"download failed .*not known.*local file"):
        convert("classification", "MobileNet_V2_Weights.IMAGENET1K_V2")


def test_the_names_are_those_of_torchvision() -> None:
    assert mv.create_model("classification", names=imagenet_names()).num_classes == 1000
    theirs = tv.MobileNet_V2_Weights.IMAGENET1K_V2.meta["categories"]
    # torchvision has two names twice (crane, maillot); ours are told apart, so that a name means one class.
    pairs = zip(imagenet_names(), theirs, strict=True)
    assert sum(ours.split(" (")[0].lower() == other.lower() for ours, other in pairs) > 950
