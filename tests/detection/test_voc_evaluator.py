"""VOC's average precision against published figures and against the development kit's rules, told again slowly."""

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from mnv2vision.data.sample import Boxes, Sample
from mnv2vision.detection.voc_evaluator import METRICS, VocEvaluator
from mnv2vision.predictions.detection import Detection

NAMES = ("ant", "bee", "cat")
PIXEL = np.zeros((1, 1, 3), np.uint8)
NOTHING = pytest.approx({"mAP": float("nan"), "mAP_07": float("nan")}, nan_ok=True)
BOX, FAR = (10, 10, 49, 49), (200, 200, 260, 260)

Box = tuple[int, int, int, int]
"""xmin, ymin, xmax, ymax: VOC's, of pixels, all included."""


class Object(NamedTuple):
    label: int
    box: Box
    difficult: bool = False


class Found(NamedTuple):
    label: int
    score: float
    box: Box


class Image(NamedTuple):
    image_id: int | str
    objects: Sequence[Object] = ()
    found: Sequence[Found] = ()


def continuous(boxes: Sequence[Box]) -> np.ndarray:
    return np.array(boxes, np.float32).reshape(-1, 4) - np.array([1, 1, 0, 0], np.float32)


def evaluate(
    images: Sequence[Image],
    names: Sequence[str] = NAMES,
    threshold: float = 0.5,
    evaluator: VocEvaluator | None = None,
    batch: int = 3,
) -> tuple[VocEvaluator, dict[str, float]]:
    evaluator = evaluator or VocEvaluator(names, threshold)
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        found = [
            Detection(
                continuous([row.box for row in image.found]),
                np.array([row.score for row in image.found], np.float32),
                np.array([row.label for row in image.found], np.int64),
            )
            for image in part
        ]
        truth = [
            Sample(
                PIXEL,
                image.image_id,
                str(image.image_id),
                boxes=Boxes.of(
                    continuous([row.box for row in image.objects]),
                    np.array([row.label for row in image.objects], np.int64),
                    difficult=np.array([row.difficult for row in image.objects], bool),
                ),
            )
            for image in part
        ]
        evaluator.update(found, truth)
    return evaluator, evaluator.compute()


def overlap(a: Box, b: Box) -> Fraction:
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return Fraction(0)
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return Fraction(width * height, sum(areas) - width * height)


class Reference(NamedTuple):
    objects: int
    curve: list[tuple[Fraction, Fraction]]
    all_points: float
    eleven_points: float


def devkit(images: Sequence[Image], label: int, threshold: Fraction) -> Reference | None:
    """VOCevaldet of the development kit, for one class, in whole numbers."""
    objects = sum(row.label == label and not row.difficult for image in images for row in image.objects)
    if not objects:
        return None
    ranked = [(row, image) for image in images for row in image.found if row.label == label]
    ranked.sort(key=lambda pair: -pair[0].score)  # stable, over all images
    detected: set[tuple[int | str, int]] = set()
    right = wrong = 0
    curve = []
    for row, image in ranked:
        best, which = Fraction(0), -1
        for index, item in enumerate(image.objects):
            if item.label == label and overlap(row.box, item.box) > best:
                best, which = overlap(row.box, item.box), index
        if which >= 0 and best >= threshold:
            if image.objects[which].difficult:
                continue
            if (image.image_id, which) in detected:
                wrong += 1
            else:
                right += 1
                detected.add((image.image_id, which))
        else:
            wrong += 1
        curve.append((Fraction(right, objects), Fraction(right, right + wrong)))

    area = Fraction(0)
    for index, (recall, _) in enumerate(curve):
        before = curve[index - 1][0] if index else Fraction(0)
        area += (recall - before) * max(precision for _, precision in curve[index:])
    best_from = [
        # In floating point, as in all of the implementations: 3 of 10 objects do not reach 3 * 0.1.
        max((float(precision) for recall, precision in curve if float(recall) >= step * 0.1), default=0.0)
        for step in range(11)
    ]
    return Reference(objects, curve, float(area), sum(best_from) / 11)


