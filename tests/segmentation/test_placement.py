"""Logits lie where their cells do, at every size: against each network's own geometry, and numpy's interpolation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mnv2vision as mv
from mnv2vision.backbones.layers import ConvNormAct, Padding
from mnv2vision.contracts import InferenceOptions
from mnv2vision.data.batch import Batch
from mnv2vision.data.formats.voc import Voc
from mnv2vision.data.sample import Sample
from mnv2vision.segmentation.evaluator import SegmentationEvaluator
from mnv2vision.segmentation.inference import probabilities, upsample
from mnv2vision.tasks.segmentation import SegmentationTask
from mnv2vision.weights.importers.from_tensorflow import convert

PADDINGS: tuple[Padding, ...] = ("symmetric", "tf")
BACKBONES = ("mobilenet_v1", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small")
SIZES = [(65, 64), (63, 96), (97, 30), (1, 2)]
NAMES = [f"class {label}" for label in range(5)]


def random_images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def cells(side: int, stride: int, padding: Padding) -> list[int]:
    """Pixels that the cells lie on, one halving after the other.

    TensorFlow's SAME pads an even side at stride 2 with one pixel less above than below, so that the kernel's centre
    begins on the second pixel; on odd sides, and in PyTorch, on the first.
    """
    first, step = 0, 1
    while step < stride:
        first += step if padding == "tf" and side % 2 == 0 else 0
        side, step = (side + 1) // 2, 2 * step
    return [first + stride * cell for cell in range(side)]


def place(logits: Tensor, size: tuple[int, int], stride: int, padding: Padding) -> Tensor:
    """Linear between the cells, and the outer cell's value beyond, one axis after the other."""
    values = logits.double().numpy()
    for axis, side in zip((2, 3), size, strict=True):
        places = cells(side, stride, padding)
        values = np.apply_along_axis(lambda line, at, on: np.interp(at, on, line), axis, values, range(side), places)
    return torch.from_numpy(values)


# ---- where the cells lie ----


def linear(backbone: nn.Module, *, centres: bool) -> None:
    """Take away norms, activations and gates, and make all weights positive: everywhere, or at the centres alone."""
    for module in backbone.modules():
        if getattr(module, "squeeze_excite", None) is not None:
            module.squeeze_excite = None
        if isinstance(module, ConvNormAct):
            module.norm = module.act = nn.Identity()
            weight = module.conv.weight.detach()
            middle = weight.shape[-1] // 2
            weight.fill_(0 if centres else 1 / weight[0].numel())
            weight[:, :, middle, middle] = 1 / weight.shape[1]
    backbone.double()


