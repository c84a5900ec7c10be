"""TensorFlow's DeepLab: the published vectors, and the other releases' names, widths and branches."""

import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F
from torchvision.models.segmentation import LRASPP_MobileNet_V3_Large_Weights

import mnv2vision as mv
from mnv2vision.errors import ConfigError, WeightsError
from mnv2vision.segmentation.inference import to_masks
from mnv2vision.weights.importers.from_tensorflow import convert, import_segmenter
from mnv2vision.weights.importers.tf_files import read_variables
from mnv2vision.weights.importers.tf_variables import Variables

pytestmark = pytest.mark.slow

Arrays = dict[str, NDArray[Any]]
IDS = ("2007_000032", "2007_000033")
VOC_NAMES = LRASPP_MobileNet_V3_Large_Weights.DEFAULT.meta["categories"]


# ---- the official weights ----


@pytest.fixture(scope="module")
def official(shared: Path) -> Path:
    return shared / "weights/tf_deeplabv3_mobilenet_v2_1.0_513.safetensors"


@pytest.fixture(scope="module")
def voc(official: Path) -> Any:
    return import_segmenter(read_variables(official))


@pytest.fixture(scope="module")
def vectors(official: Path) -> dict[str, NDArray[Any]]:
    with np.load(official.with_suffix(".vectors.npz")) as file:
        return dict(file)


@pytest.fixture(scope="module")
def logits(voc: Any, vectors: dict[str, NDArray[Any]]) -> dict[str, torch.Tensor]:
    """Ours, by image."""
    results = {}
    with torch.no_grad():
        for image_id in IDS:
            image = torch.from_numpy(vectors[f"input_{image_id}"].astype(np.float32)).permute(2, 0, 1)[None]
            results[image_id] = voc(voc.preprocessing.normalize(image))
    return results


def test_what_the_file_makes(voc: Any, official: Path) -> None:
    assert (voc.config.arguments["backbone"], voc.config.arguments["width"]) == ("mobilenet_v2", 1.0)
    arguments = voc.config.arguments
    assert (arguments["padding"], arguments["norm_eps"], arguments["head_norm_eps"]) == ("symmetric", 1e-3, 1e-5)
    assert (voc.backbone.output_stride, voc.num_classes) == (8, 21)
    assert list(voc.names) == ["background", *VOC_NAMES[1:]]
    assert not voc.training
    # The longer side resized to 513, padded with 127.5 (= 0 after scaling), RGB in [-1, 1] (shared/weights/README.md).
    assert voc.preprocessing.image_size == (513, 513)
    assert voc.preprocessing.resize == "letterbox"
    assert abs(voc.preprocessing.padding_value - 127.5) <= 0.5
    ends = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    assert voc.preprocessing.normalize(ends)[:, :, 0, 0].tolist() == [[-1] * 3, [1] * 3]
    names = [f"class {label}" for label in range(21)]
    other: Any = convert("segmentation", official, image_size=257, output_stride=16, names=names)
    assert other.preprocessing.image_size == (257, 257)
    assert (other.backbone.output_stride, list(other.names)) == (16, names)
    # 2.11 M with batch norm (paper_facts 2.3).
    assert round(mv.complexity(other, (65, 65)).params / 1e6, 4) == 2.1136


def test_cells_lie_alike_at_every_size(official: Path) -> None:
    """TensorFlow's own padding is the same at k · 16 + 1, and moves the cells elsewhere."""
    ours, theirs = (
        convert("segmentation", official, output_stride=16, padding=padding) for padding in ("symmetric", "tf")
    )
    assert theirs.config.arguments["padding"] == "tf"
    with torch.no_grad():
        for side, same in ((97, True), (96, False)):
            images = torch.randn(1, 3, side, side)
            assert torch.allclose(ours(images), theirs(images), atol=1e-4) is same


@pytest.mark.parametrize("image_id", IDS)
def test_published_logits(image_id: str, logits: dict[str, torch.Tensor], vectors: dict[str, NDArray[Any]]) -> None:
    wanted = vectors[f"logits_{image_id}"]
    assert wanted.std() > 1
    np.testing.assert_allclose(logits[image_id][0].permute(1, 2, 0).numpy(), wanted, rtol=0, atol=1e-3)


@pytest.mark.parametrize("image_id", IDS)
def test_published_label_maps(
    image_id: str, voc: Any, logits: dict[str, torch.Tensor], vectors: dict[str, NDArray[Any]]
) -> None:
    """Logits upsampled to 513 with aligned corners, cropped, the largest, nearest to the image's size."""
    wanted = vectors[f"labels_{image_id}"]
    height, width = wanted.shape
    scores = voc.head.to_pixels(logits[image_id], (513, 513))
    shown = round(513 * height / width)
    labels = scores[0, :, :shown, :513].argmax(0)
    rows, columns = (
        ((torch.arange(length) + 0.5) * of / length).long() for length, of in ((height, shown), (width, 513))
    )
    assert (labels[rows][:, columns].numpy() == wanted).mean() >= 0.999
    assert len(np.unique(wanted)) >= 2


