"""SSD's loss against a loop over images, anchors and classes in NumPy."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mnv2vision.contracts import RawDetections
from mnv2vision.data.sample import BoxKind
from mnv2vision.data.targets import BoxTargets
from mnv2vision.detection.anchors import make_anchors
from mnv2vision.detection.loss import Scores, detection_loss
from mnv2vision.detection.matcher import match
from mnv2vision.errors import ConfigError

ANCHORS = make_anchors(((6, 6), (3, 3), (2, 2), (1, 1)), (96, 96))
A, C = len(ANCHORS), 4
Array = NDArray[np.float64]


def cross_entropy(logits: Array, target: int, scores: Scores) -> float:
    """Of one anchor, the target being a column."""
    if scores == "softmax":
        return float(np.log(np.exp(logits).sum()) - logits[target])
    loss = 0.0
    for column, logit in enumerate(logits):
        p = 1 / (1 + np.exp(-logit))
        loss -= np.log(p) if column == target else np.log(1 - p)
    return float(loss)


def smooth_l1(difference: Array) -> float:
    return float(sum(0.5 * d * d if abs(d) < 1 else abs(d) - 0.5 for d in difference))


def slow_loss(codes: Tensor, logits: Tensor, targets: BoxTargets, scores: Scores) -> tuple[float, float]:
    """Class loss and box loss, image by image, with each image's own boxes only: no padding."""
    classes = boxes = 0.0
    matched = 0
    anchors = ANCHORS.double().numpy()
    for image in range(len(codes)):
        own = targets.kinds[image] != BoxKind.PADDING
        matches = match(targets.boxes[image : image + 1, own], targets.kinds[image : image + 1, own], ANCHORS)
        objects, labels = targets.boxes[image, own].double().numpy(), targets.labels[image, own].tolist()
        negatives = []
        positives = 0
        for anchor in range(A):
            row = logits[image, anchor].double().numpy()
            if matches.positive[0, anchor]:
                positives += 1
                box = int(matches.box_index[0, anchor])
                classes += cross_entropy(row, labels[box] + 1, scores)
                x1, y1, x2, y2 = objects[box]
                cx, cy, w, h = anchors[anchor]
                wanted = np.array(
                    [
                        10 * ((x1 + x2) / 2 - cx) / w,
                        10 * ((y1 + y2) / 2 - cy) / h,
                        5 * np.log((x2 - x1) / w),
                        5 * np.log((y2 - y1) / h),
                    ]
                )
                boxes += smooth_l1(codes[image, anchor].double().numpy() - wanted)
            elif not matches.ignored[0, anchor]:
                negatives.append(cross_entropy(row, 0, scores))
        classes += sum(sorted(negatives, reverse=True)[: max(3, 3 * positives)])
        matched += positives
    return classes / max(matched, 1), boxes / max(matched, 1)


def random_case(seed: int, n: int = 4, m: int = 6, p_object: float = 0.6) -> tuple[Tensor, Tensor, BoxTargets]:
    random = np.random.default_rng(seed)
    centre, size = random.uniform(0.1, 0.9, (n, m, 2)), random.uniform(0.05, 0.6, (n, m, 2))
    boxes = np.clip(np.concatenate([centre - size / 2, centre + size / 2], axis=2), 0, 1)
    others = (1 - p_object) / 3
    kinds = random.choice(4, (n, m), p=[others, p_object, others, others])
    boxes[kinds == BoxKind.PADDING] = 0
    labels = np.where(kinds == BoxKind.PADDING, 0, random.integers(0, C, (n, m)))
    targets = BoxTargets(
        torch.tensor(boxes, dtype=torch.float32),
        torch.tensor(labels),
        torch.tensor(kinds, dtype=torch.uint8),
        torch.ones(n, dtype=torch.bool),
    )
    codes = torch.tensor(random.normal(0, 2, (n, A, 4)), dtype=torch.float32)
    logits = torch.tensor(random.normal(0, 3, (n, A, 1 + C)), dtype=torch.float32)
    return codes, logits, targets


