"""Kinds of errors against TIDE's own tool, tidecv, and by hand.

tidecv wants opencv-python, which replaces the headless OpenCV of this project and needs a display's libraries: it is
no part of the extra dev. `pip install --no-deps tidecv && pip install seaborn appdirs` runs the tests that are
skipped; the figures of FROZEN are its.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mnv2vision.data.sample import Boxes
from mnv2vision.detection.errors import ERRORS, ErrorKind, error_kinds, judge
from mnv2vision.detection.results import ImageResult, read_results, xywh
from mnv2vision.predictions.detection import Detection

CLASSES = 5
# tidecv 1.0.1 on `scene(seed)`: dAP in points of class, localisation, both, duplicate, background, missed.
FROZEN = {
    0: (3.17086437, 14.60152391, 0.66636066, 3.09623985, 2.65183332, 12.28982138),
    1: (2.90013855, 13.50392189, 0.61032777, 2.91072194, 3.41205806, 12.80535991),
    2: (9.00446317, 11.39551347, 1.41551896, 2.12084274, 2.91999168, 10.28127047),
}
FROZEN_COCO = (22.24603974, 0.22789102, 0, 0.01897297, 0, 8.52357379)
SHORT = dict(zip(ERRORS.values(), ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss"), strict=True))


def scene(seed: int, images: int = 60, *, ties: bool = False, all_classes: bool = True) -> list[ImageResult]:
    """Objects, some of them crowds, with detections near them: shifted, of another class, doubled, invented, none."""
    rng = np.random.default_rng(seed)
    results = []
    for image in range(images):
        count = rng.integers(0, 7)
        corner, side = rng.integers(0, 200, (count, 2)), rng.integers(8, 90, (count, 2))
        boxes = np.concatenate([corner, corner + side], 1).astype(np.float32)
        labels = rng.integers(0, CLASSES if all_classes else CLASSES - 2, count)
        crowd = rng.random(count) < 0.15
        near = rng.integers(0, count, rng.integers(0, 15)) if count else np.empty(0, np.int64)
        shift = rng.normal(0, rng.choice([0.03, 0.15, 0.4], (len(near), 1)), (len(near), 4)) * np.tile(side[near], 2)
        moved = boxes[near] + shift
        invented = rng.random((rng.integers(0, 4), 4)) * 120 + np.array([0, 0, 121, 121])
        found = np.concatenate([moved, invented])
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
        guesses = np.concatenate([labels[near], rng.integers(0, CLASSES, len(invented))])
        confused = rng.random(len(guesses)) < 0.2
        guesses[confused] = rng.integers(0, CLASSES, confused.sum())
        scores = np.sort(rng.random(len(guesses)))[::-1]
        scores = np.round(scores, 1) if ties else scores
        detection = Detection(found.astype(np.float32), scores.astype(np.float32), guesses.astype(np.int64))
        results.append(ImageResult(image, detection, Boxes.of(boxes, labels, crowd=crowd)))
    return results


def ours(results: Sequence[ImageResult], classes: int = CLASSES) -> list[ErrorKind]:
    return error_kinds(judge(results, [result.truth.crowd for result in results]), classes)


def tides(results: Sequence[ImageResult]) -> tuple[dict[str, float], dict[str, int]]:
    """dAP in points, and numbers of errors, by tidecv's short names."""
    tidecv = pytest.importorskip("tidecv", exc_type=ImportError)
    truth, found = tidecv.Data("truth"), tidecv.Data("found")
    for image, result in enumerate(results):
        truth.add_image(image, str(image))
        found.add_image(image, str(image))
        for box, label, is_crowd in zip(
            xywh(result.truth.boxes).tolist(), result.truth.labels.tolist(), result.truth.crowd, strict=True
        ):
            add = truth.add_ignore_region if is_crowd else truth.add_ground_truth
            add(image, label, box)
        for box, label, score in zip(
            xywh(result.found.boxes).tolist(), result.found.labels.tolist(), result.found.scores.tolist(), strict=True
        ):
            found.add_detection(image, label, score, box)
    tide = tidecv.TIDE()
    run = tide.evaluate(truth, found, mode=tidecv.TIDE.BOX)
    counts = {kind.short_name: count for kind, count in run.count_errors().items()}
    return tide.get_main_errors()[run.preds.name], counts


