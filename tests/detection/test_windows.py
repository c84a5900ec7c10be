"""Windows on large photos: where they lie, what is kept of them, and what a published detector finds through them."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import mnv2vision as mv
from mnv2vision.contracts import InferenceOptions
from mnv2vision.data.decoding import decode_image
from mnv2vision.detection.windows import Window, merge, windows
from mnv2vision.errors import ConfigError
from mnv2vision.predictions.detection import Detection
from mnv2vision.weights.importers.from_tensorflow import convert


def objects(*rows: tuple[float, float, float, float, float, int]) -> Detection:
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detection(table[:, :4], table[:, 4], table[:, 5].astype(np.int64), ("a", "b"))


def test_every_pixel_is_seen_and_neighbours_overlap() -> None:
    seen = np.zeros((130, 250), int)
    whole, *parts = windows((130, 250), (64, 96), 0.25)
    assert whole == Window(0, 0, 130, 250)
    for part in parts:
        assert (part.height, part.width) == (64, 96)
        seen[part.top : part.top + 64, part.left : part.left + 96] += 1
    assert seen.shape == (130, 250)
    assert seen.min() == 1
    assert sorted({part.left for part in parts}) == [0, 72, 144, 154]
    assert sorted({part.top for part in parts}) == [0, 48, 66]


@pytest.mark.parametrize(("photo", "count"), [((64, 64), 1), ((40, 50), 1), ((64, 65), 3), ((30, 200), 5)])
def test_small_photos(photo: tuple[int, int], count: int) -> None:
    assert len(list(windows(photo, (64, 64), 0.25))) == count


def test_what_is_merged() -> None:
    whole, left, right = Window(0, 0, 100, 160), Window(0, 0, 100, 100), Window(0, 60, 100, 100)
    found = [
        (whole, objects((5, 5, 155, 95, 0.5, 0))),  # larger than a window
        (left, objects((62, 10, 80, 30, 0.9, 0), (70, 50, 99.5, 70, 0.8, 0), (0, 0, 10, 10, 0.4, 1))),
        (right, objects((2, 10, 20, 30, 0.7, 0), (10, 50, 50, 70, 0.6, 0), (0.5, 80, 30, 95, 0.9, 1))),
    ]
    merged, more = merge(found, (100, 160), 0.6, 10)
    # Seen twice, and kept once; cut at the left window's edge, and whole in the right one; cut at the right one's edge.
    assert [tuple(box) for box in merged.boxes.tolist()] == [
        (62, 10, 80, 30),
        (70, 50, 110, 70),
        (5, 5, 155, 95),
        (0, 0, 10, 10),
    ]
    np.testing.assert_allclose(merged.scores, [0.9, 0.6, 0.5, 0.4])
    assert merged.labels.tolist() == [0, 0, 0, 1]
    assert not more
    fewer, more = merge(found, (100, 160), 0.6, 2)
    assert len(fewer) == 2
    assert more


def test_another_class_is_another_object() -> None:
    found = [(Window(0, 0, 9, 9), objects((1, 1, 8, 8, 0.9, 0), (1, 1, 8, 8, 0.8, 1), (1, 1, 8, 8, 0.7, 1)))]
    assert merge(found, (9, 9), 0.6, 10)[0].labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("detection", {"flip": True}, "inference.scales and inference.flip are for segmentation, not for detection"),
        ("classification", {"window": True}, "inference.window is for detection and segmentation"),
    ],
)
def test_what_cannot_be_looked_at(task: str, options: dict[str, bool], message: str) -> None:
    model = mv.create_model(task, width=0.35, num_classes=3, image_size=64)  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match=message):
        mv.Predictor(model, device="cpu", inference=InferenceOptions(**options))  # type: ignore[arg-type]


@pytest.mark.slow
def test_people_on_a_photo_of_4000_pixels(shared: Path) -> None:
    """COCO photos whose persons the published detector finds, within photos of thirteen times their width."""
    weights = shared / "weights/tf_ssdlite_mobilenet_v2_person_300.safetensors"
    model = convert("detection", weights, names=("person",))
    plain = mv.Predictor(model, device="cpu", score_threshold=0.6)
    through = mv.Predictor(model, device="cpu", score_threshold=0.6, inference=InferenceOptions(window=True))
    there = missed = found = 0
    for path in sorted((shared / "data/coco/val2017").glob("*.jpg")):
        small = model.preprocessing.resized(decode_image(path), 300, 300)
        alone = plain(small).boxes
        if not len(alone) or (alone[:, 2:] - alone[:, :2]).max() > 90:  # of some window none would be whole
            continue
        large = np.full((400, 4000, 3), 127, np.uint8)
        large[60:360, 2900:3200] = small
        centres = (alone[:, :2] + alone[:, 2:]) / 2 + np.array([2900, 60], np.float32)
        there += len(centres)
        missed += len(centres) - _hits(centres, plain(large).boxes)
        found += _hits(centres, through(large).boxes)
        if there >= 6:
            break
    assert there >= 6
    assert missed >= 0.9 * there
    assert found >= there / 2  # at other places in a window, scores are others


def _hits(points: NDArray[np.floating], boxes: NDArray[np.floating]) -> int:
    """How many points lie in a box."""
    inside = (boxes[None, :, :2] <= points[:, None]) & (points[:, None] <= boxes[None, :, 2:])
    return int(inside.all(2).any(1).sum())
