"""Detections against torchvision's non-maximum suppression, class by class over all anchors."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import batched_nms, box_iou, nms

from mnv2vision.contracts import RawDetections
from mnv2vision.detection.anchors import make_anchors
from mnv2vision.detection.box_coder import to_corners
from mnv2vision.detection.loss import Scores
from mnv2vision.detection.postprocess import BatchDetections, class_scores, detect, suppress, suppress_at_once
from mnv2vision.errors import ConfigError

ANCHORS = make_anchors(((8, 8), (4, 4), (2, 2), (1, 1)), (128, 128))
A = len(ANCHORS)
CODER = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0), bbox_xform_clip=math.log(1000))


def reference(
    codes: Tensor,
    logits: Tensor,
    scores: Scores,
    nms_iou: float,
    threshold: float,
    count: int,
    among: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, scores and labels of one image; `among` restricts it to the best candidates."""
    boxes = CODER.decode_single(codes, to_corners(ANCHORS)).clamp(0, 1)
    probabilities = logits.sigmoid()[:, 1:] if scores == "sigmoid" else logits.softmax(dim=1)[:, 1:]
    ranks = logits[:, 1:] if scores == "sigmoid" else probabilities  # sigmoids may be equal where logits are not
    allowed = (probabilities > threshold) & (boxes[:, 2:] > boxes[:, :2]).all(dim=1, keepdim=True)
    if among is not None:
        allowed &= ranks >= ranks.flatten().topk(among).values[-1]
    found = []
    for label in range(probabilities.shape[1]):
        chosen = allowed[:, label].nonzero()[:, 0]
        kept = chosen[nms(boxes[chosen], ranks[chosen, label], nms_iou)]
        found += [(ranks[i, label].item(), int(i), label) for i in kept]
    found = sorted(found, key=lambda item: -item[0])[:count]
    anchor = torch.tensor([i for _, i, _ in found], dtype=torch.int64)
    labels = torch.tensor([label for _, _, label in found], dtype=torch.int64)
    return boxes[anchor], probabilities[anchor, labels], labels


