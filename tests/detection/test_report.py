"""What a detector's report says: the confusion table by hand, and advice of what is planted."""

import numpy as np
import pytest

from mnv2vision.common.worst import Worst
from mnv2vision.data.sample import Boxes
from mnv2vision.detection.errors import judge
from mnv2vision.detection.mistakes import side_by_side
from mnv2vision.detection.report import Evaluated, advice, anchor_advice, confusion
from mnv2vision.detection.results import ImageResult
from mnv2vision.predictions.detection import Detection
from mnv2vision.preprocessing import Preprocessing


def box(row: int, high: int = 10) -> list[float]:
    return [0, 20 * row, 10, 20 * row + high]


def result(objects: list[tuple[int, int]], found: list[tuple[list[float], float, int]]) -> ImageResult:
    boxes, scores, labels = zip(*found, strict=True) if found else ((), (), ())
    truth = Boxes.of([box(row) for row, _ in objects], [label for _, label in objects])
    detection = Detection(np.array(boxes, np.float32).reshape(-1, 4), np.array(scores), np.array(labels, np.int64))
    return ImageResult(0, detection, truth, (200, 200))


# An ant found, another taken for a bee, a cat missed, a bee where nothing is, an ant found twice.
MIXED = result(
    [(0, 0), (1, 0), (2, 2)],
    [(box(0), 0.9, 0), (box(1), 0.8, 1), (box(7), 0.7, 1), (box(0, 9), 0.6, 0)],
)


def evaluated(*results: ImageResult) -> Evaluated:
    judged = judge(results, [one.truth.crowd for one in results])
    return Evaluated(("ant", "bee", "cat"), judged, judged, [])


def test_confusion() -> None:
    counts = confusion(evaluated(MIXED).judged, 3)
    assert counts.tolist() == [
        [1, 1, 0, 0],  # of two ants
        [0, 0, 0, 0],
        [0, 0, 0, 1],  # the cat was missed
        [1, 1, 0, 0],  # invented: the second box of an ant, and the bee
    ]


def test_advice() -> None:
    told = advice(evaluated(MIXED))
    assert told[0] == "no object of cat is found: look at the labels, and add photos of them"
    # The mean of the classes' AP is a third of the ants' 51/101; a second ant makes it 1, and takes away the bee, whose
    # other box leaves it an AP of 0.
    assert told[1].startswith("errors of the kind “class” cost most, 16.5 points: look at the confusion table")
    assert advice(evaluated(result([(0, 0)], [(box(0), 0.9, 0)]))) == []


@pytest.mark.parametrize("photo", [1000, 4000])
def test_tiles_that_reach_half_of_the_small_objects(photo: int) -> None:
    """Squares of 20 pixels, too small for anchors of a tenth of a photo, and one large object in ten."""
    anchors = np.array([[0.1, 0.1], [0.3, 0.3]])
    pixels = np.array([[20.0, 20.0]] * 9 + [[photo / 10, photo / 10]])
    told = anchor_advice(pixels / photo, pixels[:, 0], np.full(10, float(photo)), anchors)
    # In a tile of 282 pixels a square of 20 has half of the area of an anchor of 28.2.
    assert told == [
        "90 % of the objects are smaller than any anchor (an overlap of 0.5 with none); anchors grow with"
        " model.image_size: photos cut into tiles of 282 pixels would reach half of them"
    ]
    assert anchor_advice(pixels[9:] / photo, pixels[9:, 0], np.array([float(photo)]), anchors) == []
    assert anchor_advice(np.empty((0, 2)), np.empty(0), np.empty(0), anchors) == []


@pytest.mark.parametrize("resize", ["stretch", "letterbox", "crop"])
def test_pictures_have_the_photos_aspect(resize: str) -> None:
    preprocessing = Preprocessing(image_size=(320, 320), resize=resize)  # type: ignore[arg-type]
    size = (100, 200)
    truth = Boxes.of([[0, 0, 200, 100]], [0])
    found = Detection(np.empty((0, 4), np.float32), np.empty(0), np.empty(0, np.int64))
    picture = side_by_side(np.zeros((320, 320, 3), np.uint8), size, preprocessing, truth, found, ("ant",))
    half = (picture.shape[1] - 6) // 2
    assert half / picture.shape[0] == pytest.approx({"crop": 1.0}.get(resize, 2.0))
    # The whole photo is framed on the left; nothing is drawn on the right.
    assert picture[-1, half // 2].any() == (resize != "crop")
    assert not picture[:, half + 6 :].any()


def test_the_worst_are_kept() -> None:
    costs = np.random.default_rng(0).integers(0, 20, 200).astype(float)
    worst: Worst[int] = Worst(7)
    for index, value in enumerate(costs):
        worst.offer(value, lambda index=index: index)  # type: ignore[misc]
    assert worst.items() == sorted(range(200), key=lambda index: (-costs[index], index))[:7]
    none: Worst[int] = Worst(3)
    none.offer(0.0, lambda: 1)
    assert none.items() == []
