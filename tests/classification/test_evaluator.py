"""Accuracy and confusions against torchmetrics and plain counting, in one process and in two."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mnv2vision.classification.evaluator import ClassificationEvaluator
from mnv2vision.data.sample import NO_LABEL, Sample

PIXEL = np.zeros((1, 1, 3), np.uint8)


def random_data(count: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor, list[str]]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.rand(count, classes, generator=generator)  # without ties
    labels = torch.randint(classes, (count,), generator=generator)
    logits[torch.arange(count), labels] += 0.2  # better than chance
    return logits, labels, [f"image {index}" for index in range(count)]


def evaluate(
    logits: Tensor, labels: Tensor, ids: list[str], batch: int = 7, evaluator: ClassificationEvaluator | None = None
) -> tuple[ClassificationEvaluator, dict[str, float]]:
    evaluator = evaluator or ClassificationEvaluator(logits.shape[1])
    samples = [
        Sample(PIXEL, image_id, "", None if label == NO_LABEL else label)
        for image_id, label in zip(ids, labels.tolist(), strict=True)
    ]
    for start in range(0, len(ids), batch):
        part = slice(start, start + batch)
        evaluator.update(logits[part], samples[part])
    return evaluator, evaluator.compute()


@pytest.mark.parametrize("classes", [2, 3, 5, 6, 40])
def test_equals_torchmetrics(classes: int) -> None:
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix

    logits, labels, ids = random_data(211, classes)
    evaluator, metrics = evaluate(logits, labels, ids)
    for k, name in ((1, "top1"), (5, "top5")):
        reference = multiclass_accuracy(logits, labels, num_classes=classes, top_k=min(k, classes), average="micro")
        assert metrics[name] == pytest.approx(reference.item(), abs=1e-7)
    matrix = multiclass_confusion_matrix(logits, labels, num_classes=classes)
    np.testing.assert_array_equal(evaluator.confusion, matrix.numpy())
    if classes <= 5:
        assert metrics["top5"] == 1


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 30), st.integers(1, 9), st.integers(1, 9), st.integers(0, 10**6))
def test_equals_counting(count: int, classes: int, batch: int, seed: int) -> None:
    logits, labels, ids = random_data(count, classes, seed)
    order = np.argsort(-logits.numpy(), axis=1)
    best = [list(row[:5]) for row in order]
    evaluator, metrics = evaluate(logits, labels, ids, batch)
    truth = labels.tolist()
    assert metrics["top1"] == pytest.approx(sum(b[0] == t for b, t in zip(best, truth, strict=True)) / count)
    assert metrics["top5"] == pytest.approx(sum(t in b for b, t in zip(best, truth, strict=True)) / count)

    pairs = Counter((t, int(b[0])) for b, t in zip(best, truth, strict=True))
    rows = {row.name: row for row in evaluator.per_class()}
    for label in range(classes):
        right = pairs[label, label]
        actual = sum(n for (a, _), n in pairs.items() if a == label)
        predicted = sum(n for (_, p), n in pairs.items() if p == label)
        if not actual and not predicted:
            assert f"class {label}" not in rows
            continue
        row = rows[f"class {label}"]
        assert row.images == actual
        assert row.recall == (pytest.approx(right / actual) if actual else None)
        assert row.precision == (pytest.approx(right / predicted) if predicted else None)
    wrong = {(f"class {a}", f"class {p}"): n for (a, p), n in pairs.items() if a != p}
    confused = evaluator.most_confused(1000)
    assert {(row.actual, row.predicted): row.images for row in confused} == wrong
    assert [row.images for row in confused] == sorted(wrong.values(), reverse=True)
    assert evaluator.most_confused(2) == confused[:2]


def test_an_image_counts_once() -> None:
    logits, labels, ids = random_data(10, 4)
    _, once = evaluate(logits, labels, ids)
    # As a distributed sampler repeats images to give every process as many.
    evaluator, twice = evaluate(torch.cat([logits, logits[:3]]), torch.cat([labels, labels[:3]]), ids + ids[:3])
    assert twice == once
    assert evaluator.confusion.sum() == 10
    # Equal labels and logits of different images are no duplicates.
    evaluator, _ = evaluate(logits[:1].repeat(3, 1), labels[:1].repeat(3), ["a", "b", "c"])
    assert evaluator.confusion.sum() == 3


def test_names() -> None:
    evaluator = ClassificationEvaluator(3, ("ant", "bee", "wasp"))
    labels = torch.tensor([0, 0, 0, 1])
    evaluate(torch.eye(3)[[0, 2, 2, 1]], labels, list("abcd"), evaluator=evaluator)
    assert [tuple(row) for row in evaluator.per_class()] == [
        ("ant", 3, pytest.approx(1 / 3), 1.0),
        ("bee", 1, 1.0, 1.0),
        ("wasp", 0, None, 0.0),
    ]
    assert [tuple(row) for row in evaluator.most_confused()] == [("ant", "wasp", 2)]


def test_without_images_and_after_reset() -> None:
    evaluator = ClassificationEvaluator(3)
    metrics = evaluator.compute()
    assert math.isnan(metrics["top1"])
    assert math.isnan(metrics["top5"])
    assert evaluator.per_class() == evaluator.most_confused() == []
    logits, labels, ids = random_data(9, 3)
    _, first = evaluate(logits, labels, ids, evaluator=evaluator)
    evaluator.reset()
    assert math.isnan(evaluator.compute()["top1"])
    _, again = evaluate(logits, labels, ids, evaluator=evaluator)
    assert again == first


def _process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    logits, labels, ids = random_data(11, 7)
    # An odd count, so that the sampler of some would repeat an image; then all images in one process.
    for name, mine in (("odd", [*range(rank, 11, 2), 0][:6]), ("one", [] if rank else list(range(11)))):
        evaluator, metrics = evaluate(logits[mine], labels[mine], [ids[index] for index in mine])
        torch.save((metrics, torch.from_numpy(evaluator.confusion)), f"{folder}/{name}_{rank}")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_process, (str(tmp_path),), nprocs=2)
    evaluator, metrics = evaluate(*random_data(11, 7))
    for name in ("odd_0", "odd_1", "one_0", "one_1"):
        theirs, confusion = torch.load(tmp_path / name)
        assert theirs == metrics  # exactly
        np.testing.assert_array_equal(confusion.numpy(), evaluator.confusion)


def test_what_the_figures_cannot_tell() -> None:
    def remarks(classes: int, labels: list[int]) -> list[str]:
        logits = torch.eye(classes)[torch.tensor(labels)]
        return evaluate(logits, torch.tensor(labels), [str(i) for i in range(len(labels))])[0].remarks()

    assert remarks(6, [0, 1, 2, 3, 4, 5]) == []
    assert remarks(6, [0, 1, 2, 3]) == ["2 of the 6 classes have no images: class 4, class 5"]
    assert remarks(5, [0, 1, 2, 3, 4]) == ["top5 is always 1: there are only 5 classes"]
    assert remarks(1, [0]) == ["top1 and top5 are always 1: there is only 1 class"]
    assert ClassificationEvaluator(3).remarks() == []