def random_case(kind: str, seed: int, n: int, classes: int) -> tuple[Tensor, Tensor]:
    """Codes and logits of boxes that overlap little ("apart") or pile up in a few places ("piled")."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, A, 1 + classes, generator=generator) * 2 - 1
    codes = torch.randn(n, A, 4, generator=generator)
    if kind == "apart":
        codes[..., 2:] -= 5
        return codes, logits
    # Each box goes to one of eight places, give or take a little.
    places = torch.rand(8, 2, generator=generator) * 0.6 + 0.2
    place = places[torch.randint(8, (n, A), generator=generator)]
    sizes = torch.full((n, A, 2), 0.3) * torch.exp(torch.randn(n, A, 2, generator=generator) * 0.08)
    centre = place + torch.randn(n, A, 2, generator=generator) * 0.015
    offset = 10 * (centre - ANCHORS[:, :2]) / ANCHORS[:, 2:]
    return torch.cat([offset, 5 * (sizes / ANCHORS[:, 2:]).log()], dim=2), logits


def assert_is(found: BatchDetections, image: int, wanted: tuple[Tensor, Tensor, Tensor]) -> None:
    boxes, scores, labels = wanted
    count = int(found.counts[image])
    assert count == len(labels)
    torch.testing.assert_close(found.scores[image, :count], scores, rtol=1e-5, atol=1e-7)
    assert found.labels[image, :count].tolist() == labels.tolist()
    torch.testing.assert_close(found.boxes[image, :count], boxes, rtol=1e-5, atol=1e-5)
    for rest in (found.boxes, found.scores, found.labels):
        assert not rest[image, count:].any()


@pytest.mark.parametrize("scores", ["sigmoid", "softmax"])
@pytest.mark.parametrize(("n", "classes"), [(1, 1), (2, 4), (4, 2)])
@pytest.mark.parametrize("kind", ["apart", "piled"])
def test_the_result_is_that_of_all_anchors_and_classes(kind: str, n: int, classes: int, scores: Scores) -> None:
    codes, logits = random_case(kind, n + classes, n, classes)
    found = detect(RawDetections(codes, logits, ANCHORS), scores=scores)
    assert found.boxes.shape == (n, 100, 4)
    assert found.scores.shape == found.labels.shape == (n, 100)
    assert found.boxes.dtype == found.scores.dtype == torch.float32
    assert found.labels.dtype == torch.int64
    assert (found.boxes >= 0).all()
    assert (found.boxes <= 1).all()
    for image in range(n):
        assert_is(found, image, reference(codes[image], logits[image], scores, 0.6, 1e-8, 100))


@pytest.mark.parametrize(
    ("threshold", "nms_iou"), [(1e-8, 0.45), (0.3, 0.3), (0.3, 0.6), (0.3, 1.0), (0.9, 0.9), (0.9999, 0.6)]
)
@pytest.mark.parametrize("kind", ["apart", "piled"])
def test_thresholds(kind: str, threshold: float, nms_iou: float) -> None:
    codes, logits = random_case(kind, 1, 3, 4)
    logits[2, :, 1:] -= 12  # an image on which nothing is likely
    found = detect(RawDetections(codes, logits, ANCHORS), nms_iou=nms_iou, score_threshold=threshold)
    for image in range(3):
        wanted = reference(codes[image], logits[image], "sigmoid", nms_iou, threshold, 100)
        assert_is(found, image, wanted)
    likely = [bool((row.sigmoid() > threshold).any()) for row in logits[..., 1:]]
    assert likely == [threshold < 0.999, threshold < 0.999, threshold < 0.1]
    assert (found.counts > 0).tolist() == likely


@pytest.mark.parametrize("count", [1, 7, 300])
@pytest.mark.parametrize("kind", ["apart", "piled"])
def test_number_of_detections(kind: str, count: int) -> None:
    codes, logits = random_case(kind, 2, 2, 3)
    found = detect(RawDetections(codes, logits, ANCHORS), max_detections=count)
    assert found.scores.shape == (2, count)
    for image in range(2):
        assert_is(found, image, reference(codes[image], logits[image], "sigmoid", 0.6, 1e-8, count))


def test_shapes_are_fixed_where_there_are_fewer_candidates() -> None:
    codes, logits = random_case("apart", 3, 2, 1)
    few = ANCHORS[:20]
    found = detect(RawDetections(codes[:, :20], logits[:, :20], few))
    assert found.boxes.shape == (2, 100, 4)
    assert found.scores.shape == found.labels.shape == (2, 100)
    assert (found.counts <= 20).all()
    assert (found.counts > 10).all()


def test_more_candidates_are_looked_at_where_the_best_suppress_one_another() -> None:
    """The best 400 candidates are one pile; what else there is comes after them."""
    codes, logits = random_case("piled", 4, 2, 2)
    logits[0, :, 1:] = torch.randn(A, 2, generator=torch.Generator().manual_seed(0)) - 6
    codes[0] = random_case("apart", 4, 1, 2)[0][0]
    pile = torch.tensor([0.5, 0.5, 0.3, 0.3])
    codes[0, :220, :2] = 10 * (pile[:2] - ANCHORS[:220, :2]) / ANCHORS[:220, 2:]
    codes[0, :220, 2:] = 5 * (pile[2:] / ANCHORS[:220, 2:]).log()
    logits[0, :220, 1:] += 12
    found = detect(RawDetections(codes, logits, ANCHORS))
    for image in range(2):
        wanted = reference(codes[image], logits[image], "sigmoid", 0.6, 1e-8, 100)
        assert_is(found, image, wanted)
    assert len(reference(codes[0], logits[0], "sigmoid", 0.6, 1e-8, 100, among=400)[1]) < 10
    assert found.counts[0] == 100
    assert found.scores[0, 2] < 0.2 < 0.9 < found.scores[0, 1]  # one of the pile per class, then the others


def test_an_image_does_not_depend_on_the_others() -> None:
    codes, logits = random_case("apart", 5, 3, 4)
    codes[1], logits[1] = (part[0] for part in random_case("piled", 6, 1, 4))
    together = detect(RawDetections(codes, logits, ANCHORS))
    for image in range(3):
        alone = detect(RawDetections(codes[image : image + 1], logits[image : image + 1], ANCHORS))
        assert alone.counts[0] == together.counts[image]
        for a, b in zip(alone, together, strict=True):
            torch.testing.assert_close(a[0], b[image])


def test_scores_that_saturate_keep_their_order() -> None:
    """Sigmoids of 20, 30 and 40 are all 1 in float32; the best of three equal boxes stays, whatever its place."""
    codes, logits = torch.zeros(1, A, 4), torch.full((1, A, 3), -30.0)
    logits[0, 300, 1], logits[0, 301, 1], logits[0, 310, 2] = 20.0, 40.0, 30.0
    anchors = ANCHORS.clone()
    anchors[300] = anchors[301] = anchors[310] = torch.tensor([0.4, 0.5, 0.2, 0.2])
    anchors[301, 0] = 0.41
    found = detect(RawDetections(codes, logits, anchors), score_threshold=0.5)
    assert found.counts.tolist() == [2]
    assert found.scores[0, :2].tolist() == [1, 1]
    assert found.labels[0, :2].tolist() == [0, 1]
    assert found.boxes[0, 0].tolist() == pytest.approx([0.31, 0.4, 0.51, 0.6], abs=1e-6)


@pytest.mark.parametrize("kind", ["apart", "piled"])
def test_ties(kind: str) -> None:
    """Of equal scores any may stay, but those that stay keep apart, and whatever is dropped had a reason."""
    codes, logits = random_case(kind, 7, 2, 2)
    logits = logits.round()  # a handful of values
    found = detect(RawDetections(codes, logits, ANCHORS), max_detections=2 * A, score_threshold=0.2)
    for image in range(2):
        count = int(found.counts[image])
        boxes, scores, labels = (part[image, :count] for part in found[:3])
        assert (scores.diff() <= 0).all()
        same = labels[:, None] == labels[None]
        assert not (same & (box_iou(boxes, boxes) > 0.6 + 1e-5)).triu(1).any()
        every = CODER.decode_single(codes[image], to_corners(ANCHORS)).clamp(0, 1)
        for label in range(2):
            probability = logits[image, :, 1 + label].sigmoid()
            own = labels == label
            overlap = box_iou(every, boxes[own])
            no_worse = scores[own][None] >= probability[:, None] - 1e-6
            explained = (overlap > 0.6 - 1e-5) & no_worse  # suppressed, or found itself
            due = (probability > 0.2) & (every[:, 2:] > every[:, :2]).all(dim=1)
            assert explained.any(dim=1)[due].all()
            assert int(own.sum()) <= int(due.sum())


def test_equal_boxes_with_equal_scores_are_found_once() -> None:
    anchors = torch.tensor([[0.5, 0.5, 0.2, 0.2]]).expand(30, -1)
    logits = torch.zeros(1, 30, 3)
    logits[..., 1] = 1.0
    found = detect(RawDetections(torch.zeros(1, 30, 4), logits, anchors))
    assert found.counts.tolist() == [2]
    assert found.labels[0, :2].tolist() == [0, 1]
    assert found.scores[0, :2].tolist() == pytest.approx([1 / (1 + math.exp(-1)), 0.5])


def test_boxes_are_clipped() -> None:
    logits = torch.zeros(1, 2, 2)
    codes = torch.tensor([[[-25.0, 0, 0, 0], [0, 20, 5, 5]]])
    anchors = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.5, 0.8, 0.2, 0.2]])
    found = detect(RawDetections(codes, logits + torch.tensor([[[0, 1.0], [0, 0.5]]]), anchors))
    # The first goes 0.5 to the left: -0.1 to 0.1. The second goes 0.4 down, to 1.2, and is 0.2 * e wide and high.
    half = 0.1 * math.e
    assert found.counts.tolist() == [2]
    assert found.boxes[0, 0].tolist() == pytest.approx([0, 0.4, 0.1, 0.6], abs=1e-6)
    assert found.boxes[0, 1].tolist() == pytest.approx([0.5 - half, 1.2 - half, 0.5 + half, 1], abs=1e-6)


class DetectOutside(nn.Module):
    def forward(self, codes: Tensor, logits: Tensor, anchors: Tensor) -> tuple[Tensor, ...]:
        return tuple(detect(RawDetections(codes, logits, anchors)))


@pytest.mark.parametrize("exported", [False, True])
def test_boxes_wholly_outside_are_no_boxes(exported: bool) -> None:
    """They neither appear nor suppress: of the sides -0.2 to 0 and 1.1 to 1.3 clipping leaves nothing."""
    outside = [[-0.1, 0.5, 0.2, 0.2], [0.5, 1.2, 0.2, 0.2], [1.5, 1.5, 0.4, 0.4], [1.1, 0.2, 0.2, 0.2]]
    anchors = torch.tensor([*outside, [0.05, 0.5, 0.2, 0.2], [0.95, 0.95, 0.2, 0.2]])  # half of each is within
    logits = torch.tensor([9.0, 8, 7, 6, 5, 4])[:, None] * torch.tensor([0.0, 1.0])
    inputs = torch.zeros(1, 6, 4), logits[None], anchors
    function: Any = torch.export.export(DetectOutside(), inputs).module() if exported else DetectOutside()
    boxes, scores, _, counts = function(*inputs)
    assert counts.tolist() == [2]
    assert boxes[0, 0].tolist() == pytest.approx([0, 0.4, 0.15, 0.6], abs=1e-6)
    assert boxes[0, 1].tolist() == pytest.approx([0.85, 0.85, 1, 1], abs=1e-6)
    assert scores[0, :2].tolist() == pytest.approx([1 / (1 + math.exp(-5)), 1 / (1 + math.exp(-4))])
    assert not boxes[0, 2:].any()


@pytest.mark.parametrize("count", [1, A - 1, A + 1])
def test_other_anchors_are_refused(count: int) -> None:
    """Too many anchors would put boxes in wrong places without a word."""
    codes, logits = random_case("apart", 9, 1, 2)
    anchors = ANCHORS[:1].expand(count, -1)
    with pytest.raises(ConfigError, match=f"^{A} box codes and {A} class logits .* do not match {count} anchors$"):
        detect(RawDetections(codes, logits, anchors))
    with pytest.raises(ConfigError, match=f"^{A - 2} box codes and {A} class logits .* {A} anchors$"):
        detect(RawDetections(codes[:, 2:], logits, ANCHORS))


def test_some_classes_only() -> None:
    codes, logits = random_case("piled", 8, 2, 5)
    chosen = torch.tensor([3, 1])
    for scores in ("sigmoid", "softmax"):
        found = detect(RawDetections(codes, logits, ANCHORS), classes=chosen, scores=scores)
        for image in range(2):
            # Classes do not meet: those of the other labels are left out. Softmax shares 1 among all, all the same.
            boxes, probabilities, labels = reference(codes[image], logits[image], scores, 0.6, 1e-8, 10_000)
            ours = (labels == 3) | (labels == 1)
            count = int(found.counts[image])
            assert count == min(100, int(ours.sum()))
            assert found.labels[image, :count].tolist() == [(3, 1).index(x) for x in labels[ours].tolist()[:100]]
            torch.testing.assert_close(found.boxes[image, :count], boxes[ours][:100], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(found.scores[image, :count], probabilities[ours][:100])


def test_half_precision() -> None:
    codes, logits = (part.bfloat16() for part in random_case("apart", 9, 1, 2))
    found = detect(RawDetections(codes, logits, ANCHORS))
    exact = detect(RawDetections(codes.float(), logits.float(), ANCHORS))
    assert found.scores.dtype == found.boxes.dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(found, exact, strict=True))


def test_class_scores() -> None:
    logits = torch.tensor([[[1.0, 0.0, 2.0]]])
    assert class_scores(logits, "sigmoid").tolist()[0][0] == pytest.approx([0.5, 1 / (1 + math.exp(-2))])
    total = math.e + 1 + math.exp(2)
    assert class_scores(logits, "softmax").tolist()[0][0] == pytest.approx([1 / total, math.exp(2) / total])
    assert class_scores(logits.bfloat16(), "softmax").dtype == torch.float32


# ---- suppression alone ----


@pytest.mark.parametrize("size", [0.1, 0.4, 0.8])
@pytest.mark.parametrize("seed", range(3))
def test_suppression_as_torchvision_does_it(seed: int, size: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    n, k = 3, 200
    centre = torch.rand(n, k, 2, generator=generator) * (1 - size)
    boxes = torch.cat([centre, centre + size * (0.8 + 0.4 * torch.rand(n, k, 2, generator=generator))], dim=2)
    labels = torch.randint(3, (n, k), generator=generator)
    valid = torch.rand(n, k, generator=generator) < 0.8
    keep = suppress(boxes, labels, valid, 0.5)
    assert keep.dtype == torch.bool
    rank = torch.arange(k, 0, -1.0)
    for image in range(n):
        chosen = valid[image].nonzero()[:, 0]
        kept = chosen[batched_nms(boxes[image, chosen], rank[chosen], labels[image, chosen], 0.5)]
        assert len(kept) < len(chosen) or size == 0.1
        assert keep[image].nonzero()[:, 0].tolist() == kept.sort().values.tolist()
    assert torch.equal(suppress_at_once(boxes, labels, valid, 0.5), keep)


def test_a_long_chain() -> None:
    """Each box overlaps its neighbours only: every other one stays, however long the chain."""
    x = torch.arange(101) * 0.2
    boxes = torch.stack([x, torch.zeros(101), x + 1, torch.ones(101)], dim=1)[None]  # 0.8 / 1.2, then 0.6 / 1.4
    keep = suppress(boxes, torch.zeros(1, 101).long(), torch.ones(1, 101, dtype=torch.bool), 0.6)
    assert keep[0].tolist() == [i % 2 == 0 for i in range(101)]


class AppleTensor(Tensor):
    """A tensor that says it is on an Apple GPU, and refuses double precision as that does."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "AppleTensor":
        if inner.dtype == torch.float64:
            raise TypeError("MPS has no float64")
        tensor: AppleTensor = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, dtype=inner.dtype, device=torch.device("mps")
        )
        tensor.inner = inner
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        to_cpu = str(options.pop("device", "mps")) == "cpu"
        plain = tree_map_only(AppleTensor, lambda tensor: tensor.inner, args)
        result = func(*plain, **options)
        return result if to_cpu else tree_map_only(Tensor, AppleTensor, result)