def random_images(seed: int, count: int = 12, classes: int = 3) -> list[Image]:
    """On a coarse grid, so that overlaps are often equal, or exactly the threshold; of scores there are 16."""
    rng = np.random.default_rng(seed)

    def box() -> Box:
        x, y = (int(value) * 10 + 1 for value in rng.integers(0, 12, 2))
        width, height = (int(value) * 10 for value in rng.integers(2, 7, 2))
        return (x, y, x + width - 1, y + height - 1)

    images = []
    for image_id in range(count):
        objects = [
            Object(int(rng.integers(classes)), box(), bool(rng.random() < 0.25)) for _ in range(int(rng.integers(0, 7)))
        ]
        found = []
        for _ in range(int(rng.integers(0, 14))):
            score = float(rng.integers(1, 17)) / 16
            if objects and rng.random() < 0.7:
                source = objects[int(rng.integers(len(objects)))]
                moves = [int(value) * 10 for value in rng.integers(-1, 2, 2)]
                x1, y1, x2, y2 = source.box
                near = (x1 + moves[0], y1, x2, y2 + moves[1])
                found.append(Found(source.label, score, near if near[3] - near[1] >= 9 else source.box))
            else:
                found.append(Found(int(rng.integers(classes)), score, box()))
        found.sort(key=lambda row: -row.score)
        images.append(Image(image_id, objects, found))
    return images


def test_published(shared: Path) -> None:
    folder = shared / "data/evaluators/voc"
    published = json.loads((folder / "published.json").read_bytes())

    def pixels(texts: Sequence[str]) -> Box:
        x, y, width, height = map(int, texts)
        return (x + 1, y + 1, x + width + 1, y + height + 1)  # x, y, x + w + 1, y + h + 1 when continuous

    images = []
    for path in sorted((folder / "groundtruths").glob("*.txt")):
        objects = [line.split() for line in path.read_text().splitlines() if line.strip()]
        found = [line.split() for line in (folder / "detections" / path.name).read_text().splitlines() if line.strip()]
        assert {row[0] for row in objects + found} == {"person"}
        rows = [Found(0, float(row[1]), pixels(row[2:])) for row in found]
        images.append(Image(path.stem, [Object(0, pixels(row[1:])) for row in objects], rows))
    assert len(images) == 7
    _, metrics = evaluate(images, ["person"], published["iou_threshold"])
    assert metrics["mAP"] == pytest.approx(published["ap_all_points"], abs=5e-7)
    assert metrics["mAP_07"] == pytest.approx(published["ap_11_points"], abs=5e-7)
    assert evaluate(images, ["person"])[1]["mAP"] < 0.2  # at 0.5


@pytest.mark.parametrize("threshold", [Fraction(1, 2), Fraction(3, 10), Fraction(3, 4)])
@pytest.mark.parametrize("seed", range(15))
def test_equals_the_development_kit(seed: int, threshold: Fraction) -> None:
    images = random_images(seed)
    evaluator, metrics = evaluate(images, threshold=float(threshold))
    references = [devkit(images, label, threshold) for label in range(len(NAMES))]
    rows = evaluator.per_class()
    assert [row.name for row in rows] == list(NAMES)
    for row, reference in zip(rows, references, strict=True):
        assert reference is not None
        assert row.objects == reference.objects
        np.testing.assert_allclose(
            (row.AP, row.AP_07), (reference.all_points, reference.eleven_points), rtol=0, atol=1e-12
        )
        recall, precision, average = evaluator.curves()[row.name]
        assert average == row.AP == row.AP50
        expected = np.array(reference.curve, np.float64).reshape(-1, 2)
        np.testing.assert_allclose(np.stack([recall, precision], 1), expected, rtol=0, atol=1e-12)
    assert tuple(metrics) == METRICS
    known = [reference for reference in references if reference is not None]
    assert metrics["mAP"] == pytest.approx(sum(item.all_points for item in known) / 3, abs=1e-12)
    assert metrics["mAP_07"] == pytest.approx(sum(item.eleven_points for item in known) / 3, abs=1e-12)
    assert 0 < metrics["mAP"] < 1


def test_by_hand() -> None:
    """Right, wrong, right, of four objects: precisions 1, 1/2, 2/3 at recalls 1/4, 1/4, 1/2."""
    other = (100, 100, 139, 139)
    images = [
        Image(1, [Object(0, BOX), Object(0, other)], [Found(0, 0.9, BOX), Found(0, 0.7, other)]),
        Image(2, [Object(0, BOX), Object(0, other)], [Found(0, 0.8, FAR)]),
    ]
    evaluator, metrics = evaluate(images)
    assert metrics["mAP"] == pytest.approx(1 / 4 + 1 / 4 * 2 / 3)
    assert metrics["mAP_07"] == pytest.approx((3 * 1 + 3 * 2 / 3) / 11)  # to 0.2, to 0.5, then none
    recall, precision, average = evaluator.curves()["ant"]
    assert average == pytest.approx(1 / 4 + 1 / 4 * 2 / 3)
    assert recall.tolist() == [0.25, 0.25, 0.5]
    assert precision.tolist() == pytest.approx([1, 1 / 2, 2 / 3])


