"""COCO's twelve numbers against the published ones and against pycocotools."""

import contextlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mnv2vision.data.sample import Boxes, Sample
from mnv2vision.detection.coco_evaluator import METRICS, CocoEvaluator
from mnv2vision.detection.results import read_results, write_results
from mnv2vision.predictions.detection import Detection

NAMES = ("ant", "bee", "cat", "dog", "elk")
CATEGORY_IDS = (18, 3, 90, 44, 7)
PIXEL = np.zeros((1, 1, 3), np.uint8)
NOTHING = dict.fromkeys(METRICS, -1.0)


@dataclass
class Image:
    truth: Sample
    found: Detection

    @property
    def boxes(self) -> Boxes:
        assert self.truth.boxes is not None
        return self.truth.boxes


def image(
    image_id: int | str,
    objects: Sequence[tuple[Sequence[float], int]] = (),
    found: Sequence[tuple[Sequence[float], float, int]] = (),
    crowd: Sequence[bool] | None = None,
) -> Image:
    truth = Sample(
        PIXEL,
        image_id,
        str(image_id),
        boxes=Boxes.of(
            np.array([box for box, _ in objects], np.float32).reshape(-1, 4),
            np.array([label for _, label in objects], np.int64),
            crowd=None if crowd is None else np.array(crowd, bool),
        ),
    )
    detections = Detection(
        np.array([box for box, _, _ in found], np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in found], np.float32),
        np.array([label for _, _, label in found], np.int64),
    )
    return Image(truth, detections)


def random_boxes(rng: np.random.Generator, count: int) -> NDArray[np.float32]:
    """Small, medium and large ones."""
    side = rng.choice([12, 60, 180], (count, 1)) * rng.uniform(0.6, 1.6, (count, 2))
    corner = rng.uniform(0, 300, (count, 2))
    return np.concatenate([corner, corner + side], 1).astype(np.float32)


def random_image(
    rng: np.random.Generator, image_id: int | str, objects: int, detections: int, classes: int, grid: float = 0
) -> Image:
    """Detections are mostly near objects, and have one of 19 scores; with a grid, many overlaps are equal."""
    boxes, labels = random_boxes(rng, objects), rng.integers(0, classes, objects)
    found, guesses = random_boxes(rng, detections), rng.integers(0, classes, detections)
    if objects:
        source = rng.integers(0, objects, detections)
        near = rng.random(detections) < 0.75
        size = np.tile(boxes[:, 2:] - boxes[:, :2], 2)[source]
        moved = boxes[source] + size * rng.normal(0, 0.08, (detections, 4))
        found = np.where(near[:, None], moved, found).astype(np.float32)
        guesses = np.where(near & (rng.random(detections) < 0.9), labels[source], guesses)
    if grid:
        boxes, found = (np.rint(array / grid).astype(np.float32) * np.float32(grid) for array in (boxes, found))
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    scores = (rng.integers(1, 20, detections) / 20).astype(np.float32)
    order = np.argsort(-scores, kind="stable")
    extent = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64)
    truth = Sample(
        PIXEL,
        image_id,
        str(image_id),
        boxes=Boxes.of(
            boxes,
            labels,
            crowd=rng.random(objects) < 0.12,
            areas=extent.prod(axis=1) * rng.uniform(0.4, 1, objects),  # of outlines
        ),
    )
    return Image(truth, Detection(found[order], scores[order], guesses[order].astype(np.int64)))


def random_images(seed: int, classes: int = 4, grid: float = 0) -> list[Image]:
    """Some without objects, some without detections, one without either, one with hundreds of detections."""
    rng = np.random.default_rng(seed)
    counts = [
        (0, 0),
        (0, 5),
        (6, 0),
        (9, 260),
        *((int(rng.integers(1, 9)), int(rng.integers(1, 30))) for _ in range(8)),
    ]
    # In no order, and sorted otherwise as numbers than as text.
    ids = rng.permutation(np.arange(1, 2 * len(counts))).tolist()
    return [random_image(rng, number, a, b, classes, grid) for number, (a, b) in zip(ids, counts, strict=False)]


def evaluate(
    images: Sequence[Image], names: Sequence[str] = NAMES, evaluator: CocoEvaluator | None = None, batch: int = 3
) -> tuple[CocoEvaluator, dict[str, float]]:
    evaluator = evaluator or CocoEvaluator(names)
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        evaluator.update([item.found for item in part], [item.truth for item in part])
    return evaluator, evaluator.compute()