@torch.no_grad()
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("head", ["aspp", "lraspp"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_centres_of_the_cells(backbone: str, head: str, output_stride: int, padding: Padding) -> None:
    """Kernels that are 0 but at their centres show a cell the one pixel it lies on, whose place is its value."""
    options: dict[str, Any] = {"head": head, "output_stride": output_stride, "padding": padding}
    model: Any = mv.create_model("segmentation", backbone=backbone, **options)
    linear(model.backbone, centres=True)
    stride = 8 if head == "lraspp" else output_stride
    for size in SIZES:
        ramps = torch.stack(torch.meshgrid(*(torch.arange(float(side)) for side in size), indexing="ij"))
        # A network of sums: of an image of ones, shortcuts make more than one.
        x = torch.cat([ramps, torch.ones(1, *size)])[:, None].expand(-1, 3, -1, -1).double()
        rows, columns, ones = model.backbone(x)[model.backbone.taps[0]][:, :1]
        places = [cells(side, stride, padding) for side in size]
        torch.testing.assert_close((rows / ones)[0, :, 0], torch.tensor(places[0]).double())
        torch.testing.assert_close((columns / ones)[0, 0], torch.tensor(places[1]).double())
        # On the pixels, each is back in its place; beyond the cells there is nothing to know.
        back = model.head.to_pixels(torch.stack([rows / ones, columns / ones]), size)[:, 0]
        wanted = [ramp.clamp(on[0], on[-1]).double() for ramp, on in zip(ramps, places, strict=True)]
        torch.testing.assert_close(back, torch.stack(wanted))


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("side", [95, 96, 97])
def test_cells_see_as_far_to_either_side(side: int, padding: Padding) -> None:
    """With weights above 0 everywhere; the 59 pixels that MobileNetV2's features of stride 8 see fit into the image."""
    model: Any = mv.create_model("segmentation", backbone="mobilenet_v2", head="lraspp", padding=padding)
    linear(model.backbone, centres=False)
    x = torch.zeros(1, 3, side, side, dtype=torch.double, requires_grad=True)
    features = model.backbone(x)[model.backbone.taps[0]]
    for row, column in ((5, 6), (6, 4)):
        (gradient,) = torch.autograd.grad(features[0, 0, row, column], x, retain_graph=True)
        seen = gradient[0, 0].nonzero()
        assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [59, 59]
        centre = (seen.amin(0) + seen.amax(0)).double() / 2
        places = cells(side, 8, padding)
        assert centre.tolist() == [places[row], places[column]]


def test_cells_of_512() -> None:
    """Even all the way down: 1 + 2 + 4 + 8 pixels, so that the last cell lies on the last pixel."""
    assert cells(512, 16, "tf")[:2] == [15, 31]
    assert cells(512, 16, "tf")[-1] == 511
    assert cells(513, 16, "tf") == cells(513, 16, "symmetric") == list(range(0, 513, 16))


# ---- upsampling ----


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("stride", [1, 2, 8, 16, 32])
def test_upsample(stride: int, padding: Padding) -> None:
    for size in [(64, 65), (66, 95), (80, 48), (33, 32), (1, 7), (129, 2)]:
        logits = random_images(2, 3, *(-(-side // stride) for side in size))
        ours = upsample(logits, size, stride=stride, padding=padding)
        torch.testing.assert_close(ours.double(), place(logits, size, stride, padding), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("padding", PADDINGS)
def test_corners_are_aligned_where_outer_cells_lie_on_outer_pixels(padding: Padding) -> None:
    for stride, cells_ in ((8, (9, 5)), (16, (33, 2)), (32, (3, 1)), (1, (6, 7))):
        size = tuple((count - 1) * stride + 1 for count in cells_)
        logits = random_images(2, 3, *cells_)
        wanted = F.interpolate(logits, size=size, mode="bilinear", align_corners=True)
        assert torch.equal(upsample(logits, size, stride=stride, padding=padding), wanted)


# ---- all that looks at logits ----


@pytest.fixture(params=["aspp", "lraspp"])
def model(request: pytest.FixtureRequest, randomize: Callable[[nn.Module], None]) -> Any:
    """TensorFlow's padding at an even size, where the geometry is the least like aligned corners."""
    options: dict[str, Any] = {"head": request.param, "padding": "tf", "names": NAMES, "image_size": (64, 80)}
    model = mv.create_model("segmentation", width=0.35, **options).eval()
    randomize(model)
    return model


@pytest.fixture
def photos() -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    return list(np.random.default_rng(0).integers(0, 256, (2, 64, 80, 3), dtype=np.uint8))


@torch.no_grad()
def placed_logits(model: Any, x: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    return place(model(x), (height, width), 8 if model.config.head.options.get("head") == "lraspp" else 16, "tf")


def wanted_logits(model: Any, photos: Any) -> tuple[Tensor, Tensor]:
    """Images as they are in a batch, and logits at their pixels."""
    images = torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2)
    return images, placed_logits(model, model.preprocessing.normalize(images))


def test_the_loss(model: Any, photos: Any) -> None:
    images, logits = wanted_logits(model, photos)
    masks = torch.randint(0, 5, (2, 64, 80), generator=torch.Generator().manual_seed(0)).byte()
    masks[:, :9] = 255
    task = SegmentationTask(model, SegmentationEvaluator(NAMES))
    batch = Batch(images=images, image_ids=[1, 2], masks=masks)
    (ours,) = task.heads["segmentation"].loss(task(model.preprocessing.normalize(images)), batch).values()
    assert ours.item() == pytest.approx(F.cross_entropy(logits, masks.long(), ignore_index=255).item(), rel=1e-5)


def test_the_evaluation(model: Any, photos: Any) -> None:
    images, logits = wanted_logits(model, photos)
    masks = logits.argmax(1).byte().numpy()
    assert len(np.unique(masks)) > 1
    task = SegmentationTask(model, SegmentationEvaluator(NAMES))
    truth = [Sample(photos[0], index, "", size=(64, 80), mask=mask) for index, mask in enumerate(masks)]
    with torch.no_grad():
        batch = Batch(images=images, image_ids=[0, 1], truth=truth)
        task.heads["segmentation"].evaluate(task, model.preprocessing.normalize(images), batch)
    assert task.heads["segmentation"].evaluator.compute()["pixel_accuracy"] > 0.999  # but where two classes are alike


@pytest.mark.parametrize("window", [False, True])
def test_the_prediction(model: Any, photos: Any, window: bool) -> None:
    _, logits = wanted_logits(model, photos)
    predict = mv.Predictor(model, device="cpu", inference=InferenceOptions(window=window))
    for prediction, wanted in zip(predict(photos), logits.argmax(1).numpy(), strict=True):
        assert (prediction.mask == wanted).mean() > 0.999


def test_several_scales(model: Any, photos: Any) -> None:
    """Each pass on its own pixels, which corners aligned take to the image's: 0.75 of 64x80 is 48x60."""
    images, plain = wanted_logits(model, photos)
    x = model.preprocessing.normalize(images)
    small = F.interpolate(x, size=(48, 60), mode="bilinear", align_corners=True)
    with torch.no_grad():
        ours = probabilities(model.head.by_pixel(model), x, InferenceOptions(scales=(1.0, 0.75)))
    large = F.interpolate(placed_logits(model, small), size=(64, 80), mode="bilinear", align_corners=True)
    wanted = (plain.softmax(1) + large.softmax(1)) / 2
    torch.testing.assert_close(ours.double(), wanted, rtol=1e-3, atol=1e-4)


# ---- the published weights ----


@pytest.mark.slow
def test_a_pixel_less_is_as_good(shared: Path) -> None:
    """The published DeepLab on VOC's photos at hand: 0.743 at 513, and 0.668 at 512 where corners are aligned.

    Of the classes that the photos have: with the others, a pixel taken for one of them is a twentieth.
    """
    source = Voc(shared / "data/voc/VOCdevkit", "val", targets=("mask",))
    figures = {}
    for side in (513, 512):
        weights = shared / "weights/tf_deeplabv3_mobilenet_v2_1.0_513.safetensors"
        predict = mv.Predictor(convert("segmentation", weights, image_size=side, output_stride=16), device="cpu")
        evaluator = SegmentationEvaluator(source.names)
        for index in range(len(source)):
            sample = source[index]
            evaluator.update([predict(sample.image).mask], [sample])
        figures[side] = evaluator.compute()["mIoU_present"]
    assert figures[513] > 0.7
    assert figures[512] == pytest.approx(figures[513], abs=0.01)
