"""Which anchor is to predict which object: against a slow implementation in NumPy, and by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import box_iou

from mnv2vision.data.sample import BoxKind
from mnv2vision.detection.matcher import Matches, match

Array = NDArray[np.float64]
PADDING, OBJECT, CROWD, DIFFICULT = BoxKind.PADDING, BoxKind.OBJECT, BoxKind.CROWD, BoxKind.DIFFICULT


def common_area(a: Array, b: Array) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return float(max(width, 0) * max(height, 0))


def size_of(a: Array) -> float:
    return float((a[2] - a[0]) * (a[3] - a[1]))


def slow_match(boxes: Array, kinds: list[int], anchors: Array) -> tuple[list[int], list[bool], list[bool]]:
    """The rules of `match`, one image, one pair at a time."""
    corners = [np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2]) for x, y, w, h in anchors]
    overlap = np.zeros((len(boxes), len(corners)))
    for i, box in enumerate(boxes):
        for j, corner in enumerate(corners):
            common = common_area(box, corner)
            union = size_of(box) + size_of(corner) - common
            overlap[i, j] = common / union if union > 0 else 0.0
    objects = [i for i in range(len(boxes)) if kinds[i] == OBJECT]

    owner: dict[int, int] = {}
    for j in range(len(corners)):
        best = max(objects, key=lambda i: (overlap[i, j], -i), default=None)
        if best is not None and overlap[best, j] >= 0.5:
            owner[j] = best

    forced: dict[int, int] = {}
    waiting = list(objects)
    for _ in range(8):  # who loses eight times gives up
        wishes: dict[int, list[int]] = {}
        for i in waiting:
            free = [j for j in range(len(corners)) if j not in forced and overlap[i, j] > 0]
            if free:
                wishes.setdefault(max(free, key=lambda j: (overlap[i, j], -j)), []).append(i)
        for j, rivals in wishes.items():
            forced[j] = max(rivals, key=lambda i: (overlap[i, j], -i))
        waiting = [i for rivals in wishes.values() for i in rivals if i not in forced.values()]
    owner |= forced

    ignored = []
    for j, corner in enumerate(corners):
        near_difficult = any(kinds[i] == DIFFICULT and overlap[i, j] >= 0.5 for i in range(len(boxes)))
        in_crowd = any(
            kinds[i] == CROWD and common_area(boxes[i], corner) >= 0.5 * size_of(corner) for i in range(len(boxes))
        )
        ignored.append((near_difficult or in_crowd) and j not in owner)
    anchor_range = range(len(corners))
    return [owner.get(j, 0) for j in anchor_range], [j in owner for j in anchor_range], ignored


def random_boxes(random: np.random.Generator, count: int) -> Array:
    """Centre x, centre y, width, height; small enough to miss one another, large enough to meet."""
    return np.concatenate([random.uniform(0, 1, (count, 2)), random.uniform(0.05, 0.45, (count, 2))], axis=1)


def to_corners(boxes: Array) -> Array:
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)


N = 4


def random_case(objects: int, anchors: int, seed: int) -> tuple[Array, NDArray[np.int64], Array]:
    """Boxes and kinds of N images, and anchors; double precision, so that nothing ties by rounding."""
    random = np.random.default_rng(seed)
    anchor_boxes = random_boxes(random, anchors)
    boxes = np.stack([to_corners(random_boxes(random, objects)) for _ in range(N)])
    boxes[0, -1] = boxes[0, 0]  # the same box twice
    near = random.integers(0, anchors, objects)
    boxes[1] = to_corners(anchor_boxes[near]) + random.uniform(-0.02, 0.02, (objects, 4))  # close to anchors
    kinds = random.choice([PADDING, OBJECT, OBJECT, OBJECT, CROWD, DIFFICULT], (N, objects))
    kinds[3] = random.choice([PADDING, CROWD, DIFFICULT], objects)  # no object
    boxes[kinds == PADDING] = 0
    return boxes, kinds, anchor_boxes


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("objects", "anchors"), [(3, 60), (8, 60), (12, 16), (20, 12), (1, 1)])
def test_random_boxes(objects: int, anchors: int, seed: int) -> None:
    """Many anchors for few objects, and too few anchors for all."""
    boxes, kinds, anchor_boxes = random_case(objects, anchors, seed)
    matches = match(torch.tensor(boxes), torch.tensor(kinds, dtype=torch.uint8), torch.tensor(anchor_boxes))
    for image in range(N):
        index, positive, ignored = slow_match(boxes[image], kinds[image].tolist(), anchor_boxes)
        assert matches.positive[image].tolist() == positive
        assert matches.ignored[image].tolist() == ignored
        assert matches.box_index[image].tolist() == index


def test_the_random_boxes_cover_the_rules() -> None:
    """Else the comparison above would show little."""
    positives = forced_only = ignored_anchors = losers = 0
    for seed in range(8):
        boxes, kinds, anchors = random_case(12, 16, seed)
        for image in range(N):
            _, positive, ignored = slow_match(boxes[image], kinds[image].tolist(), anchors)
            own = boxes[image, kinds[image] == OBJECT]
            positives += sum(positive)
            ignored_anchors += sum(ignored)
            if len(own):
                iou = box_iou(torch.tensor(own), torch.tensor(to_corners(anchors))).numpy()
                forced_only += int((np.array(positive) & (iou.max(axis=0) < 0.5)).sum())
                losers += len(own) - len(set(iou.argmax(axis=1).tolist()))
    assert positives > 100
    assert forced_only > 50
    assert ignored_anchors > 20
    assert losers > 20


# ---- by hand: four anchors side by side, 0.2 wide and high ----

ROW = torch.tensor([[0.2, 0.5, 0.2, 0.2], [0.4, 0.5, 0.2, 0.2], [0.6, 0.5, 0.2, 0.2], [0.8, 0.5, 0.2, 0.2]])


def around(x: float, width: float = 0.2, y: float = 0.5, height: float = 0.2) -> list[float]:
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def match_one(boxes: list[list[float]], kinds: list[int], anchors: Tensor = ROW) -> Matches:
    tensor = torch.tensor(boxes, dtype=torch.float32).view(1, -1, 4)
    matches = match(tensor, torch.tensor([kinds], dtype=torch.uint8), anchors)
    return Matches(*(part[0] for part in matches))


def test_an_anchor_predicts_what_it_overlaps_most() -> None:
    matches = match_one([around(0.21), around(0.61), around(0.59)], [OBJECT] * 3)
    assert matches.positive.tolist() == [True, True, True, False]
    # The second and third tie for 0.6: both are off by 0.01. The first has it, the other gets its next best.
    assert matches.box_index.tolist() == [0, 2, 1, 0]
    assert not matches.ignored.any()


def test_from_an_overlap_of_one_half() -> None:
    # An anchor 0.2 wide within a box of width w overlaps it by 0.2 / w.
    wide = match_one([around(0.6), around(0.5, 0.405)], [OBJECT] * 2)
    assert wide.box_index.tolist() == [0, 1, 0, 0]  # by its best anchor only: 0.49 at 0.4, which is not one half
    two = torch.tensor([[0.3, 0.5, 0.2, 0.2], [0.5, 0.5, 0.38, 0.2]])
    below = match_one([around(0.5, 0.38), around(0.5, 0.77)], [OBJECT] * 2, two)
    assert below.positive.tolist() == [True, True]
    assert below.box_index.tolist() == [1, 0]
    # 0.3 wide boxes, centred 0.1 apart: 0.2 / 0.4 is exactly one half. In eighths, to be exact in binary.
    exact = torch.tensor([[0.375, 0.5, 0.375, 0.25], [0.5, 0.5, 0.375, 0.25]])
    matches = match_one([around(0.5, 0.375, height=0.25)], [OBJECT], exact)
    assert matches.positive.tolist() == [True, True]
    less = match_one([around(0.5078125, 0.375, height=0.25)], [OBJECT], exact)
    assert less.positive.tolist() == [False, True]


def test_every_object_gets_its_best_anchor_whatever_the_overlap() -> None:
    matches = match_one([around(0.62, 0.02, 0.5, 0.02)], [OBJECT])  # 1 % of the anchor
    assert matches.positive.tolist() == [False, False, True, False]
    assert matches.box_index.tolist() == [0, 0, 0, 0]


def test_a_forced_anchor_leaves_the_object_it_overlaps_more() -> None:
    """Both anchors overlap the first object by half or more, but one of them is all that the second overlaps."""
    anchors = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.55, 0.5, 0.2, 0.2]])
    assert match_one([around(0.5)], [OBJECT], anchors).positive.tolist() == [True, True]
    matches = match_one([around(0.5), around(0.64, 0.02)], [OBJECT] * 2, anchors)
    assert matches.positive.tolist() == [True, True]
    assert matches.box_index.tolist() == [0, 1]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_objects_that_want_the_same_anchor_both_get_one(order: tuple[int, int]) -> None:
    objects = [around(0.605), around(0.58)]  # both overlap the anchor at 0.6 most; the first one more
    matches = match_one([objects[i] for i in order], [OBJECT] * 2)
    assert matches.positive.tolist() == [False, True, True, False]
    # The other's next best is the anchor at 0.4, which it overlaps a little.
    assert matches.box_index[2] == order.index(0)
    assert matches.box_index[1] == order.index(1)


def test_identical_boxes() -> None:
    matches = match_one([around(0.59)] * 3, [OBJECT] * 3)
    # Three objects, of which two overlap nothing but the anchors at 0.4 and 0.6: the third gets none.
    assert matches.positive.tolist() == [False, True, True, False]
    assert matches.box_index.tolist() == [0, 1, 0, 0]
    many = match_one([around(0.5, 1.0)] * 4, [OBJECT] * 4)
    assert many.positive.all()
    assert sorted(many.box_index.tolist()) == [0, 1, 2, 3]


def test_an_object_that_loses_eight_times_gives_up() -> None:
    """Twelve identical boxes and 22 anchors that overlap them: the first eight get one each, of the best eight."""
    side = torch.arange(20)
    anchors = torch.stack([0.5 + 0 * side, 0.5 + 0 * side, 0.2 + 0.001 * side, 0.2 + 0 * side], dim=1)
    anchors = torch.cat([anchors, torch.tensor([[0.35, 0.5, 0.2, 0.2], [0.9, 0.5, 0.2, 0.2]])])  # by 1 / 7, and none
    matches = match_one([around(0.5)] * 12, [OBJECT] * 12, anchors)
    # From 1 to 0.2 / 0.219 the overlaps fall; anchors that nobody is given belong to the first by the threshold.
    assert matches.positive.tolist() == [True] * 20 + [False] * 2
    assert matches.box_index.tolist() == [*range(8), *[0] * 14]


def test_nothing_depends_on_values() -> None:
    """On a device without values, to look at one is an error: so that no GPU is waited for."""
    boxes, kinds = torch.zeros(2, 5, 4, device="meta"), torch.zeros(2, 5, device="meta", dtype=torch.uint8)
    assert [part.shape for part in match(boxes, kinds, ROW.to("meta"))] == [(2, 4)] * 3


def test_rounds_without_proposals_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU runs all rounds, a CPU as many as are needed."""
    boxes, kinds, anchors = (torch.tensor(part) for part in random_case(12, 16, 0))
    kinds = kinds.to(torch.uint8)
    early = match(boxes, kinds, anchors)
    truly_any: Any = torch.Tensor.any
    monkeypatch.setattr(torch.Tensor, "any", lambda x, **along: truly_any(x, **along) if along else True)
    late = match(boxes, kinds, anchors)
    assert all(torch.equal(a, b) for a, b in zip(early, late, strict=True))


