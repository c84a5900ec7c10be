"""A data set without a split is divided by class, with near-duplicates on one side."""

import logging
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mnv2vision.data.formats.imagenet import ImageNet
from mnv2vision.data.formats.shapes import Shapes
from mnv2vision.data.sample import Sample
from mnv2vision.data.split import hold_out, parts_of
from mnv2vision.errors import DataError


class Photos:
    """Random photos of classes in unequal numbers; some are copies of others, a little changed."""

    names = ("ant", "bee", "cat")
    targets = frozenset({"label"})

    def __init__(self, counts: tuple[int, ...] = (100, 40, 10), copies: int = 0) -> None:
        self.labels = [label for label, count in enumerate(counts) for _ in range(count)]
        self.originals = list(range(len(self.labels))) + [3 * number for number in range(copies)]
        self.labels += [self.labels[original] for original in self.originals[len(self.labels) :]]

    def __len__(self) -> int:
        return len(self.originals)

    def image_id(self, index: int) -> str:
        return f"{index}.jpg"

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng(self.originals[index])
        image = cv2.resize(rng.integers(0, 255, (6, 6, 3), np.uint8), (64, 48), interpolation=cv2.INTER_CUBIC)
        if index != self.originals[index]:  # a smaller, brighter copy
            image = np.clip(cv2.resize(image, (40, 30)).astype(int) + 4, 0, 255).astype(np.uint8)
        return Sample(image, self.image_id(index), self.image_id(index), label=self.labels[index])


@pytest.fixture(autouse=True)
def _log_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("mnv2vision"), "propagate", True)  # the command line turns it off


def test_each_class_has_its_share() -> None:
    data = Photos()
    held_out = hold_out(data, 0.2, 0, "photos")
    train, val = parts_of(data, held_out, "photos")
    assert Counter(val[i].label for i in range(len(val))) == {0: 20, 1: 8, 2: 2}
    assert (len(train), len(val)) == (120, 30)
    assert {train[i].image_id for i in range(120)}.isdisjoint(held_out)
    assert held_out == hold_out(data, 0.2, 0, "photos")
    assert held_out != hold_out(data, 0.2, 1, "photos")


def test_several_classes_on_an_image() -> None:
    """The shapes have one to three objects; each class is held out in its share, give or take an image or two."""

    class Numbered(Shapes):
        def image_id(self, index: int) -> int:
            return index

    data = Numbered("train", 120, 48, 0, ("boxes",))
    held_out = set(hold_out(data, 0.25, 0, "shapes"))
    totals, held = Counter[int](), Counter[int]()
    for index in range(len(data)):
        boxes = data[index].boxes
        assert boxes is not None
        found = set(boxes.labels.tolist())
        totals.update(found)
        held.update(found if index in held_out else ())
    assert all(abs(held[label] - 0.25 * total) <= 2 for label, total in totals.items())
    assert abs(len(held_out) - 30) <= 3


def test_near_duplicates_stay_together(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    data = Photos((60, 40), copies=30)
    for seed in range(3):
        held_out = set(hold_out(data, 0.3, seed, "photos"))
        for copy in range(100, 130):
            assert (f"{copy}.jpg" in held_out) == (f"{data.originals[copy]}.jpg" in held_out)
        assert abs(len(held_out) - 39) <= 2
    assert "60 near-duplicates, in 30 groups, stay together" in caplog.text
    assert "photos: no image for validation has cat" in caplog.text


def test_unreadable_images_are_not_held_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "ants").mkdir()
    for number in range(10):
        pixels = np.random.default_rng(number).integers(0, 255, (20, 20, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"ants/{number}.png")
    for number in range(5):
        (tmp_path / f"ants/{number}.png").write_text("no picture")
    data = ImageNet(tmp_path, "")
    with pytest.raises(DataError, match=r"ants/0\.png"):
        hold_out(data, 0.4, 0, "photos")
    held_out = hold_out(data, 0.4, 0, "photos", "skip")
    assert set(held_out) < {f"ants/{number}.png" for number in range(5, 10)}
    assert len(held_out) == 2
    assert "photos: 5 images cannot be read, and are not held out" in caplog.text


def test_what_cannot_be_divided(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DataError, match=r"photos: 2 images are too few for dataset\.split=0\.1"):
        hold_out(Photos((1, 1)), 0.1, 0, "photos")
    data = Photos((5, 5))
    with pytest.raises(DataError, match="of 10 images, 0 are held out for validation"):
        parts_of(data, ["none.jpg"], "photos")
    parts_of(data, ["none.jpg", "1.jpg"], "photos")
    assert "1 of 2 images that were held out are gone: none.jpg" in caplog.text