@pytest.mark.parametrize("image_id", IDS)
def test_published_label_maps_at_the_photos_size(
    image_id: str, voc: Any, logits: dict[str, torch.Tensor], vectors: dict[str, NDArray[Any]]
) -> None:
    """Ours interpolates scores instead of labels, which differs along the edges alone."""
    wanted = vectors[f"labels_{image_id}"]
    scores = voc.head.to_pixels(logits[image_id], (513, 513))
    (mask,) = to_masks(scores, voc.preprocessing, [wanted.shape])
    assert (mask.numpy() == wanted).mean() >= 0.995


# ---- arrays of one's own, under TensorFlow's names ----

# Channels, repeats, stride of table 2; and of width 0.5 with "divisible_by=1" (paper_facts 2.3: 24 * 0.5 = 12).
TABLE = {1.0: (32, (16, 24, 32, 64, 96, 160, 320)), 0.5: (16, (8, 12, 16, 32, 48, 80, 160))}
REPEATS = (1, 2, 3, 4, 3, 3, 1)
V1 = [32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024]


def make_shapes(backbone: str, width: float = 1.0, rates: int = 0, classes: int = 21) -> dict[str, tuple[int, ...]]:
    """Shapes of the convolutions' weights, without norms."""
    shapes: dict[str, tuple[int, ...]] = {}
    if backbone == "mobilenet_v1":
        shapes["MobilenetV1/Conv2d_0/weights"] = (3, 3, 3, 32)
        for index, (before, after) in enumerate(pairwise(V1), 1):
            shapes[f"MobilenetV1/Conv2d_{index}_depthwise/depthwise_weights"] = (3, 3, before, 1)
            shapes[f"MobilenetV1/Conv2d_{index}_pointwise/weights"] = (1, 1, before, after)
        last = 1024
    else:
        last, stages = TABLE[width]
        shapes["MobilenetV2/Conv/weights"] = (3, 3, 3, last)
        index = 0
        for channels, repeats in zip(stages, REPEATS, strict=True):
            for _ in range(repeats):
                scope = f"MobilenetV2/expanded_conv{f'_{index}' if index else ''}"
                hidden = 6 * last if index else last
                if index:
                    shapes[f"{scope}/expand/weights"] = (1, 1, last, hidden)
                shapes[f"{scope}/depthwise/depthwise_weights"] = (3, 3, hidden, 1)
                shapes[f"{scope}/project/weights"] = (1, 1, hidden, channels)
                last, index = channels, index + 1
    for name in ("image_pooling", "aspp0"):
        shapes[f"{name}/weights"] = (1, 1, last, 256)
    for number in range(1, rates + 1):
        shapes[f"aspp{number}/weights"] = (3, 3, last, 256)
    shapes["concat_projection/weights"] = (1, 1, 256 * (2 + rates), 256)
    shapes["logits/semantic/weights"] = (1, 1, 256, classes)
    return shapes


def random_arrays(shapes: Mapping[str, tuple[int, ...]]) -> tuple[Arrays, Arrays]:
    """Arrays with batch norm kept, and the same network with it folded."""
    random = np.random.default_rng(0)
    kept: Arrays = {}
    folded: Arrays = {}
    for name, shape in shapes.items():
        depthwise = name.endswith("depthwise_weights")
        taps = shape[0] * shape[1] * (1 if depthwise else shape[2])
        weights = (random.uniform(-1, 1, shape) * (6 / taps) ** 0.5).astype(np.float32)
        scope, channels = name.rpartition("/")[0], shape[2 if depthwise else 3]
        kept[name] = folded[name] = weights
        if scope == "logits/semantic":
            kept[f"{scope}/biases"] = folded[f"{scope}/biases"] = random.uniform(-1, 1, channels).astype(np.float32)
            continue
        norm: Arrays = {
            key: random.uniform(low, high, channels).astype(np.float32)
            for key, low, high in (("gamma", 0.5, 1.5), ("beta", -0.5, 0.5), ("moving_mean", -0.5, 0.5))
        }
        # So small that the two epsilons of one DeepLab, 1e-3 and 1e-5, matter.
        norm["moving_variance"] = random.uniform(0.002, 0.02, channels).astype(np.float32)
        norm["gamma"] *= np.float32(0.1)
        kept |= {f"{scope}/BatchNorm/{key}": value for key, value in norm.items()}
        eps = 1e-3 if scope.startswith("Mobilenet") else 1e-5
        factor = (norm["gamma"] / np.sqrt(norm["moving_variance"].astype(np.float64) + eps)).astype(np.float32)
        folded[name] = weights * (factor[:, None] if depthwise else factor)
        folded[f"{scope}/biases"] = norm["beta"] - norm["moving_mean"] * factor
    return kept, folded