def test_duplicates_are_wrong() -> None:
    twice = Image(1, [Object(0, BOX)], [Found(0, 0.9, BOX), Found(0, 0.8, BOX)])
    missed = Image(2, [Object(0, BOX)], [Found(0, 0.7, BOX)])
    assert evaluate([twice, missed])[1]["mAP"] == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)


def test_a_detection_goes_for_the_object_it_overlaps_most_even_if_that_is_taken() -> None:
    near = (15, 10, 54, 49)  # would be found, at 0.5, by a detection of BOX
    image = Image(1, [Object(0, BOX), Object(0, near)], [Found(0, 0.9, BOX), Found(0, 0.8, BOX)])
    assert evaluate([image])[1]["mAP"] == 0.5
    # The worse detection cannot take the object from the better one.
    image = Image(1, [Object(0, BOX)], [Found(0, 0.9, near), Found(0, 0.8, BOX)])
    evaluator, metrics = evaluate([image])
    assert metrics["mAP"] == 1
    assert evaluator.curves()["ant"][1].tolist() == [1, 0.5]


def test_difficult_objects_count_neither_way() -> None:
    easy = Image(1, [Object(0, BOX), Object(0, FAR)], [Found(0, 0.5, BOX)])
    hard = Image(1, [Object(0, BOX), Object(0, FAR, True)], [Found(0, 0.5, BOX)])
    assert evaluate([easy])[1]["mAP"] == 0.5
    evaluator, metrics = evaluate([hard])
    assert metrics["mAP"] == 1
    assert evaluator.per_class()[0].objects == 1
    # Nor do detections of them, however many.
    many = hard._replace(found=[Found(0, 0.9, FAR), Found(0, 0.8, FAR), *hard.found])
    assert evaluate([many])[1] == metrics
    assert evaluate([easy._replace(found=many.found)])[1]["mAP"] < 1


def test_groups_count_as_difficult() -> None:
    image = Image(1, [Object(0, BOX), Object(0, FAR)], [Found(0, 0.9, FAR), Found(0, 0.8, BOX)])
    evaluator = VocEvaluator(NAMES)
    truth = Sample(
        PIXEL,
        1,
        "1",
        boxes=Boxes.of(continuous([BOX, FAR]), np.array([0, 0]), crowd=np.array([False, True])),
    )
    found = Detection(continuous([FAR, BOX]), np.array([0.9, 0.8], np.float32), np.array([0, 0]))
    evaluator.update([found], [truth])
    assert evaluator.compute()["mAP"] == 1
    assert evaluator.per_class()[0].objects == 1
    assert len(evaluator.curves()["ant"][0]) == 1
    assert evaluate([image])[0].per_class()[0].objects == 2


def test_exactly_the_threshold_is_found() -> None:
    half, less = (10, 10, 29, 49), (10, 10, 28, 49)
    for box, expected in ((half, 1.0), (less, 0.0)):
        assert evaluate([Image(1, [Object(0, BOX)], [Found(0, 0.9, box)])])[1]["mAP"] == expected


def test_the_box_of_another_class_is_wrong() -> None:
    image = Image(1, [Object(0, BOX), Object(1, FAR)], [Found(0, 0.9, FAR), Found(1, 0.8, BOX)])
    assert evaluate([image])[1] == {"mAP": 0.0, "mAP_07": 0.0}


def test_classes_without_objects_are_left_out_of_the_mean() -> None:
    objects = [Object(0, BOX), Object(2, FAR, True)]  # of the last one, only a difficult one
    found = [Found(1, 0.95, BOX), Found(0, 0.9, BOX), Found(2, 0.8, FAR), Found(2, 0.7, BOX)]
    evaluator, metrics = evaluate([Image(1, objects, found)])
    assert metrics == {"mAP": 1.0, "mAP_07": 1.0}
    assert evaluator.per_class() == [("ant", 1, 1.0, 1.0), ("bee", 0, None, None), ("cat", 0, None, None)]
    assert list(evaluator.curves()) == ["ant"]
    # With an object, the class counts, found or not.
    _, metrics = evaluate([Image(1, [*objects, Object(1, FAR)], found)])
    assert metrics == {"mAP": 0.5, "mAP_07": 0.5}