def assert_equals_tidecv(results: Sequence[ImageResult], classes: int = CLASSES) -> None:
    deltas, counts = tides(results)
    for row in ours(results, classes):
        assert row.dAP * 100 == pytest.approx(deltas[SHORT[row.kind]], abs=1e-9), row
        assert row.number == counts[SHORT[row.kind]], row


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("all_classes", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_equals_tidecv(seed: int, all_classes: bool, ties: bool) -> None:
    assert_equals_tidecv(scene(seed, ties=ties, all_classes=all_classes))


def test_equals_tidecv_of_many_detections() -> None:
    (one,) = scene(3, images=1)
    rng = np.random.default_rng(0)
    corner = rng.random((150, 2)) * 200
    boxes = np.concatenate([corner, corner + rng.random((150, 2)) * 60 + 4], 1).astype(np.float32)
    many = Detection(boxes, np.sort(rng.random(150))[::-1].astype(np.float32), rng.integers(0, CLASSES, 150))
    assert_equals_tidecv([ImageResult(0, many, one.truth), *scene(4, 5)])


def real(folder: Path) -> tuple[list[ImageResult], int]:
    """COCO's own demo: objects of 100 images of val2014, and the result file that comes with it."""
    source = json.loads((folder / "instances_val2014_100.json").read_bytes())
    category_ids = [category["id"] for category in source["categories"]]
    found = read_results(folder / "instances_val2014_fakebbox100_results.json", category_ids)
    nothing = Detection(np.empty((0, 4), np.float32), np.empty(0), np.empty(0, np.int64))
    results = []
    for image in source["images"]:
        rows = [row for row in source["annotations"] if row["image_id"] == image["id"]]
        boxes = np.array([row["bbox"] for row in rows]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = [category_ids.index(row["category_id"]) for row in rows]
        truth = Boxes.of(boxes, labels, crowd=np.array([bool(row["iscrowd"]) for row in rows], bool))
        results.append(ImageResult(image["id"], found.get(image["id"], nothing), truth))
    return results, len(category_ids)


def test_equals_tidecv_on_coco(shared: Path) -> None:
    assert_equals_tidecv(*real(shared / "data/evaluators/coco"))


@pytest.mark.parametrize("seed", sorted(FROZEN))
def test_equals_frozen_figures(seed: int) -> None:
    assert [row.dAP * 100 for row in ours(scene(seed))] == pytest.approx(FROZEN[seed], abs=1e-6)


def test_frozen_figures_of_coco(shared: Path) -> None:
    rows = ours(*real(shared / "data/evaluators/coco"))
    assert [row.dAP * 100 for row in rows] == pytest.approx(FROZEN_COCO, abs=1e-6)


def detection(*rows: tuple[list[float], float, int]) -> Detection:
    boxes, scores, labels = zip(*rows, strict=True) if rows else ([], [], [])
    return Detection(np.array(boxes, np.float32).reshape(-1, 4), np.array(scores), np.array(labels, np.int64))


WRONG = {
    "class": ([0, 0, 10, 10], 1),
    "localisation": ([0, 0, 10, 4], 0),  # an overlap of 0.4
    "both": ([0, 0, 10, 4], 1),
    "background": ([50, 50, 60, 60], 0),
}


@pytest.mark.parametrize("kind", WRONG)
def test_one_error(kind: str) -> None:
    """An object of class 0, and before the detection that finds it a better scored one of each kind."""
    box, label = WRONG[kind]
    truth = Boxes.of([[0, 0, 10, 10]], [0])
    found = detection((box, 0.9, label), ([0, 0, 10, 10], 0.8, 0))
    rows = {row.kind: row for row in ours([ImageResult(0, found, truth)], 2)}
    assert {name: row.number for name, row in rows.items() if row.number} == {kind: 1}
    # An AP of 1/2 is the mean of a class that is found at a precision of a half, or of 1 and another class's 0.
    assert rows[kind].dAP == pytest.approx(0.5)


def test_doubles_and_missed() -> None:
    truth = Boxes.of([[0, 0, 10, 10], [40, 40, 60, 60]], [0, 0])
    found = detection(([0, 0, 10, 10], 0.9, 0), ([0, 0, 10, 9], 0.8, 0))
    rows = {row.kind: row for row in ours([ImageResult(0, found, truth)], 1)}
    assert {name: row.number for name, row in rows.items() if row.number} == {"duplicate": 1, "missed": 1}
    assert rows["duplicate"].dAP == 0  # it comes after all that is right
    assert rows["missed"].dAP == pytest.approx(1 - 51 / 101)


@pytest.mark.parametrize("results", [[], [ImageResult(0, detection(), Boxes.of([], []))]])
def test_nothing(results: list[ImageResult]) -> None:
    assert [(row.number, row.dAP) for row in ours(results)] == [(0, 0.0)] * 6