def test_suppression_where_there_is_no_double_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = torch.tensor([[[0.0, 0, 1, 1], [0, 0, 1, 0.9], [0, 0, 0.3, 0.3], [0, 0, 1, 0.95]]])
    labels, valid = torch.tensor([[0, 0, 0, 1]]), torch.tensor([[True, True, True, True]])
    with pytest.raises(TypeError, match="float64"):
        AppleTensor(boxes).double()
    back = Tensor.to
    monkeypatch.setattr(Tensor, "to", lambda x, place: AppleTensor(x) if place.type == "mps" else back(x, place))
    keep = suppress(AppleTensor(boxes), AppleTensor(labels), AppleTensor(valid), 0.5)
    assert keep.device.type == "mps"
    assert keep.inner.tolist() == [[True, False, True, True]]  # type: ignore[attr-defined]


def test_what_is_not_valid_suppresses_nothing() -> None:
    boxes = torch.tensor([[[0.0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]]])
    for function in (suppress, suppress_at_once):
        keep = function(boxes, torch.zeros(1, 3).long(), torch.tensor([[False, True, True]]), 0.5)
        assert keep.tolist() == [[False, True, False]]


# ---- export ----


class Detect(nn.Module):
    def __init__(self, scores: Scores) -> None:
        super().__init__()
        self.register_buffer("anchors", ANCHORS)
        self.scores: Scores = scores

    def forward(self, codes: Tensor, logits: Tensor) -> tuple[Tensor, ...]:
        assert isinstance(self.anchors, Tensor)
        return tuple(detect(RawDetections(codes, logits, self.anchors), scores=self.scores))