def test_no_detections() -> None:
    evaluator, metrics = evaluate([Image(1, [Object(0, BOX)]), Image(2)])
    assert metrics == {"mAP": 0.0, "mAP_07": 0.0}
    assert evaluator.per_class()[0] == ("ant", 1, 0.0, 0.0)
    recall, precision, _ = evaluator.curves()["ant"]
    assert recall.shape == precision.shape == (0,)


@pytest.mark.parametrize(
    "images",
    [
        [],
        [Image(1)],
        [Image(1, [], [Found(0, 0.9, BOX)]), Image(2)],
        [Image(1, [Object(0, BOX, True)], [Found(0, 0.9, BOX)])],
    ],
    ids=["no images", "nothing", "no objects", "difficult ones"],
)
def test_nothing_to_find(images: list[Image]) -> None:
    evaluator, metrics = evaluate(images)
    assert metrics == NOTHING
    assert evaluator.per_class() == [(name, 0, None, None) for name in NAMES]
    assert evaluator.curves() == {}
    assert len(evaluator.results) == len(images)


def test_one_class() -> None:
    images = random_images(1, classes=1)
    reference = devkit(images, 0, Fraction(1, 2))
    assert reference is not None
    _, metrics = evaluate(images, ["ant"])
    assert metrics["mAP"] == pytest.approx(reference.all_points, abs=1e-12)
    assert metrics["mAP_07"] == pytest.approx(reference.eleven_points, abs=1e-12)


def test_curves_of_ten_classes() -> None:
    names = [f"class {index}" for index in range(13)]
    objects = [Object(label, BOX) for label in range(13) if label != 1]
    evaluator, _ = evaluate([Image(1, objects, [Found(label, 0.5, BOX) for label in range(13)])], names)
    assert list(evaluator.curves()) == [names[0], *names[2:11]]
    assert len(evaluator.per_class()) == 13


def test_an_image_counts_once_and_order_does_not_matter() -> None:
    images = random_images(2)
    evaluator, metrics = evaluate(images)
    _, repeated = evaluate(images[:5], evaluator=evaluator)
    assert repeated == metrics
    assert len(evaluator.results) == len(images)
    rows = evaluator.per_class()
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(images))
        other, shuffled = evaluate([images[i] for i in order], batch=1 + seed)
        assert shuffled == metrics
        assert other.per_class() == rows
    # Images alike but for their ids are no duplicates.
    twins = [Image(number, [Object(0, BOX)], [Found(0, 0.9, BOX)] * (number == 1)) for number in (1, 2)]
    assert evaluate(twins)[1]["mAP"] == 0.5


def test_ids_as_text_are_in_their_order() -> None:
    """The order decides where scores are equal."""
    images = [image._replace(image_id=f"2012_{image.image_id:03}") for image in random_images(3)]
    assert evaluate(images[::-1])[1] == evaluate(random_images(3))[1]


def test_reset() -> None:
    evaluator, first = evaluate(random_images(4))
    rows = evaluator.per_class()
    evaluator.reset()
    assert evaluator.results == evaluator.per_class() == []
    assert evaluator.curves() == {}
    assert evaluator.compute() == NOTHING
    _, other = evaluate(random_images(5), evaluator=evaluator)
    assert other == evaluate(random_images(5))[1] != first
    evaluator.reset()
    assert evaluate(random_images(4), evaluator=evaluator)[1] == first
    assert evaluator.per_class() == rows


def test_what_the_figures_cannot_tell() -> None:
    evaluator, _ = evaluate([Image(1, [Object(0, BOX), Object(2, FAR, True)]), Image(2)])
    assert evaluator.remarks() == [
        "2 of the 3 classes have no objects in the images (bee, cat): the mean is over the others"
    ]
    evaluator, _ = evaluate([Image(1, [Object(0, BOX, True)]), Image(2)])
    assert evaluator.remarks() == [
        "none of the 2 images has an object that counts (1 are crowds or difficult): mAP cannot be measured"
    ]
    evaluator, _ = evaluate([Image(1, [Object(label, BOX) for label in range(len(NAMES))])])
    assert evaluator.remarks() == []
    evaluator.reset()
    assert evaluator.remarks() == []