def coco_truth(images: Sequence[Image], category_ids: Sequence[int]) -> COCO:
    annotations: list[dict[str, Any]] = []
    for item in images:
        truth = item.boxes
        for index, (x1, y1, x2, y2) in enumerate(truth.boxes.astype(float).tolist()):
            area = (x2 - x1) * (y2 - y1) if truth.areas is None else float(truth.areas[index])
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": item.truth.image_id,
                    "category_id": category_ids[truth.labels[index]],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": area,
                    "iscrowd": int(truth.crowd[index]),
                }
            )
    coco = COCO()
    coco.dataset = {
        "images": [{"id": item.truth.image_id} for item in images],
        "categories": [{"id": number, "name": str(number)} for number in category_ids],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


def coco_rows(images: Sequence[Image], category_ids: Sequence[int]) -> list[dict[str, Any]]:
    rows = []
    for item in images:
        found = item.found
        columns = (found.boxes.astype(float), found.scores.astype(float), found.labels)
        for (x1, y1, x2, y2), score, label in zip(*(column.tolist() for column in columns), strict=True):
            row = {"image_id": item.truth.image_id, "category_id": category_ids[label], "score": score}
            rows.append({**row, "bbox": [x1, y1, x2 - x1, y2 - y1]})
    return rows


def pycocotools(
    images: Sequence[Image],
    category_ids: Sequence[int] = range(len(NAMES)),
    path: Path | None = None,
    only: int | None = None,
) -> COCOeval:
    """Evaluated by the reference: detections of `images` or of a file; of all classes or one."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco_truth(images, category_ids)
        rows = coco_rows(images, category_ids)
        if path is not None:
            found = truth.loadRes(str(path))
        elif rows:
            found = truth.loadRes(rows)
        else:  # which loadRes does not take
            found = COCO()
            found.dataset = {**truth.dataset, "annotations": []}
            found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        if only is not None:
            evaluation.params.catIds = [only]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def assert_equal(metrics: dict[str, float], evaluation: COCOeval) -> None:
    assert tuple(metrics) == METRICS
    assert list(metrics.values()) == evaluation.stats.tolist()


@pytest.mark.parametrize("through_file", [False, True])
def test_published(shared: Path, through_file: bool) -> None:
    folder = shared / "data/evaluators/coco"
    published = json.loads((folder / "published.json").read_bytes())
    source = json.loads((folder / "instances_val2014_100.json").read_bytes())
    category_ids = [category["id"] for category in source["categories"]]
    path = folder / "instances_val2014_fakebbox100_results.json"
    found: dict[int | str, Detection] = {}
    if through_file:
        found = read_results(path, category_ids)
    else:
        rows = json.loads(path.read_bytes())
        for number in {row["image_id"] for row in rows}:
            mine = sorted((row for row in rows if row["image_id"] == number), key=lambda row: -row["score"])
            corners = [(x, y, x + w, y + h) for x, y, w, h in (row["bbox"] for row in mine)]
            labels = [category_ids.index(row["category_id"]) for row in mine]
            found[number] = image(0, [], list(zip(corners, [row["score"] for row in mine], labels, strict=True))).found
    empty = image(0).found
    images = []
    for item in source["images"]:
        rows = [row for row in source["annotations"] if row["image_id"] == item["id"]]
        boxes = np.array([row["bbox"] for row in rows]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        truth = Sample(
            PIXEL,
            item["id"],
            item["file_name"],
            boxes=Boxes.of(
                boxes.astype(np.float32),
                np.array([category_ids.index(row["category_id"]) for row in rows], np.int64),
                crowd=np.array([row["iscrowd"] for row in rows], bool),
                areas=np.array([row["area"] for row in rows], np.float64),
            ),
        )
        images.append(Image(truth, found.get(item["id"], empty)))
    assert len(images) == 100
    _, metrics = evaluate(images, [category["name"] for category in source["categories"]])
    assert set(published) == set(METRICS)
    assert {name: round(value, 3) for name, value in metrics.items()} == published


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("grid", [0, 6])
def test_equals_pycocotools(seed: int, grid: float, capsys: pytest.CaptureFixture[str]) -> None:
    images = random_images(seed, grid=grid)
    evaluator, metrics = evaluate(images)
    assert capsys.readouterr().out == ""
    reference = pycocotools(images)
    assert_equal(metrics, reference)
    np.testing.assert_array_equal(evaluator.precision, reference.eval["precision"][:, :, :, 0, 2])
    assert 0.1 < metrics["AP"] < 0.9  # neither trivial
    assert min(metrics.values()) > 0  # of all sizes there are some


def test_boxes_and_areas_at_the_limits() -> None:
    """Boxes without an extent or turned over, areas on COCO's limits, very large boxes, and equal scores."""
    squares = [((50, 50, 82, 82), 0), ((100, 0, 196, 96), 0), ((300, 9, 331, 42), 1), ((9, 9, 1e7, 1e7), 2)]
    objects = [*squares, ((5, 5, 5, 5), 3)]
    found = [(box, 0.5, label) for box, label in objects]
    found += [((5, 5, 5, 5), 0.5, 0), ((60, 60, 52, 80), 0.5, 0), ((51, 50, 82, 82), 0.5, 0)]
    images = [image(number, objects, found) for number in (3, 1, 2)]
    for areas in (None, np.array([1024, 9216, 1024.0001, 1e10, 0]), np.array([1023.9, 9216.1, 0, 1e11, 1])):
        for item in images:
            item.truth.boxes = replace(item.boxes, areas=areas)
        evaluator, metrics = evaluate(images)
        with np.errstate(invalid="ignore"):
            reference = pycocotools(images)
        assert_equal(metrics, reference)
        np.testing.assert_array_equal(evaluator.precision, reference.eval["precision"][:, :, :, 0, 2])


@pytest.mark.parametrize("ids", [(2**63 + 5, 2**63 + 4, -(2**70)), ("b", "a", "ü"), (7, "x", 3)])
def test_ids_that_are_no_integers_of_a_machine(ids: Sequence[int | str]) -> None:
    images = [random_image(np.random.default_rng(k), number, 6, 20, 3) for k, number in enumerate(ids)]
    plain = [replace(item, truth=replace(item.truth, image_id=k)) for k, item in enumerate(images)]
    numbers = all(isinstance(number, int) for number in ids)
    in_order = sorted(range(3), key=lambda k: ids[k] if numbers else str(ids[k]))  # type: ignore[arg-type, return-value]
    for place, k in enumerate(in_order):
        plain[k].truth.image_id = place
    assert_equal(evaluate(images)[1], pycocotools([plain[k] for k in in_order]))


def test_what_the_figures_cannot_tell() -> None:
    box = (0, 0, 50, 50)
    evaluator, _ = evaluate([image(1, [(box, 0)]), image(2, [(box, 1), (box, 3)], crowd=[False, True])])
    assert evaluator.remarks() == [
        "3 of the 5 classes have no objects in the images (cat, dog, elk): the mean is over the others"
    ]
    evaluator, _ = evaluate([image(1, [(box, 0)] * 2, crowd=[True, True]), image(2)])
    assert evaluator.remarks() == [
        "none of the 2 images has an object that counts (2 are crowds or difficult): AP and AR cannot be measured"
    ]
    evaluator, _ = evaluate([image(1, [(box, label) for label in range(5)])])
    assert evaluator.remarks() == []
    evaluator.reset()
    assert evaluator.remarks() == []


def test_more_than_a_hundred_detections_count_as_the_best_hundred() -> None:
    rng = np.random.default_rng(0)
    images = [random_image(rng, number, 30, 250, 1) for number in range(4)]
    _, metrics = evaluate(images, ["ant"])
    assert_equal(metrics, pycocotools(images, [0]))
    best = [
        Image(item.truth, Detection(found.boxes[:100], found.scores[:100], found.labels[:100]))
        for item in images
        for found in [item.found]
    ]
    assert evaluate(best, ["ant"])[1] == metrics
    fewer = [
        Image(item.truth, Detection(found.boxes[:99], found.scores[:99], found.labels[:99]))
        for item in best
        for found in [item.found]
    ]
    assert evaluate(fewer, ["ant"])[1] != metrics


def test_ids_as_text() -> None:
    images = random_images(3)
    for item in images:
        item.truth.image_id = f"2012_{item.truth.image_id}"
    evaluator, metrics = evaluate(images)
    assert_equal(metrics, pycocotools(images))
    ids = [str(result.image_id) for result in evaluator.results]
    assert ids == sorted(str(item.truth.image_id) for item in images)


def test_areas_of_boxes_where_there_are_no_others() -> None:
    images = random_images(4)
    for item in images:
        item.truth.boxes = replace(item.boxes, areas=None)
    assert_equal(evaluate(images)[1], pycocotools(images))

    box = (0, 0, 40, 40)
    images = [image(1, [(box, 0)], [(box, 0.9, 0)])]
    for areas, small, medium in ((None, -1, 1), (np.array([1000.0]), 1, -1)):
        images[0].truth.boxes = replace(images[0].boxes, areas=areas)
        _, metrics = evaluate(images)
        assert metrics["ARs"] == small
        assert metrics["ARm"] == medium
        assert_equal(metrics, pycocotools(images))


def test_crowds() -> None:
    crowded = (((0, 0, 100, 100), 0), ((200, 200, 250, 250), 0))
    # Three in the crowd, the first of which is the best; none is right or wrong.
    inside = [((5 + 30 * i, 5, 30 + 30 * i, 30), 0.9 - 0.1 * i, 0) for i in range(3)]
    images = [image(1, crowded, [*inside, ((200, 200, 250, 250), 0.5, 0)], crowd=[True, False])]
    evaluator, metrics = evaluate(images)
    assert metrics["AP"] == pytest.approx(1)
    assert metrics["AR1"] == 0  # the one best detection is in the crowd, and finds nothing
    assert_equal(metrics, pycocotools(images))
    assert evaluator.per_class()[0].objects == 1
    plain = Boxes.of(images[0].boxes.boxes, images[0].boxes.labels)
    _, metrics = evaluate([replace(images[0], truth=replace(images[0].truth, boxes=plain))])
    assert metrics["AP"] < 0.5

    only = [image(1, crowded[:1], inside, crowd=[True])]
    evaluator, metrics = evaluate(only)
    assert metrics == NOTHING
    assert_equal(metrics, pycocotools(only))
    assert evaluator.per_class()[0] == ("ant", 0, None, None, None)


@pytest.mark.parametrize("seed", range(3))
def test_through_a_file(seed: int, tmp_path: Path) -> None:
    images = random_images(seed, classes=5)
    evaluator, metrics = evaluate(images)
    path = tmp_path / "predictions.json"
    write_results(path, evaluator.results, CATEGORY_IDS)
    # The mean is over the classes in the order of their ids, which may change its last digit.
    reference = pycocotools(images, CATEGORY_IDS, path).stats
    np.testing.assert_allclose(list(metrics.values()), reference, rtol=0, atol=1e-12)

    found, empty = read_results(path, CATEGORY_IDS), image(0).found
    again = [Image(item.truth, found.get(item.truth.image_id, empty)) for item in images]
    assert evaluate(again)[1] == metrics


@pytest.mark.parametrize("seed", range(3))
def test_per_class(seed: int) -> None:
    images = random_images(seed, classes=4)  # none of the fifth
    evaluator, metrics = evaluate(images)
    rows = evaluator.per_class()
    assert [row.name for row in rows] == list(NAMES)
    for label, row in enumerate(rows[:4]):
        reference = pycocotools(images, only=label).stats[:3]
        assert row[2:] == tuple(reference)
        truths = [(item.boxes.labels, item.boxes.crowd) for item in images]
        assert row.objects == sum(int(((labels == label) & ~crowd).sum()) for labels, crowd in truths)
    assert len({row.AP for row in rows[:4]}) == 4
    assert rows[4] == ("elk", 0, None, None, None)
    assert metrics["AP"] == pytest.approx(np.mean([row.AP for row in rows[:4]]), abs=1e-12)


def test_curves() -> None:
    images = random_images(5)
    evaluator, metrics = evaluate(images)
    precision = pycocotools(images).eval["precision"][:, :, :4, 0, 2].mean(axis=2)
    curves = evaluator.curves()
    assert list(curves) == ["IoU 0.50", "IoU 0.75", "IoU 0.90"]
    for index, (recall, values, average) in zip((0, 5, 8), curves.values(), strict=True):
        np.testing.assert_allclose(recall, np.arange(101) / 100, atol=1e-12)
        np.testing.assert_allclose(values, precision[index], rtol=0, atol=1e-12)
        assert average == pytest.approx(precision[index].mean(), abs=1e-12)
    assert curves["IoU 0.50"][1].mean() == pytest.approx(metrics["AP50"], abs=1e-12)
    assert curves["IoU 0.75"][1].mean() == pytest.approx(metrics["AP75"], abs=1e-12)


def test_no_detections() -> None:
    images = [image(1, [((0, 0, 50, 50), 0)]), image(2, [((0, 0, 200, 200), 1)]), image(3)]
    evaluator, metrics = evaluate(images)
    assert metrics == {**dict.fromkeys(METRICS, 0.0), "APs": -1.0, "ARs": -1.0}  # there are no small objects
    assert_equal(metrics, pycocotools(images))
    assert evaluator.per_class()[:3] == [
        ("ant", 1, 0.0, 0.0, 0.0),
        ("bee", 1, 0.0, 0.0, 0.0),
        ("cat", 0, None, None, None),
    ]
    assert not evaluator.curves()["IoU 0.50"][1].any()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_no_objects(count: int) -> None:
    images = [image(number, [], [((0, 0, 50, 50), 0.9, 0)]) for number in range(count)]
    evaluator, metrics = evaluate(images)
    assert metrics == NOTHING
    assert len(evaluator.results) == count
    assert evaluator.per_class() == [(name, 0, None, None, None) for name in NAMES]
    assert evaluator.curves() == {}


def test_detections_of_classes_without_objects_do_not_count() -> None:
    right = image(1, [((0, 0, 50, 50), 0)], [((0, 0, 50, 50), 0.9, 0)])
    other = image(1, [((0, 0, 50, 50), 0)], [((0, 0, 50, 50), 0.99, 4), ((0, 0, 50, 50), 0.9, 0)])
    assert evaluate([right])[1] == evaluate([other])[1]
    wrong = image(2, [], [((0, 0, 50, 50), 0.95, 0)])  # but those in images without objects do
    assert evaluate([right])[1]["AP"] == pytest.approx(1)
    assert evaluate([right, wrong])[1]["AP"] == pytest.approx(0.5)


def test_one_class_perfectly_found() -> None:
    images = [image(number, [((9, 9, 59, 69), 0)], [((9, 9, 59, 69), 0.8, 0)]) for number in range(3)]
    evaluator, metrics = evaluate(images, ["ant"])
    sizes = {"APs": -1.0, "APl": -1.0, "ARs": -1.0, "ARl": -1.0}
    assert metrics == pytest.approx({**dict.fromkeys(METRICS, 1.0), **sizes}, abs=1e-12)
    assert evaluator.per_class() == [("ant", 3, pytest.approx(1), pytest.approx(1), pytest.approx(1))]


def test_an_image_counts_once_and_order_does_not_matter() -> None:
    images = random_images(6)
    evaluator, metrics = evaluate(images)
    _, repeated = evaluate(images[:5], evaluator=evaluator)
    assert repeated == metrics
    assert len(evaluator.results) == len(images)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(images))
        other, shuffled = evaluate([images[i] for i in order], batch=1 + seed)
        assert shuffled == metrics
        assert other.per_class() == evaluator.per_class()
    # Images alike but for their ids are no duplicates.
    twins = [image(number, [((0, 0, 50, 50), 0)], [((0, 0, 50, 50), 0.9, 0)] * (number == 1)) for number in (1, 2)]
    assert evaluate(twins)[1]["AR100"] == 0.5


def test_reset() -> None:
    evaluator, first = evaluate(random_images(7))
    rows, curves = evaluator.per_class(), evaluator.curves()
    evaluator.reset()
    assert evaluator.results == []
    assert all(row[1:] == (0, None, None, None) for row in evaluator.per_class())
    assert evaluator.curves() == {}
    assert evaluator.compute() == NOTHING
    images = random_images(8)
    _, other = evaluate(images, evaluator=evaluator)
    assert other == evaluate(images)[1] != first
    evaluator.reset()
    assert evaluate(random_images(7), evaluator=evaluator)[1] == first
    assert evaluator.per_class() == rows
    np.testing.assert_array_equal(evaluator.curves()["IoU 0.75"].precision, curves["IoU 0.75"].precision)


def test_as_many_predictions_as_images() -> None:
    item = image(1)
    with pytest.raises(ValueError):
        CocoEvaluator(NAMES).update([item.found, item.found], [item.truth])
