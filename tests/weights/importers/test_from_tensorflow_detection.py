"""TensorFlow's SSDLite: the published vectors, and the COCO release's names, layouts and columns."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from torch.nn import functional as F
from torchvision.models.detection import SSDLite320_MobileNet_V3_Large_Weights

from mnv2vision.detection.postprocess import detect
from mnv2vision.errors import ConfigError, WeightsError
from mnv2vision.weights.importers.from_tensorflow import convert, import_detector
from mnv2vision.weights.importers.tf_files import read_variables
from mnv2vision.weights.importers.tf_variables import Variables

pytestmark = pytest.mark.slow

Arrays = dict[str, NDArray[Any]]
NORM = ("gamma", "beta", "moving_mean", "moving_variance")
# Torchvision lists COCO's 91 columns: the background first, "N/A" for ids that were never annotated.
COLUMNS = SSDLite320_MobileNet_V3_Large_Weights.COCO_V1.meta["categories"]
IDS = [number for number, name in enumerate(COLUMNS) if number and name != "N/A"]


# ---- the official weights ----


@pytest.fixture(scope="module")
def official(shared: Path) -> Path:
    return shared / "weights/tf_ssdlite_mobilenet_v2_person_300.safetensors"


@pytest.fixture(scope="module")
def person(official: Path) -> Any:
    return import_detector(read_variables(official), names=("person",))


@pytest.fixture(scope="module")
def vectors(official: Path) -> dict[str, NDArray[Any]]:
    with np.load(official.with_suffix(".vectors.npz")) as file:
        return dict(file)


def image_ids(vectors: dict[str, NDArray[Any]]) -> list[str]:
    return sorted(name.removeprefix("input_") for name in vectors if name.startswith("input_"))


@torch.no_grad()
def predict(model: Any, vectors: dict[str, NDArray[Any]], image_id: str) -> Any:
    image = torch.from_numpy(vectors[f"input_{image_id}"]).permute(2, 0, 1)[None]
    return model(model.preprocessing.normalize(image))


@torch.no_grad()
def anchors_of(model: Any) -> torch.Tensor:
    """At the model's own input size."""
    anchors: torch.Tensor = model(torch.zeros(1, 3, *model.preprocessing.image_size)).anchors
    return anchors


def test_what_the_file_makes(person: Any, official: Path) -> None:
    assert person.config.arguments["backbone"] == "mobilenet_v2"
    assert person.config.arguments["width"] == 1.0
    assert (person.config.arguments["padding"], person.config.arguments["norm_eps"]) == ("tf", 1e-3)
    assert (person.num_classes, person.names) == (1, ("person",))
    assert not person.training
    # 300x300, the aspect ratio not kept, RGB in [-1, 1] (shared/weights/README.md).
    assert person.preprocessing.image_size == (300, 300)
    assert person.preprocessing.resize == "stretch"
    ends = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    assert person.preprocessing.normalize(ends)[:, :, 0, 0].tolist() == [[-1] * 3, [1] * 3]
    unnamed: Any = convert("detection", official, image_size=320)
    assert unnamed.names == ()
    assert unnamed.preprocessing.image_size == (320, 320)
    assert len(anchors_of(unnamed)) == 2034


def test_published_anchors(person: Any, vectors: dict[str, NDArray[Any]]) -> None:
    wanted = vectors["anchors_yxhw"]
    anchors = anchors_of(person)
    assert anchors.shape == wanted.shape == (1917, 4)
    np.testing.assert_allclose(anchors.numpy()[:, [1, 0, 3, 2]], wanted, rtol=0, atol=1e-6)


def test_published_codes_and_logits(person: Any, vectors: dict[str, NDArray[Any]]) -> None:
    ids = image_ids(vectors)
    assert len(ids) >= 2
    for image_id in ids:
        raw = predict(person, vectors, image_id)
        codes, logits = vectors[f"box_codes_{image_id}"], vectors[f"class_logits_{image_id}"]
        np.testing.assert_allclose(raw.box_codes[0].numpy()[:, [1, 0, 3, 2]], codes, rtol=0, atol=1e-3)
        np.testing.assert_allclose(raw.class_logits[0].numpy(), logits, rtol=0, atol=1e-3)
        assert codes.std() > 0.3
        assert logits.std() > 0.3