@pytest.mark.parametrize("kind", [PADDING, OBJECT])
def test_an_object_that_overlaps_nothing(kind: int) -> None:
    away = around(0.5, 0.1, 0.9, 0.1)
    alone = match_one([away], [kind])
    assert not alone.positive.any()
    assert not alone.ignored.any()
    matches = match_one([away, around(0.4)], [kind, OBJECT])
    assert matches.positive.tolist() == [False, True, False, False]
    assert matches.box_index.tolist() == [0, 1, 0, 0]
    without_area = match_one([around(0.4, 0.0), around(0.6)], [kind, OBJECT])
    assert without_area.positive.tolist() == [False, False, True, False]


def test_padding_is_nothing_wherever_it_lies() -> None:
    matches = match_one([around(0.4), around(0.6)], [PADDING, OBJECT])
    assert matches.positive.tolist() == [False, False, True, False]
    assert matches.box_index.tolist() == [0, 0, 1, 0]
    assert not matches.ignored.any()


def test_a_crowd_hides_what_lies_in_it_by_half() -> None:
    # From 0.3 to 0.59: the anchor at 0.4 whole, of that at 0.6 (0.5 to 0.7) 45 %.
    matches = match_one([[0.3, 0.0, 0.59, 1.0]], [CROWD])
    assert matches.ignored.tolist() == [False, True, False, False]
    assert not matches.positive.any()
    matches = match_one([[0.3, 0.0, 0.61, 1.0]], [CROWD])  # 55 %
    assert matches.ignored.tolist() == [False, True, True, False]
    # An object in the crowd is an object.
    matches = match_one([[0.3, 0.0, 0.61, 1.0], around(0.6)], [CROWD, OBJECT])
    assert matches.positive.tolist() == [False, False, True, False]
    assert matches.ignored.tolist() == [False, True, False, False]


