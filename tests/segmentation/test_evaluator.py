"""Intersection over union against plain counting, torchmetrics, and the rules for what is absent."""

import math
import pickle
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.utils.data import DistributedSampler
from torchmetrics.classification import MulticlassConfusionMatrix

from mnv2vision.data.sample import Sample
from mnv2vision.segmentation.evaluator import SegmentationEvaluator

Mask = NDArray[np.uint8]
METRICS = ("mIoU", "mIoU_present", "pixel_accuracy", "mean_accuracy")
NAMES = ("background", "ant", "bee", "cat", "dog")


def random_masks(seed: int, count: int, used: Sequence[int], ignored: float = 0.2) -> tuple[list[Mask], list[Mask]]:
    """Predictions and what is right, of various sizes, about two thirds of which agree."""
    rng = np.random.default_rng(seed)
    predictions, targets = [], []
    for _ in range(count):
        size = rng.integers(1, 12, 2)
        actual = rng.choice(used, size).astype(np.uint8)
        predicted = np.where(rng.random(size) < 0.6, actual, rng.choice(used, size)).astype(np.uint8)
        targets.append(np.where(rng.random(size) < ignored, 255, actual).astype(np.uint8))
        predictions.append(predicted)
    return predictions, targets


def truth(masks: Sequence[Mask], ids: Sequence[int | str]) -> list[Sample]:
    pixel = np.zeros((1, 1, 3), np.uint8)
    return [Sample(pixel, image_id, "", mask=mask) for image_id, mask in zip(ids, masks, strict=True)]


def evaluate(
    predictions: Sequence[Mask],
    targets: Sequence[Mask],
    ids: Sequence[int | str] | None = None,
    names: Sequence[str] = NAMES,
    evaluator: SegmentationEvaluator | None = None,
    batch: int = 2,
) -> tuple[SegmentationEvaluator, dict[str, float]]:
    evaluator = evaluator or SegmentationEvaluator(names)
    samples = truth(targets, range(len(targets)) if ids is None else ids)
    for i in range(0, len(targets), batch):
        evaluator.update(predictions[i : i + batch], samples[i : i + batch])
    return evaluator, evaluator.compute()


def plain(predictions: Sequence[Mask], targets: Sequence[Mask], classes: int) -> dict[str, Any]:
    """Sets of pixels, class by class; no confusion matrix."""
    actual = np.concatenate([mask.ravel() for mask in targets])
    predicted = np.concatenate([mask.ravel() for mask in predictions])[actual != 255]
    actual = actual[actual != 255]
    rows: list[tuple[int, float | None, float | None, float | None]] = []
    for label in range(classes):
        inter = int(((actual == label) & (predicted == label)).sum())
        union = int(((actual == label) | (predicted == label)).sum())
        truth, found = int((actual == label).sum()), int((predicted == label).sum())
        iou = inter / union if union else None
        rows.append((truth, iou, inter / truth if truth else None, inter / found if found else None))
    mean = [row[1] for row in rows if row[1] is not None]
    present = [row for row in rows if row[0]]
    if not len(actual):
        return {"metrics": dict.fromkeys(METRICS, float("nan")), "rows": rows}
    values = (
        sum(mean) / len(mean),
        sum(row[1] for row in present if row[1] is not None) / len(present),
        float((actual == predicted).mean()),
        sum(row[2] for row in present if row[2] is not None) / len(present),
    )
    return {"metrics": dict(zip(METRICS, values, strict=True)), "rows": rows}


def assert_equal(evaluator: SegmentationEvaluator, metrics: dict[str, float], wanted: dict[str, Any]) -> None:
    assert metrics == pytest.approx(wanted["metrics"], abs=1e-12, nan_ok=True)
    rows = evaluator.per_class()
    assert [row.name for row in rows] == list(evaluator.names)
    for row, expected in zip(rows, wanted["rows"], strict=True):
        assert tuple(row[1:]) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 5),
    used=st.lists(st.integers(0, 4), min_size=1, max_size=5, unique=True),
    ignored=st.sampled_from([0.0, 0.2, 0.9, 1.0]),
)
def test_equals_plain_counting(seed: int, count: int, used: list[int], ignored: float) -> None:
    predictions, targets = random_masks(seed, count, used, ignored)
    evaluator, metrics = evaluate(predictions, targets)
    assert_equal(evaluator, metrics, plain(predictions, targets, len(NAMES)))