def by_hand(arrays: Arrays, images: torch.Tensor, output_stride: int) -> torch.Tensor:
    """The whole network of folded arrays, with functions alone (paper_facts 2.3).

    In double precision, as random weights amplify the rounding, which other kernels do otherwise.
    """

    def conv(x: torch.Tensor, scope: str, stride: int = 1, rate: int = 1, act: bool = True) -> torch.Tensor:
        depthwise = f"{scope}/depthwise_weights" in arrays
        weight = torch.from_numpy(arrays[f"{scope}/{'depthwise_weights' if depthwise else 'weights'}"]).double()
        weight = weight.permute(2, 3, 0, 1) if depthwise else weight.permute(3, 2, 0, 1)
        bias = torch.from_numpy(arrays[f"{scope}/biases"]).double()
        # At odd sizes TensorFlow's padding is symmetric (paper_facts, part 3).
        pad = rate * (weight.shape[-1] // 2)
        out = F.conv2d(x, weight, bias, stride, pad, rate, len(weight) if depthwise else 1)
        return F.relu6(out) if act else out

    current, rate = 2, 1

    def step(stride: int) -> tuple[int, int]:
        """Stride and rate of a layer that asks for a stride."""
        nonlocal current, rate
        if stride > 1 and current == output_stride:
            used, rate = rate, rate * stride
            return 1, used
        current *= stride
        return stride, rate

    if "MobilenetV1/Conv2d_0/weights" in arrays:
        x = conv(images, "MobilenetV1/Conv2d_0", 2)
        for index in range(1, 14):
            stride, used = step(2 if index in (2, 4, 6, 12) else 1)
            x = conv(x, f"MobilenetV1/Conv2d_{index}_depthwise", stride, used)
            x = conv(x, f"MobilenetV1/Conv2d_{index}_pointwise")
    else:
        x = conv(images, "MobilenetV2/Conv", 2)
        for index in range(17):
            scope = f"MobilenetV2/expanded_conv{f'_{index}' if index else ''}"
            stride, used = step(2 if index in (1, 3, 6, 13) else 1)
            y = conv(x, f"{scope}/expand") if index else x
            y = conv(conv(y, f"{scope}/depthwise", stride, used), f"{scope}/project", act=False)
            x = x + y if index not in (1, 3, 6, 13) and x.shape == y.shape else y
    pooled = conv(x.mean((2, 3), keepdim=True), "image_pooling").expand(-1, -1, *x.shape[-2:])
    parts = [pooled, conv(x, "aspp0")]
    for number, reach in enumerate((6, 12, 18), 1):
        if f"aspp{number}/weights" in arrays:
            parts.append(conv(x, f"aspp{number}", rate=reach * 16 // output_stride))
    return conv(conv(torch.cat(parts, 1), "concat_projection"), "logits/semantic", act=False)


KINDS: dict[str, dict[str, Any]] = {
    "plain": {"backbone": "mobilenet_v2"},
    "atrous": {"backbone": "mobilenet_v2", "rates": 3},
    "half": {"backbone": "mobilenet_v2", "width": 0.5, "classes": 19},
    "v1": {"backbone": "mobilenet_v1", "rates": 3, "classes": 7},
}


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("kind", KINDS)
def test_networks_of_ones_own(kind: str, output_stride: int) -> None:
    options = KINDS[kind]
    kept, folded = random_arrays(make_shapes(**options))
    images = torch.randn(1, 3, 97, 65, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted = by_hand(folded, images, output_stride)
    assert wanted.std() > 0.1
    for arrays in (kept, folded):
        model: Any = import_segmenter(Variables(arrays, "x"), output_stride=output_stride)
        assert (model.config.arguments["backbone"], model.config.arguments["width"]) == (
            options["backbone"],
            options.get("width", 1.0),
        )
        assert model.num_classes == options.get("classes", 21)
        assert len(model.names) == (21 if model.num_classes == 21 else 0)
        with torch.no_grad():
            ours = model.double()(images)
        assert ours.shape == wanted.shape
        assert (ours - wanted).abs().max() <= 1e-4 * wanted.abs().max(), "kept" if arrays is kept else "folded"


def test_half_is_the_published_network() -> None:
    """0.697 M parameters; with channels rounded to multiples of 8 it would be more (paper_facts 2.3)."""
    kept, _ = random_arrays(make_shapes("mobilenet_v2", 0.5))
    model = import_segmenter(Variables(kept, "x"), output_stride=16)
    costs = mv.complexity(model, (513, 513))
    assert (round(costs.params / 1e6, 3), round(costs.madds / 1e9, 4)) == (0.697, 0.8675)


def test_what_is_imported_is_saved_and_loaded(tmp_path: Path) -> None:
    kept, _ = random_arrays(make_shapes("mobilenet_v2", 0.5, rates=3))
    model = import_segmenter(Variables(kept, "x"), image_size=65)
    mv.save(model, tmp_path / "x.safetensors")
    loaded = mv.load(tmp_path / "x.safetensors")
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
    images = torch.randn(1, 3, 65, 65, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model.double()(images), loaded.double()(images), rtol=1e-4, atol=1e-5)


# ---- what does not fit ----


@pytest.fixture(scope="module")
def atrous() -> Arrays:
    return random_arrays(make_shapes("mobilenet_v2", rates=3))[0]


def test_names_of_ones_own(atrous: Arrays) -> None:
    names = tuple(f"class {number}" for number in range(21))
    assert import_segmenter(Variables(atrous, "x"), names=names).names == names
    with pytest.raises(ConfigError, match=r"2 given, but x has 21 classes"):
        import_segmenter(Variables(atrous, "x"), names=("a", "b"))
    with pytest.raises(ConfigError, match="output_stride=4"):
        import_segmenter(Variables(atrous, "x"), output_stride=4)


MISSING = [
    "MobilenetV2/expanded_conv_13/expand/weights",
    "MobilenetV2/expanded_conv_16/project/BatchNorm/moving_mean",
    "image_pooling/weights",
    "image_pooling/BatchNorm/beta",
    "aspp0/weights",
    "aspp1/weights",
    "aspp2/weights",
    "aspp3/BatchNorm/moving_variance",
    "concat_projection/weights",
    "concat_projection/BatchNorm/moving_mean",
    "logits/semantic/weights",
    "logits/semantic/biases",
]
MISSHAPEN: list[tuple[str, tuple[int, ...]]] = [
    ("MobilenetV2/expanded_conv_13/project/weights", (576, 160)),
    ("image_pooling/weights", (1, 1, 321, 256)),
    ("aspp0/BatchNorm/beta", (255,)),
    ("aspp1/weights", (1, 1, 320, 256)),
    ("aspp2/weights", (3, 3, 320, 1)),
    ("concat_projection/weights", (1, 1, 512, 256)),
    ("logits/semantic/weights", (1, 1, 256, 20)),
    ("logits/semantic/weights", (256, 21)),
]
LEFT_OVER = [
    "MobilenetV2/expanded_conv_17/expand/weights",
    "MobilenetV2/Conv_1/weights",
    "aspp4/weights",
    "aspp1_depthwise/depthwise_weights",
    "decoder/feature_projection0/weights",
]


@pytest.mark.parametrize("name", MISSING)
def test_a_missing_variable_is_named(name: str, atrous: Arrays) -> None:
    assert name in atrous
    arrays = {key: array for key, array in atrous.items() if key != name}
    with pytest.raises(WeightsError, match=rf"^the file: lacks the variable {re.escape(name)}( |$)"):
        import_segmenter(Variables(arrays, "the file"))


@pytest.mark.parametrize(("name", "shape"), MISSHAPEN)
def test_a_misshapen_variable_is_named(name: str, shape: tuple[int, ...], atrous: Arrays) -> None:
    assert name in atrous
    arrays = {**atrous, name: np.zeros(shape, np.float32)}
    with pytest.raises(WeightsError, match=f"^the file: {re.escape(f'{name} is {shape}')}"):
        import_segmenter(Variables(arrays, "the file"))


@pytest.mark.parametrize("name", LEFT_OVER)
def test_a_variable_left_over_is_named(name: str, atrous: Arrays) -> None:
    arrays = {**atrous, name: np.zeros((7,), np.float32)}
    with pytest.raises(WeightsError, match=rf"^the file: {re.escape(name)} \(7,\) has no place"):
        import_segmenter(Variables(arrays, "the file"))


@pytest.mark.parametrize("shape", [(), (21, 1)])
def test_misshapen_biases_are_named(shape: tuple[int, ...], atrous: Arrays) -> None:
    arrays = {**atrous, "logits/semantic/biases": np.zeros(shape, np.float32)}
    with pytest.raises(WeightsError, match=r"^the file: .*logits/semantic/biases"):
        import_segmenter(Variables(arrays, "the file"))


def test_other_networks_are_no_segmenters(shared: Path) -> None:
    for name, message in (
        ("tf_mobilenet_v2_1.0_224", "lacks the variable logits/semantic/biases"),
        ("tf_ssdlite_mobilenet_v2_person_300", "no variables of MobilenetV2 or"),
    ):
        with pytest.raises(WeightsError, match=message):
            import_segmenter(read_variables(shared / f"weights/{name}.safetensors"))