@pytest.mark.parametrize("scores", ["sigmoid", "softmax"])
def test_exported(scores: Scores) -> None:
    example = random_case("apart", 10, 2, 5)
    program = torch.export.export(Detect(scores), example).module()
    for seed in (10, 11):
        codes, logits = random_case("apart", seed, 2, 5)
        # Twenty boxes, each of which overlaps its neighbours: every other one stays.
        centre = torch.stack([0.1 + 0.04 * torch.arange(20), torch.full((20,), 0.5)], dim=1)
        codes[1, :20, :2] = 10 * (centre - ANCHORS[:20, :2]) / ANCHORS[:20, 2:]
        codes[1, :20, 2:] = 5 * (0.2 / ANCHORS[:20, 2:]).log()
        logits[1, :20] = -1e-3 * torch.arange(120.0).view(20, 6)  # no two equal: `topk` leaves their order open
        logits[1, :20, 1] = 8 - 0.3 * torch.arange(20)
        logits[1, 20:, 1:] -= 12
        if seed == 11:
            logits[0, :, 1:] -= 40 if scores == "sigmoid" else 0  # nothing but scores below the threshold
        found = detect(RawDetections(codes, logits, ANCHORS), scores=scores)
        if seed == 11 and scores == "sigmoid":
            assert found.counts[0] == 0
        else:
            assert found.counts[0] == 100
        x = found.boxes[1, :10, [0, 2]].mean(dim=1)
        torch.testing.assert_close(x, 0.1 + 0.08 * torch.arange(10))
        for ours, wanted in zip(program(codes, logits), found, strict=True):
            torch.testing.assert_close(ours, wanted)
