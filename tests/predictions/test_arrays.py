"""The decoding of exported models' outputs, in numpy, gives what torch's gives."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torchvision.ops import batched_nms

import mnv2vision as mv
from mnv2vision.classification.prediction import ClassificationDecoder
from mnv2vision.contracts import HeadInUse, Raw, class_names
from mnv2vision.detection.box_coder import decode
from mnv2vision.detection.prediction import DetectionDecoder
from mnv2vision.errors import WeightsError
from mnv2vision.inference.kinds import PREDICTIONS
from mnv2vision.models.tasks import TASKS
from mnv2vision.models.vision_model import VisionModel
from mnv2vision.predictions.base import Exported
from mnv2vision.predictions.detection import Detection
from mnv2vision.preprocessing import Preprocessing
from mnv2vision.segmentation.inference import to_masks, upsample
from mnv2vision.segmentation.prediction import SegmentationDecoder

SIZES = [(90, 120), (64, 64), (7, 300), (1, 1), (333, 20)]


def in_use(model: VisionModel) -> HeadInUse:
    return HeadInUse(model.head, model.config.head, model.preprocessing)


def arrays(model: VisionModel, raw: Raw, **options: Any) -> Any:
    """The decoder of the model's exported files, with these options, and the outputs that it takes."""
    kind = TASKS[model.task].export
    parameters = kind.parameters(model.head, raw)
    decoder = PREDICTIONS[model.task].arrays(
        Exported(class_names(model.config.head), parameters, model.preprocessing), **options
    )
    return decoder, {name: tensor.numpy() for name, tensor in kind.outputs(raw).items()}


def images_of(model: VisionModel) -> torch.Tensor:
    return torch.zeros(len(SIZES), 3, *model.preprocessing.image_size)


def test_classes() -> None:
    model = mv.create_model("classification", width=0.35, num_classes=7, image_size=32).eval()
    logits = 30 * torch.randn(len(SIZES), 7, generator=torch.Generator().manual_seed(0))
    wanted = ClassificationDecoder(in_use(model))(lambda _: logits, images_of(model), SIZES)
    decoder, outputs = arrays(model, logits)
    for ours, theirs in zip(decoder(outputs, SIZES), wanted, strict=True):
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-6)
        assert ours.scores.dtype == theirs.scores.dtype
        assert ours.names == theirs.names


# ---- boxes ----


@cache  # and no fixture, of which Hypothesis would print every layer
def detector(scores: str) -> VisionModel:
    return mv.create_model(
        "detection", width=0.35, num_classes=3, image_size=64, scores=scores, max_detections=40
    ).eval()


def same_objects(ours: Detection, theirs: Detection) -> None:
    """To half a pixel, and but for the order of equal scores."""
    assert len(ours) == len(theirs)
    assert ours.names == theirs.names
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)
    for found in (ours, theirs):
        assert (found.boxes.dtype, found.scores.dtype, found.labels.dtype) == (np.float32, np.float32, np.int64)
    apart = np.diff(theirs.scores, prepend=2, append=-1) < -1e-5
    certain = apart[:-1] & apart[1:]
    np.testing.assert_array_equal(ours.labels[certain], theirs.labels[certain])
    np.testing.assert_allclose(ours.boxes[certain], theirs.boxes[certain], atol=0.01)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    scores=st.sampled_from(["sigmoid", "softmax"]),
    spread=st.sampled_from([0.1, 1.0, 5.0, 200.0]),
    shift=st.sampled_from([-4.0, 0.0, 4.0]),
    threshold=st.sampled_from([0.0, 0.05, 0.3, 0.9, 1.0]),
    limit=st.sampled_from([None, 1, 3, 10_000]),
)
def test_objects(
    seed: int,
    scores: str,
    spread: float,
    shift: float,
    threshold: float,
    limit: int | None,
) -> None:
    assume(scores == "sigmoid" or spread < 5)  # softmax gives many scores of 1 then, whose order nothing says
    model, generator = detector(scores), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        raw: Any = model(images_of(model))
    raw.box_codes.copy_(spread * torch.randn(raw.box_codes.shape, generator=generator))
    raw.class_logits.copy_(shift + spread * torch.randn(raw.class_logits.shape, generator=generator))
    torch_decoder = DetectionDecoder(in_use(model), score_threshold=threshold, max_detections=limit)
    wanted = torch_decoder(lambda _: raw, images_of(model), SIZES)
    decoder, outputs = arrays(model, raw, score_threshold=threshold, max_detections=limit)
    for ours, theirs in zip(decoder(outputs, SIZES), wanted, strict=True):
        same_objects(ours, theirs)
    assert decoder.remarks() == torch_decoder.remarks()