def test_difficult_objects_hide_what_overlaps_them_by_half() -> None:
    matches = match_one([around(0.41), around(0.7, 0.2)], [DIFFICULT] * 2)  # the latter overlaps two by a third
    assert matches.ignored.tolist() == [False, True, False, False]
    assert not matches.positive.any()
    # A large one that holds all anchors hides none: only a crowd does.
    assert not match_one([around(0.5, 1.0, 0.5, 1.0)], [DIFFICULT]).ignored.any()
    matches = match_one([around(0.41), around(0.4)], [DIFFICULT, OBJECT])
    assert matches.positive.tolist() == [False, True, False, False]
    assert not matches.ignored.any()


@pytest.mark.parametrize("kinds", [[], [PADDING] * 3])
def test_no_objects(kinds: list[int]) -> None:
    m = len(kinds)
    matches = match(torch.zeros(2, m, 4), torch.full((2, m), PADDING, dtype=torch.uint8), ROW)
    for part, dtype in zip(matches, (torch.int64, torch.bool, torch.bool), strict=True):
        assert part.shape == (2, 4)
        assert part.dtype == dtype
        assert not part.any()


def test_images_do_not_meddle() -> None:
    random = np.random.default_rng(1)
    anchors = torch.tensor(random_boxes(random, 30))
    boxes = torch.tensor(np.stack([to_corners(random_boxes(random, 5)) for _ in range(3)]))
    kinds = torch.full((3, 5), OBJECT, dtype=torch.uint8)
    together = match(boxes, kinds, anchors)
    for image in range(3):
        alone = match(boxes[image : image + 1], kinds[image : image + 1], anchors)
        assert all(torch.equal(a[image], b[0]) for a, b in zip(together, alone, strict=True))