def nothing(n: int, m: int) -> BoxTargets:
    kinds = torch.zeros(n, m, dtype=torch.uint8)
    return BoxTargets(torch.zeros(n, m, 4), torch.zeros(n, m).long(), kinds, torch.ones(n, dtype=torch.bool))


@pytest.mark.parametrize("scores", ["sigmoid", "softmax"])
@pytest.mark.parametrize("seed", range(4))
def test_random_batches(seed: int, scores: Scores) -> None:
    codes, logits, targets = random_case(seed)
    targets.kinds[1] = BoxKind.PADDING  # an image without anything
    targets.boxes[1] = 0
    loss = detection_loss(RawDetections(codes, logits, ANCHORS), targets, scores)
    classes, boxes = slow_loss(codes, logits, targets, scores)
    assert classes > 1
    assert boxes > 1
    assert loss.classes.item() == pytest.approx(classes, rel=1e-5)
    assert loss.boxes.item() == pytest.approx(boxes, rel=1e-5)
    assert loss.classes.shape == loss.boxes.shape == ()


def test_sigmoid_is_the_default() -> None:
    case = random_case(7)
    default, sigmoid, softmax = (
        detection_loss(RawDetections(*case[:2], ANCHORS), case[2], *scores).classes
        for scores in ((), ("sigmoid",), ("softmax",))
    )
    assert default == sigmoid
    assert default != softmax


@pytest.mark.parametrize("m", [0, 5])
@pytest.mark.parametrize("scores", ["sigmoid", "softmax"])
def test_images_without_objects_have_three_negatives_each(scores: Scores, m: int) -> None:
    codes, logits, _ = random_case(0, n=2)
    loss = detection_loss(RawDetections(codes, logits, ANCHORS), nothing(2, m), scores)
    wanted = 0.0
    for image in range(2):
        losses = sorted(cross_entropy(row, 0, scores) for row in logits[image].double().numpy())
        wanted += sum(losses[-3:])
    assert loss.classes.item() == pytest.approx(wanted, rel=1e-5)
    assert loss.boxes.item() == 0


