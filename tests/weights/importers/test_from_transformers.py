"""transformers' MobileNets: the same outputs at random weights, and what the importers make of Google's conventions."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    MobileNetV1Config,
    MobileNetV1ForImageClassification,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    MobileNetV2ForSemanticSegmentation,
)

from mnv2vision.data.formats.imagenet import imagenet_names
from mnv2vision.data.formats.mask_names import MASK_NAMES
from mnv2vision.errors import ConfigError, WeightsError
from mnv2vision.weights.importers.from_transformers import convert, import_classifier, import_segmenter

pytestmark = pytest.mark.slow

Randomize = Callable[[nn.Module], None]


def classifier(generation: int, width: float, classes: int = 1001, **options: Any) -> Any:
    options |= {"depth_multiplier": width, "num_labels": classes}
    if generation == 1:
        return MobileNetV1ForImageClassification(MobileNetV1Config(**options)).train(False)
    return MobileNetV2ForImageClassification(MobileNetV2Config(**options)).train(False)


def segmenter(**options: Any) -> Any:
    options |= {"num_labels": 21, "output_stride": 8}
    return MobileNetV2ForSemanticSegmentation(MobileNetV2Config(**options)).train(False)


def images() -> Tensor:
    """In double precision, as random weights amplify the rounding, which other kernels do otherwise."""
    return torch.randn(2, 3, 64, 82, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert theirs.std() > 1e-3
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("padding", ["tf", "symmetric"])
@pytest.mark.parametrize(("generation", "width"), [(2, 1.4), (2, 1.0), (2, 0.75), (2, 0.35), (1, 1.0), (1, 0.75)])
def test_classifiers(generation: int, width: float, padding: str, tmp_path: Path, randomize: Randomize) -> None:
    theirs = classifier(generation, width, tf_padding=padding == "tf")
    randomize(theirs)
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    options = {} if padding == "tf" else {"padding": padding}
    ours = convert("classification", tmp_path / "model.safetensors", **options)
    with torch.no_grad():
        assert_close(ours.double()(images()), theirs.double()(images()).logits[:, 1:])
    assert (ours.config.arguments["backbone"], ours.config.arguments["width"]) == (f"mobilenet_v{generation}", width)
    assert ours.names == imagenet_names()
    assert not ours.training
    ends = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    assert ours.preprocessing.normalize(ends)[:, :, 0, 0].tolist() == [[-1] * 3, [1] * 3]


def test_background_kept_and_other_classes(randomize: Randomize) -> None:
    theirs = classifier(2, 0.35)
    randomize(theirs)
    changes = {"image_size": [96, 96], "crop_fraction": 0.75}
    ours = import_classifier(theirs.state_dict(), "x", keep_background=True, preprocessing=changes)
    assert ours.names[:2] == ("background", "tench")
    assert (ours.preprocessing.image_size, ours.preprocessing.crop_fraction) == ((96, 96), 0.75)
    assert ours.preprocessing.mean == (0.5, 0.5, 0.5)
    with torch.no_grad():
        assert_close(ours.double()(images()), theirs.double()(images()).logits)
    few = import_classifier(classifier(1, 0.25, classes=6).state_dict(), "x")
    assert (few.num_classes, few.names) == (6, ())


@pytest.mark.parametrize("padding", ["tf", "symmetric"])
@pytest.mark.parametrize("width", [1.0, 0.35])
def test_segmenters(width: float, padding: str, tmp_path: Path, randomize: Randomize) -> None:
    theirs = segmenter(depth_multiplier=width, tf_padding=padding == "tf")
    randomize(theirs)
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    options: dict[str, Any] = {} if padding == "tf" else {"padding": padding}
    ours = convert("segmentation", tmp_path / "pytorch_model.bin", head_activation="relu", **options)
    assert (ours.names, ours.preprocessing.image_size) == (MASK_NAMES, (513, 513))
    with torch.no_grad():
        logits = theirs.double()(images()).logits
        assert_close(ours.double()(images()), logits)
        # As the TensorFlow graph has it, which Google's weights come from; it differs.
        relu6: Any = import_segmenter(theirs.state_dict(), "x", image_size=257, output_stride=16, **options)
        assert relu6.config.arguments["head_activation"] == "relu6"
        assert (relu6.preprocessing.image_size, relu6.backbone.output_stride) == ((257, 257), 16)
        relu6.set_output_stride(8)
        assert (relu6.double()(images()) - logits).abs().max() > 1e-2 * logits.abs().max()


def test_what_does_not_fit_is_named() -> None:
    state = classifier(2, 0.35, classes=7).state_dict()
    for changes, message in (
        (
            {"mobilenet_v2.layer.3.conv_3x3.normalization.bias": None},
            "lacks mobilenet_v2.layer.3.conv_3x3.normalization.bias (96,)",
        ),
        ({"classifier.weight": torch.zeros(7, 3)}, "classifier.weight is (7, 3), but the model has (7, 1280)"),
        ({"mobilenet_v2.layer.16.weight": torch.zeros(5)}, "mobilenet_v2.layer.16.weight (5,) has no place"),
    ):
        broken = {name: tensor for name, tensor in (state | changes).items() if tensor is not None}
        with pytest.raises(WeightsError, match=rf"^x: {re.escape(message)}.*mobilenet_v2, width=0\.35\)$"):
            import_classifier(broken, "x")
    with pytest.raises(WeightsError, match="not a state of transformers' MobileNetV1ForImage"):
        import_classifier({"fc.weight": torch.zeros(3, 2)}, "x")
    with pytest.raises(WeightsError, match="lacks segmentation_head"):
        import_segmenter(state, "x")
    with pytest.raises(ConfigError, match=r"names: 2 given, but x has 21 classes"):
        import_segmenter(segmenter().state_dict(), "x", names=["a", "b"])
    with pytest.raises(ConfigError, match="no importer for task=detection; valid: classification, segmentation"):
        convert("detection", "x")
    with pytest.raises(ConfigError, match="unknown option of source=huggingface task=segmentation: keep_background"):
        convert("segmentation", "x", keep_background=True)