# Width and height. The photo is not in shared/data: the size follows from the listed boxes and box codes.
PHOTO_SIZES = {"000000491008": (640, 427)}


def test_published_detections(person: Any, vectors: dict[str, NDArray[Any]]) -> None:
    total = 0
    for image_id in image_ids(vectors):
        wanted = vectors[f"detections_score_xyxy_{image_id}"]
        found = detect(predict(person, vectors, image_id), score_threshold=0.3, nms_iou=0.6)
        count = int(found.counts[0])
        assert count == len(wanted)
        assert not found.labels.any()
        if not count:
            continue
        np.testing.assert_allclose(found.scores[0, :count].numpy(), wanted[:, 0], rtol=0, atol=0.005)
        width, height = PHOTO_SIZES[image_id]
        pixels = found.boxes[0, :count].numpy() * np.array([width, height, width, height])
        np.testing.assert_allclose(pixels, wanted[:, 1:], rtol=0, atol=1)
        total += count
    assert total >= 2


# ---- COCO's columns, at random weights ----


def random_arrays(shapes: dict[str, tuple[int, ...]]) -> Arrays:
    random = np.random.default_rng(0)
    arrays: Arrays = {}
    for name, shape in shapes.items():
        if name.endswith(("moving_variance", "gamma")):
            array = random.uniform(0.5, 1.5, shape)
        elif name.endswith("weights"):
            taps = shape[0] * shape[1] * (1 if name.endswith("depthwise_weights") else shape[2])
            array = random.uniform(-1, 1, shape) * (6 / taps) ** 0.5
        else:
            array = random.uniform(-0.5, 0.5, shape)
        arrays[name] = array.astype(np.float32)
    return arrays


@pytest.fixture(scope="module")
def coco(official: Path) -> Arrays:
    """Arrays of the names and shapes of ssdlite_mobilenet_v2_coco: the person file's, but with 91 columns."""
    shapes = {name: array.shape for name, array in load_file(official).items()}
    for name, shape in shapes.items():
        if re.fullmatch(r"BoxPredictor_\d/ClassPredictor/(weights|biases)", name):
            anchors = shape[-1] // 2
            assert anchors == (3 if name.startswith("BoxPredictor_0") else 6)
            shapes[name] = (*shape[:-1], anchors * 91)
    return random_arrays(shapes)


def test_the_reference_has_cocos_gaps() -> None:
    assert (len(COLUMNS), len(IDS)) == (91, 80)
    assert [number for number in range(1, 91) if number not in IDS] == [12, 26, 29, 30, 45, 66, 68, 69, 71, 83]


@pytest.mark.parametrize("keep_gaps", [False, True])
def test_columns_of_coco(coco: Arrays, keep_gaps: bool) -> None:
    model: Any = import_detector(Variables(coco, "x"), keep_gaps=keep_gaps)
    ids = list(range(1, 91)) if keep_gaps else IDS
    assert model.num_classes == len(ids) == (90 if keep_gaps else 80)
    for name, number in zip(model.names, ids, strict=True):
        assert COLUMNS[number] in (name, "N/A")
    assert len(set(model.names)) == len(ids)
    for index, (boxes, classes) in enumerate(zip(model.head.boxes, model.head.classes, strict=True)):
        anchors = 3 if index == 0 else 6
        for part, predictor, columns, total in (
            ("ClassPredictor", classes, [0, *ids], 91),
            ("BoxEncodingPredictor", boxes, [1, 0, 3, 2], 4),  # theirs are ty, tx, th, tw
        ):
            scope = f"BoxPredictor_{index}/{part}"
            weights, biases = coco[f"{scope}/weights"][0, 0].T, coco[f"{scope}/biases"]
            # Theirs are ordered by anchor, then by column.
            chosen = [anchor * total + column for anchor in range(anchors) for column in columns]
            np.testing.assert_array_equal(predictor.conv.weight.detach().numpy()[:, :, 0, 0], weights[chosen])
            np.testing.assert_array_equal(predictor.conv.bias.detach().numpy(), biases[chosen])
            depthwise = coco[f"{scope}_depthwise/depthwise_weights"]
            ours = predictor.depthwise.conv.weight.detach().numpy()
            np.testing.assert_array_equal(ours[:, 0], np.moveaxis(depthwise[..., 0], 2, 0))