@pytest.mark.parametrize("used", [(0, 1, 2, 3, 4), (1, 3)])
def test_equals_torchmetrics(used: tuple[int, ...]) -> None:
    predictions, targets = random_masks(0, 9, used)
    evaluator, metrics = evaluate(predictions, targets)
    reference = MulticlassConfusionMatrix(num_classes=5, ignore_index=255)
    for predicted, actual in zip(predictions, targets, strict=True):
        reference.update(torch.from_numpy(predicted).long(), torch.from_numpy(actual).long())
    counts = reference.compute().numpy()
    assert evaluator.confusion.dtype == np.int64
    np.testing.assert_array_equal(evaluator.confusion, counts)
    right = counts.diagonal()
    union = counts.sum(0) + counts.sum(1) - right
    assert metrics["mIoU"] == pytest.approx((right[union > 0] / union[union > 0]).mean())


# ---- rules ----


def test_absent_classes() -> None:
    """A class that is nowhere does not count; one that is predicted and not there has an IoU of 0 by VOC's rule."""
    actual = np.array([[0, 0, 1, 1]], np.uint8)
    evaluator, metrics = evaluate([np.array([[0, 0, 1, 2]], np.uint8)], [actual])
    assert metrics["mIoU"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert metrics["mIoU_present"] == pytest.approx((1 + 0.5) / 2)
    assert metrics["pixel_accuracy"] == 0.75
    assert metrics["mean_accuracy"] == 0.75
    assert evaluator.per_class() == [
        ("background", 2, 1.0, 1.0, 1.0),
        ("ant", 2, 0.5, 0.5, 1.0),
        ("bee", 0, 0.0, None, 0.0),
        ("cat", 0, None, None, None),
        ("dog", 0, None, None, None),
    ]
    # One that is there and not predicted at all has 0 by either rule.
    _, metrics = evaluate([np.zeros((1, 4), np.uint8)], [actual])
    assert metrics["mIoU"] == metrics["mIoU_present"] == 0.25


def test_one_matrix_over_the_data_set() -> None:
    """Not the mean over images (what smp#226 asks about)."""
    predictions = [np.array([[1]], np.uint8), np.array([[1, 0, 0, 0]], np.uint8)]
    targets = [np.array([[1]], np.uint8), np.array([[1, 1, 1, 0]], np.uint8)]
    evaluator, metrics = evaluate(predictions, targets)
    assert metrics["mIoU"] == pytest.approx((2 / 4 + 1 / 3) / 2)
    assert dict(tuple(row[:2]) for row in evaluator.worst()) == {0: 1.0, 1: pytest.approx((1 / 3 + 1 / 3) / 2)}


def test_ignored_pixels() -> None:
    predictions, targets = random_masks(1, 6, range(5))
    _, metrics = evaluate(predictions, targets)
    others = [
        np.where(actual == 255, 4 - predicted, predicted)
        for predicted, actual in zip(predictions, targets, strict=True)
    ]
    assert any((other != predicted).any() for other, predicted in zip(others, predictions, strict=True))
    assert evaluate(others, targets)[1] == metrics


def test_an_image_of_nothing_but_ignored_pixels() -> None:
    predictions, targets = random_masks(2, 3, range(5))
    _, metrics = evaluate(predictions, targets)
    nothing = np.full((3, 4), 255, np.uint8)
    evaluator, again = evaluate([*predictions, np.zeros_like(nothing)], [*targets, nothing])
    assert again == metrics
    assert {score.image_id for score in evaluator.worst()} == {0, 1, 2}
    evaluator, alone = evaluate([np.zeros_like(nothing)], [nothing])
    assert tuple(alone) == METRICS
    assert all(math.isnan(value) for value in alone.values())
    assert evaluator.worst() == []


def test_nothing_at_all_and_after_reset() -> None:
    evaluator = SegmentationEvaluator(NAMES)
    metrics = evaluator.compute()
    assert tuple(metrics) == METRICS
    assert all(math.isnan(value) for value in metrics.values())
    assert evaluator.per_class() == [(name, 0, None, None, None) for name in NAMES]
    assert evaluator.worst() == []
    predictions, targets = random_masks(3, 4, range(5))
    _, first = evaluate(predictions, targets, evaluator=evaluator)
    evaluator.reset()
    assert math.isnan(evaluator.compute()["mIoU"])
    assert evaluator.worst() == []
    assert not evaluator.confusion.any()
    assert evaluate(predictions, targets, evaluator=evaluator)[1] == first  # the same ids, once more


def test_perfect() -> None:
    targets = [np.arange(5, dtype=np.uint8).reshape(1, 5)]
    assert evaluate(targets, targets)[1] == dict.fromkeys(METRICS, 1.0)


def test_an_image_counts_once_and_order_does_not_matter() -> None:
    predictions, targets = random_masks(4, 7, range(5))
    ids = ["b", "a", 3, 12, "2007_000032", "c", "10"]
    evaluator, metrics = evaluate(predictions, targets, ids)
    rows, worst = evaluator.per_class(), evaluator.worst()
    _, again = evaluate(predictions[:4], targets[:4], ids[:4], evaluator=evaluator)
    assert again == metrics
    assert len(evaluator.worst()) == 7
    order = np.random.default_rng(0).permutation(7)
    parts: tuple[list[Any], ...] = tuple([part[i] for i in order] for part in (predictions, targets, ids))
    other, shuffled = evaluate(*parts, batch=3)
    assert shuffled == metrics
    assert (other.per_class(), other.worst()) == (rows, worst)
    # Within one batch as well.
    twice = SegmentationEvaluator(NAMES)
    twice.update([predictions[0]] * 2, truth([targets[0]] * 2, ["b", "b"]))
    assert twice.compute() == evaluate(predictions[:1], targets[:1])[1]


def test_compute_may_be_called_in_between() -> None:
    predictions, targets = random_masks(5, 6, range(5))
    evaluator, _ = evaluate(predictions[:3], targets[:3])
    confusion = evaluator.confusion.copy()
    assert evaluator.compute() == evaluate(predictions[:3], targets[:3])[1]
    _, metrics = evaluate(predictions[3:], targets[3:], [3, 4, 5], evaluator=evaluator)
    assert metrics == evaluate(predictions, targets)[1]
    assert evaluator.confusion.sum() > confusion.sum()


def test_worst_images() -> None:
    predictions, targets = random_masks(6, 30, range(5))
    evaluator, _ = evaluate(predictions, targets)
    wanted = {}
    for image_id, pair in enumerate(zip(predictions, targets, strict=True)):
        metrics = plain([pair[0]], [pair[1]], 5)["metrics"]
        if not math.isnan(metrics["mIoU"]):
            wanted[image_id] = (metrics["mIoU"], metrics["pixel_accuracy"])
    assert len(wanted) > 20
    worst = evaluator.worst(100)
    assert {row.image_id: tuple(row[1:]) for row in worst} == {
        key: pytest.approx(value, abs=1e-12) for key, value in wanted.items()
    }
    assert [row.mIoU for row in worst] == sorted(row.mIoU for row in worst)
    assert evaluator.worst() == worst[:20]
    assert evaluator.worst(3) == worst[:3]


def test_many_pixels_do_not_overflow() -> None:
    """254 classes are 64,516 pairs, more than 16 bits tell apart."""
    names = [str(label) for label in range(255)]
    actual = np.arange(255, dtype=np.uint8).reshape(1, 255)
    predicted = actual[:, ::-1].copy()
    evaluator, metrics = evaluate([predicted], [actual], names=names)
    assert evaluator.confusion[254, 0] == 0 + 1  # predicted 0 where 254 is right
    assert evaluator.confusion.sum() == 255
    assert metrics["pixel_accuracy"] == pytest.approx(1 / 255)  # the one in the middle


def test_sizes_must_agree() -> None:
    with pytest.raises((ValueError, IndexError)):
        SegmentationEvaluator(NAMES).update([np.zeros((2, 3), np.uint8)], truth([np.zeros((3, 2), np.uint8)], [1]))
    with pytest.raises(ValueError):
        SegmentationEvaluator(NAMES).update([np.zeros((2, 3), np.uint8)], [])


# ---- two processes ----

CASES = ("odd", "sampler", "one has all", "nothing at all")


def _share(case: str, rank: int) -> list[int]:
    if case == "odd":
        return list(range(rank, 11, 2))
    if case == "one has all":
        return [] if rank else list(range(11))
    if case == "nothing at all":
        return []
    sampler: DistributedSampler[int] = DistributedSampler(range(11), 2, rank, seed=3)  # type: ignore[arg-type]
    return list(sampler)


def _outcome(indices: Sequence[int]) -> dict[str, Any]:
    predictions, targets = random_masks(7, 11, range(5))
    parts: tuple[list[Any], ...] = tuple([part[i] for i in indices] for part in (predictions, targets))
    evaluator, metrics = evaluate(*parts, [f"image {i}" for i in indices])
    return {
        "metrics": repr(metrics),  # in which NaN equals NaN
        "confusion": evaluator.confusion.tolist(),
        "rows": [tuple(row) for row in evaluator.per_class()],
        "worst": [tuple(row) for row in evaluator.worst()],
    }


def _process(rank: int, folder: str, patience: float) -> None:
    torch.set_num_threads(1)
    meeting, limit = f"file://{folder}/meet", timedelta(seconds=patience)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2, timeout=limit)
    for case in CASES:
        (Path(folder) / f"{case}, {rank}.pickle").write_bytes(pickle.dumps(_outcome(_share(case, rank))))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory, patience: float) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    context = torch.multiprocessing.spawn(_process, (str(folder), patience), nprocs=2, join=False)
    deadline = time.monotonic() + patience
    try:
        while not context.join(timeout=1):
            assert time.monotonic() < deadline, "the processes wait for one another"
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(case: str, two_processes: Path) -> None:
    if case == "sampler":  # repeats an image to give both as many
        assert len(set(_share(case, 0)) & set(_share(case, 1))) == 1
    expected = _outcome([] if case == "nothing at all" else range(11))
    for rank in (0, 1):
        assert pickle.loads((two_processes / f"{case}, {rank}.pickle").read_bytes()) == expected
    assert len(expected["worst"]) == (0 if case == "nothing at all" else 11)


def test_what_the_figures_cannot_tell() -> None:
    void, background, ants = np.full((3, 4), 255, np.uint8), np.zeros((3, 4), np.uint8), np.ones((3, 4), np.uint8)
    evaluator, metrics = evaluate([background] * 2, [void] * 2)
    assert all(math.isnan(value) for value in metrics.values())
    assert evaluator.remarks() == ["no pixel of the 2 masks counts (all are 255): mIoU cannot be measured"]
    evaluator, metrics = evaluate([background] * 2, [void, background])
    assert metrics["mIoU"] == 1
    assert evaluator.remarks() == [
        "all pixels of the masks that count are background: mIoU tells nothing of the other classes"
    ]
    evaluator, _ = evaluate([background] * 2, [ants, background])
    assert evaluator.remarks() == [
        "3 of the 5 classes have no pixels in the masks (bee, cat, dog):"
        " each has an IoU of 0 where it is predicted, and is left out of mIoU where not"
    ]
    all_classes = np.arange(5, dtype=np.uint8)[None]
    evaluator, _ = evaluate([all_classes], [all_classes])
    assert evaluator.remarks() == []
    evaluator.reset()
    assert evaluator.remarks() == []