@pytest.mark.parametrize("step", [0.25, 2.0, 100.0])  # in which int8 gives logits; the last makes all of them equal
@pytest.mark.parametrize("limit", [5, 500])
def test_equal_scores_keep_their_order(step: float, limit: int) -> None:
    """As a stable sort of all and torchvision's suppression find them, by numpy and by torch, however many images."""
    model, generator = detector("sigmoid"), torch.Generator().manual_seed(0)
    with torch.no_grad():
        raw: Any = model(images_of(model))
    raw.box_codes.copy_(torch.randn(raw.box_codes.shape, generator=generator))
    raw.class_logits.copy_((torch.randn(raw.class_logits.shape, generator=generator) / step).round() * step)
    wanted = []
    for codes, logits, (height, width) in zip(raw.box_codes, raw.class_logits, SIZES, strict=True):
        scores, order = logits[:, 1:].flatten().sort(descending=True, stable=True)
        label = order % (logits.shape[1] - 1)
        boxes = decode(codes, raw.anchors)[order // (logits.shape[1] - 1)].clamp(0, 1)
        kept = batched_nms(boxes, -torch.arange(len(order)).float(), label, model.head.nms_iou)  # type: ignore[union-attr]
        kept = kept[((boxes[kept, 2:] > boxes[kept, :2]).all(1))][:limit]
        photo = torch.tensor([width, height, width, height])
        wanted.append(((boxes[kept] * photo).numpy(), scores[kept].sigmoid().numpy(), label[kept].numpy()))
    options: Any = {"score_threshold": 0.0, "max_detections": limit}
    decoder, outputs = arrays(model, raw, **options)
    by_torch = DetectionDecoder(in_use(model), **options)(lambda _: raw, images_of(model), SIZES)
    for found in (decoder(outputs, SIZES), by_torch):
        for ours, (boxes, scores, labels) in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(ours.labels, labels)
            np.testing.assert_allclose(ours.scores, scores, atol=1e-6)
            np.testing.assert_allclose(ours.boxes, boxes, atol=0.01)


def test_finished_objects() -> None:
    model = detector("sigmoid")
    with torch.no_grad():
        raw: Any = model(images_of(model))
    raw.class_logits.copy_(torch.randn(raw.class_logits.shape, generator=torch.Generator().manual_seed(0)))
    fixed = TASKS["detection"].export.fixed(model.head, raw, (64, 64))
    outputs = {name: tensor.float().numpy() for name, tensor in fixed.items()}  # as runtimes give them
    for limit in (None, 2, 40):
        wanted = DetectionDecoder(in_use(model), score_threshold=0.6, max_detections=limit)(
            lambda _: raw, images_of(model), SIZES
        )
        decoder, _ = arrays(model, raw, score_threshold=0.6, max_detections=limit)
        for ours, theirs in zip(decoder(outputs, SIZES), wanted, strict=True):
            same_objects(ours, theirs)


# ---- masks ----


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    image_size=st.tuples(st.integers(3, 70), st.integers(3, 70)),
    size=st.tuples(st.integers(1, 150), st.integers(1, 150)),
    stride=st.sampled_from([1, 8, 16, 32]),
    padding=st.sampled_from(["tf", "symmetric"]),
    resize=st.sampled_from(["letterbox", "stretch"]),
)
def test_masks(
    seed: int, image_size: tuple[int, int], size: tuple[int, int], stride: int, padding: Any, resize: Any
) -> None:
    preprocessing = Preprocessing(image_size=image_size, resize=resize)
    cells = [-(-side // stride) for side in image_size]
    logits = torch.randn(1, 5, *cells, generator=torch.Generator().manual_seed(seed))
    scores = upsample(logits, image_size, stride=stride, padding=padding)
    (wanted,) = to_masks(scores, preprocessing, [size])
    names = ("a", "b", "c", "d", "e")
    decoder = PREDICTIONS["segmentation"].arrays(Exported(names, {"stride": stride, "padding": padding}, preprocessing))
    (ours,) = decoder({"logits": logits.numpy()}, [size])
    assert ours.mask.dtype == np.uint8
    assert ours.mask.shape == size
    # Scores that are equal to rounding may go either way.
    place = preprocessing.placement(*size)
    shown = scores[..., : place.height, : place.width].double()
    at_photo = torch.nn.functional.interpolate(shown, size=size, mode="bilinear", align_corners=False)[0]
    best = at_photo.topk(2, dim=0).values
    clear = (best[0] - best[1] > 1e-4).numpy()
    np.testing.assert_array_equal(ours.mask[clear], wanted.numpy()[clear])
    # Finished labels: the nearest ones.
    labels = scores.argmax(1).float().numpy()
    (nearest,) = decoder({"labels": labels}, [size])
    assert nearest.mask.shape == size
    if (place.height, place.width) == size:
        np.testing.assert_array_equal(nearest.mask, labels[0, : size[0], : size[1]])


def test_a_model_with_the_photo_in_its_corner() -> None:
    model = mv.create_model("segmentation", width=0.35, num_classes=4, image_size=65).eval()
    logits = torch.randn(len(SIZES), 4, 5, 5, generator=torch.Generator().manual_seed(1))
    wanted = SegmentationDecoder(in_use(model))(lambda _: logits, images_of(model), SIZES)
    decoder, outputs = arrays(model, logits)
    for ours, theirs, size in zip(decoder(outputs, SIZES), wanted, SIZES, strict=True):
        assert ours.mask.shape == size
        assert (ours.mask == theirs.mask).mean() > 0.999
        assert ours.names == theirs.names


# ---- scores that are no numbers ----


@pytest.mark.parametrize("task", ["classification", "detection", "segmentation"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_no_numbers(task: str, value: float) -> None:
    model = mv.create_model(task, width=0.35, num_classes=3, image_size=64).eval()
    with torch.no_grad():
        raw: Any = model(images_of(model))
    decoder, outputs = arrays(model, raw)
    for name in outputs:
        broken = {**outputs, name: outputs[name].copy()}
        broken[name].flat[0] = value
        with pytest.raises(WeightsError, match=r"scores are not finite \(nan or inf\)"):
            decoder(broken, SIZES)