def test_the_logits_of_80_are_those_of_90(coco: Arrays) -> None:
    few: Any = import_detector(Variables(coco, "x"))
    all_of_them: Any = import_detector(Variables(coco, "x"), keep_gaps=True)
    # In double precision, as random weights amplify the rounding, which other kernels do otherwise.
    images = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        ours, wanted = few.double()(images), all_of_them.double()(images)
    assert wanted.class_logits.std() > 0.1
    torch.testing.assert_close(ours.class_logits, wanted.class_logits[..., [0, *IDS]], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.box_codes, wanted.box_codes, rtol=1e-4, atol=1e-5)


def test_names_of_ones_own(coco: Arrays, official: Path) -> None:
    names = tuple(f"class {number}" for number in range(90))
    model = import_detector(Variables(coco, "x"), names=names)
    assert (model.names, model.num_classes) == (names, 90)
    with pytest.raises(ConfigError, match=r"2 given, but .* 1 class"):
        import_detector(read_variables(official), names=("a", "b"))


# Of TensorFlow's heads: whether extra maps and predictors are depthwise, and the predictors' kernel.
HEADS = {
    "ssdlite": (True, True, 3),
    "ssd": (False, False, 3),
    "ssd_mobilenet_v1": (False, False, 1),
    "ssd_mobilenet_v2": (True, False, 3),
}


def shapes_of_mobilenet_v1(head: str, columns: int) -> dict[str, tuple[int, ...]]:
    """Of TF's SSDMobileNetV1FeatureExtractor and ConvolutionalBoxPredictor: names and shapes written out."""
    extras, predictors, kernel = HEADS[head]
    shapes: dict[str, tuple[int, ...]] = {}

    def convolution(scope: str, *shape: int, depthwise: bool = False) -> None:
        shapes[f"{scope}/{'depthwise_weights' if depthwise else 'weights'}"] = shape
        for name in NORM:
            shapes[f"{scope}/BatchNorm/{name}"] = (shape[2] if depthwise else shape[3],)

    base = "FeatureExtractor/MobilenetV1"
    convolution(f"{base}/Conv2d_0", 3, 3, 3, 32)
    channels = [32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024]
    for index, (before, after) in enumerate(pairwise(channels), start=1):
        convolution(f"{base}/Conv2d_{index}_depthwise", 3, 3, before, 1, depthwise=True)
        convolution(f"{base}/Conv2d_{index}_pointwise", 1, 1, before, after)
    last = 1024
    for number, depth in enumerate((512, 256, 256, 128), start=2):
        half = depth // 2
        convolution(f"{base}/Conv2d_13_pointwise_1_Conv2d_{number}_1x1_{half}", 1, 1, last, half)
        expanded = f"{base}/Conv2d_13_pointwise_2_Conv2d_{number}_3x3_s2_{depth}"
        if extras:
            convolution(f"{expanded}_depthwise", 3, 3, half, 1, depthwise=True)
        convolution(expanded, *((1, 1) if extras else (3, 3)), half, depth)
        last = depth
    for index, depth in enumerate((512, 1024, 512, 256, 256, 128)):
        anchors = 3 if index == 0 else 6
        for part, count in (("BoxEncodingPredictor", 4), ("ClassPredictor", columns)):
            scope = f"BoxPredictor_{index}/{part}"
            if predictors:
                convolution(f"{scope}_depthwise", 3, 3, depth, 1, depthwise=True)
            side = 1 if predictors else kernel
            shapes[f"{scope}/weights"] = (side, side, depth, anchors * count)
            shapes[f"{scope}/biases"] = (anchors * count,)
    return shapes