def one_object(label: int = 2) -> tuple[int, BoxTargets]:
    """An object that is exactly an anchor, the one of scale 0.1 in a corner, which meets no other by half."""
    cx, cy, w, h = ANCHORS[0].tolist()
    targets = nothing(1, 2)
    targets.boxes[0, 1] = torch.tensor([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
    targets.labels[0, 1] = label
    targets.kinds[0, 1] = BoxKind.OBJECT
    return 0, targets


def test_three_negatives_per_positive_the_hardest() -> None:
    anchor, targets = one_object()
    # ln(1 + e^-x) and ln(1 + e^x) of the logits, in the margin of softmax: two columns matter.
    logits = torch.full((1, A, 1 + C), -30.0)
    logits[..., 0] = 30.0
    logits[0, anchor] = -30.0
    logits[0, anchor, 3] = 30.0  # label 2 is column 3
    codes = torch.zeros(1, A, 4)
    for scores in ("sigmoid", "softmax"):
        loss = detection_loss(RawDetections(codes, logits, ANCHORS), targets, scores)
        assert loss.classes.item() == pytest.approx(0, abs=1e-5)
        assert loss.boxes.item() == pytest.approx(0, abs=1e-5)
    # Five anchors that are wrong by 1, 2, 3, 4 and 5: the three worst count.
    for rank, wrong in enumerate((10, 20, 30, 40, 50), start=1):
        logits[0, wrong, 1] = float(rank)
    loss = detection_loss(RawDetections(codes, logits, ANCHORS), targets, "sigmoid")
    wanted = sum(np.log1p(np.exp(x)) for x in (3, 4, 5))
    assert loss.classes.item() == pytest.approx(wanted, rel=1e-5)


def test_a_wrong_box_costs_smooth_l1() -> None:
    anchor, targets = one_object()
    logits = torch.zeros(1, A, 1 + C)
    codes = torch.full((1, A, 4), 100.0)  # boxes of negatives are free
    codes[0, anchor] = torch.tensor([0.5, -2.0, 1.0, 0.0])
    loss = detection_loss(RawDetections(codes, logits, ANCHORS), targets)
    assert loss.boxes.item() == pytest.approx(0.125 + 1.5 + 0.5, rel=1e-4)


@pytest.mark.parametrize("kind", [BoxKind.CROWD, BoxKind.DIFFICULT])
def test_ignored_anchors_cost_nothing(kind: BoxKind) -> None:
    anchor, targets = one_object()
    targets.kinds[0, 1] = kind
    logits = torch.full((1, A, 1 + C), -30.0)
    logits[..., 0] = 30.0
    logits[0, anchor, 3] = 30.0  # found, where the data set does not say
    loss = detection_loss(RawDetections(torch.zeros(1, A, 4), logits, ANCHORS), targets)
    assert loss.classes.item() == pytest.approx(0, abs=1e-5)
    targets.kinds[0, 1] = BoxKind.PADDING
    assert detection_loss(RawDetections(torch.zeros(1, A, 4), logits, ANCHORS), targets).classes.item() > 20


def test_the_batch_is_divided_by_all_its_matches() -> None:
    """An image with many objects weighs more than one with few: the sum over images over the sum of matches."""
    codes, logits, targets = random_case(3, n=2, p_object=1.0)
    targets.kinds[1, 1:] = BoxKind.PADDING
    both = detection_loss(RawDetections(codes, logits, ANCHORS), targets)
    parts, counts = [], []
    for image in range(2):
        part = slice(image, image + 1)
        own = BoxTargets(*(tensor[part] for tensor in targets))
        parts.append(detection_loss(RawDetections(codes[part], logits[part], ANCHORS), own))
        counts.append(int(match(own.boxes, own.kinds, ANCHORS).positive.sum()))
    assert counts[0] > counts[1] > 0
    for name in ("classes", "boxes"):
        total = sum(getattr(part, name).item() * count for part, count in zip(parts, counts, strict=True))
        assert getattr(both, name).item() == pytest.approx(total / sum(counts), rel=1e-5)


@pytest.mark.parametrize("scores", ["sigmoid", "softmax"])
@pytest.mark.parametrize("kind", ["random", "nothing", "M=0"])
def test_gradients_are_finite_and_sparse(kind: str, scores: Scores) -> None:
    codes, logits, targets = random_case(5)
    if kind != "random":
        targets = nothing(4, 3 if kind == "nothing" else 0)
    codes.requires_grad_()
    logits.requires_grad_()
    sum(detection_loss(RawDetections(codes * 100, logits * 100, ANCHORS), targets, scores)).backward()  # type: ignore[union-attr]
    assert codes.grad is not None
    assert logits.grad is not None
    assert codes.grad.isfinite().all()
    assert logits.grad.isfinite().all()
    matches = match(targets.boxes, targets.kinds, ANCHORS)
    moved = codes.grad.ne(0).any(dim=2)
    assert torch.equal(moved, matches.positive)
    touched = logits.grad.ne(0).any(dim=2)
    assert touched.any()
    assert not (touched & matches.ignored).any()
    positives = matches.positive.sum(dim=1)
    assert (touched.sum(dim=1) <= positives + (3 * positives).clamp(min=3)).all()


def test_what_is_no_positive_costs_nothing_whatever_it_says() -> None:
    """Codes of other anchors may be infinite or no numbers, and boxes of padding without area."""
    codes, logits, targets = random_case(5)
    positive = match(targets.boxes, targets.kinds, ANCHORS).positive
    wanted = detection_loss(RawDetections(codes, logits, ANCHORS), targets).boxes
    for value in (torch.inf, torch.nan):
        odd = codes.where(positive[..., None], value).requires_grad_()
        loss = detection_loss(RawDetections(odd, logits, ANCHORS), targets).boxes
        torch.testing.assert_close(loss, wanted)
        loss.backward()
        assert odd.grad is not None
        assert not odd.grad[~positive].any()
        assert odd.grad.isfinite().all()


class OnTheDevice(TorchDispatchMode):
    """Refuses operators that take a tensor from the CPU to the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [item for item in tree_leaves((args, kwargs or {})) if isinstance(item, Tensor)]
        assert all(tensor.is_meta for tensor in tensors), func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("scores", ["sigmoid", "softmax"])
@pytest.mark.parametrize("m", [0, 5])
def test_a_step_does_not_wait_for_the_device(m: int, scores: Scores) -> None:
    """On a device without values, to look at one is an error; nor is anything copied to it."""
    codes, logits, targets = random_case(0, m=5)
    on_meta = BoxTargets(*(part[:, :m].to("meta") for part in targets[:3]), targets.present.to("meta"))
    outputs = codes.to("meta").requires_grad_(), logits.to("meta").requires_grad_()
    anchors = ANCHORS.to("meta")
    with OnTheDevice():
        loss = detection_loss(RawDetections(*outputs, anchors), on_meta, scores)
        (loss.classes + loss.boxes).backward()
    assert outputs[0].grad is not None


def test_half_precision_is_computed_in_float32() -> None:
    codes, logits, targets = random_case(6)
    halves = codes.bfloat16().requires_grad_(), logits.bfloat16().requires_grad_()
    loss = detection_loss(RawDetections(*halves, ANCHORS), targets)
    assert loss.classes.dtype == loss.boxes.dtype == torch.float32
    classes, boxes = slow_loss(*(half.detach() for half in halves), targets, "sigmoid")
    assert loss.classes.item() == pytest.approx(classes, rel=1e-5)
    assert loss.boxes.item() == pytest.approx(boxes, rel=1e-5)
    sum(loss).backward()  # type: ignore[union-attr]
    for half in halves:
        assert half.grad is not None
        assert half.grad.isfinite().all()


@pytest.mark.parametrize("count", [1, A - 1, A + 1])
def test_other_anchors_are_refused(count: int) -> None:
    """A single anchor would be broadcast without a word."""
    codes, logits, targets = random_case(0)
    anchors = ANCHORS[:1].expand(count, -1)
    with pytest.raises(ConfigError, match=f"^{A} box codes and {A} class logits .* do not match {count} anchors$"):
        detection_loss(RawDetections(codes, logits, anchors), targets)
    with pytest.raises(ConfigError, match=f"^{A} box codes and {A - 2} class logits .* {A} anchors$"):
        detection_loss(RawDetections(codes, logits[:, 2:], ANCHORS), targets)


def test_padding_changes_nothing() -> None:
    codes, logits, targets = random_case(8)
    padded = BoxTargets(
        torch.cat([targets.boxes, torch.zeros(4, 10, 4)], dim=1),
        torch.cat([targets.labels, torch.zeros(4, 10).long()], dim=1),
        torch.cat([targets.kinds, torch.zeros(4, 10, dtype=torch.uint8)], dim=1),
        targets.present,
    )
    a, b = (detection_loss(RawDetections(codes, logits, ANCHORS), case) for case in (targets, padded))
    torch.testing.assert_close(torch.stack(a), torch.stack(b))


def test_images_without_annotations_do_not_count() -> None:
    """The loss of a batch is that of the images that have the target, however many others there are."""
    codes, logits, targets = random_case(3)
    some = torch.tensor([True, False, True, False])
    absent = targets._replace(kinds=targets.kinds * some[:, None], present=some)
    own = BoxTargets(*(part[some] for part in targets))
    torch.testing.assert_close(
        torch.stack(detection_loss(RawDetections(codes, logits, ANCHORS), absent)),
        torch.stack(detection_loss(RawDetections(codes[some], logits[some], ANCHORS), own)),
    )
    none = targets._replace(kinds=torch.zeros_like(targets.kinds), present=torch.zeros(4, dtype=torch.bool))
    assert torch.stack(detection_loss(RawDetections(codes, logits, ANCHORS), none)).tolist() == [0, 0]
