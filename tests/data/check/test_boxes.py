"""Faults of objects, by hand."""

import numpy as np
import pytest

from mnv2vision.data.check.boxes import find, of_reader
from mnv2vision.data.check.records import Header, Record
from mnv2vision.data.duplicates import Fingerprint
from mnv2vision.data.formats.faults import Fault
from mnv2vision.data.sample import Boxes

LOOK = Fingerprint(np.zeros(8, np.uint8), np.zeros(192, np.uint8))


def record(path: str = "a.jpg", boxes: Boxes | None = None, orientation: int = 1) -> Record:
    return Record("train", path, header=Header("RGB", 1, orientation, 8), size=(100, 200), look=LOOK, boxes=boxes)


def kinds(*boxes: tuple[float, float, float, float, int], crowd: tuple[bool, ...] | None = None) -> list[str]:
    flags = None if crowd is None else np.array(crowd)
    own = Boxes.of([box[:4] for box in boxes], [box[4] for box in boxes], crowd=flags)
    return [finding.kind for finding in find([record(boxes=own)], ["cup", "fork"], (320, 320), ())]


@pytest.mark.parametrize(
    ("right", "expected"),
    [(108, []), (110, ["box copied"]), (120, ["box copied"])],  # (right - 10) / 110 in common with 10..120
)
def test_copies(right: float, expected: list[str]) -> None:
    shares = (right - 10) / 110
    assert (shares >= 0.9) == bool(expected)
    assert kinds((10, 10, 120, 60, 0), (10, 10, right, 60, 0)) == expected
    assert kinds((10, 10, 120, 60, 0), (10, 10, right, 60, 1)) == ["box of two classes"] * len(expected)


def test_crowds_are_no_copies() -> None:
    assert kinds((10, 10, 90, 60, 0), (10, 10, 90, 60, 0), crowd=(False, True)) == []


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(2.6, 1.3, []), (2.4, 9, ["tiny box"]), (90, 1.2, ["tiny box"])],  # 1.6 and 3.2 times as large at 320 x 320
)
def test_tiny(width: float, height: float, expected: list[str]) -> None:
    assert kinds((20, 20, 20 + width, 20 + height, 0)) == expected


def test_images_without_objects() -> None:
    empty = Boxes.of([], [])
    records = [record("a.jpg", empty), record("b.jpg", empty), record("c.jpg")]
    found = list(find(records, ["cup"], (320, 320), {"b.jpg"}))
    assert [(finding.kind, finding.file) for finding in found] == [("no objects", "a.jpg")]


@pytest.mark.parametrize(
    ("file", "image"),
    [
        ("a.xml", "data/x/a.jpg"),
        ("x/b.xml", "data/x/b.jpg"),
        ("y/b.txt", "data/y/b.jpg"),
        ("labels/b.txt", "labels/b.txt"),  # either of two: not guessed
        ("elsewhere/instances.json", "elsewhere/instances.json"),
    ],
)
def test_the_image_of_a_fault(file: str, image: str) -> None:
    records = [record("data/x/a.jpg"), record("data/x/b.jpg"), record("data/y/b.jpg")]
    box = (0.1, 0.1, 0.3, 0.3)
    (finding,) = of_reader([Fault("box outside the image", "what", file, box)], "train", records)
    assert (finding.file, finding.what, finding.split) == (image, "what", "train")
    assert [(picture.path, picture.box) for picture in finding.pictures] == [(image, box)][: image.endswith(".jpg")]


def test_a_box_of_a_turned_photo_is_not_drawn() -> None:
    (finding,) = of_reader(
        [Fault("box outside the image", "what", "a.xml", (0, 0, 1, 1))], "train", [record(orientation=6)]
    )
    assert finding.pictures[0].box is None