@pytest.mark.parametrize("head", HEADS)
def test_heads_on_mobilenet_v1(head: str) -> None:
    arrays = random_arrays(shapes_of_mobilenet_v1(head, 6))
    model: Any = import_detector(Variables(arrays, "x"))
    assert (model.config.arguments["backbone"], model.num_classes, model.names) == ("mobilenet_v1", 5, ())
    assert model.config.arguments["head"] == head
    for number, extra in enumerate(model.head.extras, start=2):
        for kind, layer in (("1_Conv2d_{}_1x1", extra.squeeze), ("2_Conv2d_{}_3x3_s2", extra.project)):
            (scope,) = [name for name in arrays if re.search(rf"_{kind.format(number)}_\d+/weights", name)]
            np.testing.assert_array_equal(layer.conv.weight.detach().permute(2, 3, 1, 0).numpy(), arrays[scope])
    for index, predictor in enumerate(model.head.classes):
        ours = predictor.conv.weight.detach().permute(2, 3, 1, 0).numpy()
        np.testing.assert_array_equal(ours, arrays[f"BoxPredictor_{index}/ClassPredictor/weights"])
    assert len(anchors_of(model)) == 1917


def same(x: torch.Tensor, weight: NDArray[Any], stride: int = 1, groups: int = 1) -> torch.Tensor:
    """TensorFlow's convolution with SAME padding, of weights in its layout."""
    kernel = torch.from_numpy(weight).double().permute((2, 3, 0, 1) if groups > 1 else (3, 2, 0, 1))
    padding: list[int] = []
    for length in (x.shape[3], x.shape[2]):
        total = max((-(-length // stride) - 1) * stride + kernel.shape[-1] - length, 0)
        padding += [total // 2, total - total // 2]
    return F.conv2d(F.pad(x, padding), kernel, stride=stride, groups=groups)


@pytest.mark.parametrize("head", ["ssd_mobilenet_v1", "ssd_mobilenet_v2"])
def test_outputs_of_heads_by_hand(head: str) -> None:
    arrays = random_arrays(shapes_of_mobilenet_v1(head, 3))
    model: Any = import_detector(Variables(arrays, "x"))
    base = "FeatureExtractor/MobilenetV1"

    def layer(x: torch.Tensor, scope: str, stride: int = 1) -> torch.Tensor:
        depthwise = f"{scope}/depthwise_weights" in arrays
        weights = arrays[f"{scope}/{'depthwise_' * depthwise}weights"]
        x = same(x, weights, stride, x.shape[1] if depthwise else 1)
        norm = (torch.from_numpy(arrays[f"{scope}/BatchNorm/{key}"]).double()[:, None, None] for key in NORM)
        gamma, beta, mean, variance = norm
        return F.relu6((x - mean) / (variance + 1e-3).sqrt() * gamma + beta)

    # In double precision, as random weights amplify the rounding, which other kernels do otherwise.
    x = torch.randn(1, 3, 96, 80, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        ours = model.double()(x)
    maps = []
    x = layer(x, f"{base}/Conv2d_0", 2)
    for index in range(1, 14):
        x = layer(x, f"{base}/Conv2d_{index}_depthwise", 2 if index in (2, 4, 6, 12) else 1)
        x = layer(x, f"{base}/Conv2d_{index}_pointwise")
        maps += [x] * (index in (11, 13))
    for number, depth in enumerate((512, 256, 256, 128), start=2):
        x = layer(x, f"{base}/Conv2d_13_pointwise_1_Conv2d_{number}_1x1_{depth // 2}")
        scope = f"{base}/Conv2d_13_pointwise_2_Conv2d_{number}_3x3_s2_{depth}"
        x = layer(layer(x, f"{scope}_depthwise", 2), scope) if head == "ssd_mobilenet_v2" else layer(x, scope, 2)
        maps.append(x)
    for part, columns, found in (
        ("BoxEncodingPredictor", 4, ours.box_codes[..., [1, 0, 3, 2]]),
        ("ClassPredictor", 3, ours.class_logits),
    ):
        wanted = []
        for index, features in enumerate(maps):
            scope = f"BoxPredictor_{index}/{part}"
            out = same(features, arrays[f"{scope}/weights"]).permute(0, 2, 3, 1)
            wanted.append((out + torch.from_numpy(arrays[f"{scope}/biases"])).reshape(1, -1, columns))
        expected = torch.cat(wanted, 1)
        assert expected.std() > 0.1
        assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_an_unknown_head_is_named() -> None:
    shapes = shapes_of_mobilenet_v1("ssd", 3)
    for name, shape in shapes.items():
        if name.startswith("BoxPredictor") and name.endswith("weights"):
            shapes[name] = (5, 5, *shape[2:])
    with pytest.raises(WeightsError, match=r"^the file: unknown head, Kind\(.*kernel=5\); valid: ssdlite, ssd"):
        import_detector(Variables(random_arrays(shapes), "the file"))


# ---- what does not fit ----

EXTRA = "FeatureExtractor/MobilenetV2/layer_19"
MISSING = [
    "FeatureExtractor/MobilenetV2/expanded_conv_13/expand/weights",
    f"{EXTRA}_1_Conv2d_3_1x1_128/weights",
    f"{EXTRA}_2_Conv2d_5_3x3_s2_128_depthwise/depthwise_weights",
    f"{EXTRA}_2_Conv2d_2_3x3_s2_512/BatchNorm/beta",
    "BoxPredictor_0/ClassPredictor/biases",
    "BoxPredictor_0/ClassPredictor/weights",
    "BoxPredictor_3/BoxEncodingPredictor_depthwise/BatchNorm/moving_variance",
    "BoxPredictor_2/ClassPredictor_depthwise/depthwise_weights",
]
MISSHAPEN: list[tuple[str, tuple[int, ...]]] = [
    ("FeatureExtractor/MobilenetV2/expanded_conv_13/project/weights", (960, 160)),
    (f"{EXTRA}_1_Conv2d_2_1x1_256/weights", (1, 1, 1280, 255)),
    (f"{EXTRA}_2_Conv2d_4_3x3_s2_256/BatchNorm/beta", (128,)),
    ("BoxPredictor_0/ClassPredictor/biases", (274,)),
    ("BoxPredictor_0/ClassPredictor/biases", (2,)),
    ("BoxPredictor_0/ClassPredictor/biases", ()),
    ("BoxPredictor_0/ClassPredictor/weights", (1, 1, 576, 270)),
    ("BoxPredictor_1/BoxEncodingPredictor/weights", (3, 3, 1280, 24)),
    ("BoxPredictor_1/BoxEncodingPredictor_depthwise/depthwise_weights", (3, 3, 640, 1)),
]
LEFT_OVER = [
    "FeatureExtractor/MobilenetV2/expanded_conv_17/expand/weights",
    f"{EXTRA}_1_Conv2d_6_1x1_64/weights",
    "BoxPredictor_6/ClassPredictor/biases",
]


@pytest.mark.parametrize("name", MISSING)
def test_a_missing_variable_is_named(name: str, coco: Arrays) -> None:
    assert name in coco
    arrays = {key: array for key, array in coco.items() if key != name}
    with pytest.raises(WeightsError, match=f"^the file: lacks the variable {re.escape(name)}$"):
        import_detector(Variables(arrays, "the file"))


@pytest.mark.parametrize(("name", "shape"), MISSHAPEN)
def test_a_misshapen_variable_is_named(name: str, shape: tuple[int, ...], coco: Arrays) -> None:
    assert name in coco
    arrays = {**coco, name: np.zeros(shape, np.float32)}
    with pytest.raises(WeightsError, match=f"^the file: {re.escape(f'{name} is {shape}')}"):
        import_detector(Variables(arrays, "the file"))


@pytest.mark.parametrize("name", LEFT_OVER)
def test_a_variable_left_over_is_named(name: str, coco: Arrays) -> None:
    arrays = {**coco, name: np.zeros((7,), np.float32)}
    with pytest.raises(WeightsError, match=rf"^the file: {re.escape(name)} \(7,\) has no place"):
        import_detector(Variables(arrays, "the file"))


def test_a_classifier_is_no_detector(shared: Path) -> None:
    variables = read_variables(shared / "weights/tf_mobilenet_v2_1.0_224.safetensors")
    with pytest.raises(WeightsError, match="no variables of FeatureExtractor/MobilenetV2 or"):
        import_detector(variables)
