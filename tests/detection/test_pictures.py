"""The pictures of a report, of a network whose output is planted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import mnv2vision as mv
from mnv2vision.common import draw
from mnv2vision.common.colors import class_colors
from mnv2vision.contracts import HeadInUse, RawDetections
from mnv2vision.data.batch import collate
from mnv2vision.data.sample import Boxes, Sample
from mnv2vision.detection.coco_evaluator import CocoEvaluator
from mnv2vision.detection.report import confusion
from mnv2vision.detection.training import DetectionTraining

NAMES = ("ant", "bee")
SIDE = 96
SIZE = (100, 200)
"""Of the photos; the network's input is square."""
Found = Sequence[tuple[int, float, int]]
Sheets = dict[str, list[tuple[NDArray[np.uint8], str]]]


class Planted:
    """A detector in evaluation that finds what it is told, at its largest anchors, which do not overlap much."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        model: Any = mv.create_model("detection", width=0.35, names=NAMES, image_size=SIDE).eval()
        with torch.no_grad():
            self.raw = model(torch.zeros(1, 3, SIDE, SIDE))
        centre, sides = self.raw.anchors[:, :2], self.raw.anchors[:, 2:]
        corners = torch.cat([centre - sides / 2, centre + sides / 2], 1)
        inside = (corners >= 0).all(1) & (corners <= 1).all(1)
        # The first anchors, of the finest grid, far from each other.
        self.anchors = torch.where(inside)[0][:: int(inside.sum()) // 6][:4].tolist()
        height, width = SIZE
        self.boxes = corners[self.anchors].numpy() * np.array([width, height] * 2, np.float32)
        self.training = DetectionTraining(
            HeadInUse(model.head, model.config.head, model.preprocessing), CocoEvaluator(NAMES)
        )
        self.training.start()

    def see(self, image_id: int, objects: Sequence[tuple[int, int]] | None, found: Found) -> None:
        """Evaluate a black photo: objects as (place, label), what is found as (place, score, label)."""
        logits = torch.full_like(self.raw.class_logits, -30.0)
        for place, score, label in found:
            logits[0, self.anchors[place], 1 + label] = float(np.log(score / (1 - score)))
        raw = RawDetections(torch.zeros_like(self.raw.box_codes), logits, self.raw.anchors)

        def network(images: Tensor) -> RawDetections:
            return raw

        boxes = None
        if objects is not None:
            boxes = Boxes.of([self.boxes[place].tolist() for place, _ in objects], [label for _, label in objects])
        sample = Sample(np.zeros((SIDE, SIDE, 3), np.uint8), image_id, "", boxes=boxes, size=SIZE)
        self.training.evaluate(network, torch.zeros(1, 3, SIDE, SIDE), collate([sample], [], evaluation=True))

    def report(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Sheets:
        """Write the report; the pictures by file, with their titles."""
        sheets: Sheets = {}
        write = draw.titled_sheet

        def spy(items: Any, path: Path, columns: int = 6) -> None:
            sheets[path.name] = list(items)
            write(items, path, columns)

        monkeypatch.setattr(draw, "titled_sheet", spy)
        self.training.evaluator.compute()
        self.training.write_report(folder)
        return sheets


def halves(picture: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    half = (picture.shape[1] - 6) // 2
    assert half == pytest.approx(picture.shape[0] * SIZE[1] / SIZE[0], abs=1)
    return picture[:, :half], picture[:, half + 6 :]


def shows(picture: NDArray[np.uint8], label: int) -> bool:
    """Whether a box of a class is drawn."""
    return bool((picture == class_colors(NAMES)[label]).all(2).any())


def test_low_scores_are_judged_and_drawn_as_recommended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eleven objects, ten of them found with scores below 0.3, and one wrong one with a lower score yet."""
    planted = Planted()
    for image_id in range(10):
        planted.see(image_id, [(0, 0)], [(0, 0.2, 0), *([(1, 0.02, 1)] if image_id == 3 else [])])
    planted.see(10, [(0, 1), (2, 0)], [(0, 0.1, 1)])
    sheets = planted.report(tmp_path, monkeypatch)
    assert [title for _, title in sheets["mistakes.png"]] == ["10: 1 missed, 0 wrong"]
    kept = planted.training._evaluated.kept
    assert kept is not None
    assert confusion(kept, 2).tolist() == [[10, 0, 1], [0, 1, 0], [0, 0, 0]]
    left, right = halves(sheets["mistakes.png"][0][0])
    assert shows(left, 0)
    assert not shows(right, 0)
    assert shows(left, 1)
    assert shows(right, 1)
    for picture, _ in sheets["predictions.png"][:10]:
        left, right = halves(picture)
        assert shows(left, 0)
        assert shows(right, 0)
        assert not shows(right, 1)
    # All of it found: a picture of mistakes does not stay from before.
    planted.training.start()
    planted.see(0, [(0, 0)], [(0, 0.2, 0)])
    planted.report(tmp_path, monkeypatch)
    assert not (tmp_path / "mistakes.png").exists()
    assert (tmp_path / "predictions.png").is_file()


def test_the_most_confident_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each photo its surest wrong detection, the surest photo first; what is right is not among them."""
    planted = Planted()
    planted.see(0, [(0, 0)], [(0, 0.9, 0), (1, 0.6, 1), (3, 0.5, 0)])
    planted.see(1, [(0, 0), (2, 1)], [(0, 0.97, 1), (2, 0.98, 1)])
    planted.see(2, [(0, 0)], [(0, 0.99, 0)])
    planted.see(3, None, [(0, 0.99, 0)])  # not annotated: nothing is known
    sheets = planted.report(tmp_path, monkeypatch)
    assert [title for _, title in sheets["confident.png"]] == ["bee 97%: ant is there", "bee 60%: nothing is there"]
    left, right = halves(sheets["confident.png"][1][0])
    assert shows(left, 0)
    assert shows(right, 1)
    assert not shows(right, 0)  # neither what is right nor what is less sure
    section = next(
        section for section in planted.training.sections(tmp_path) if section.title == "The most confident mistakes"
    )
    assert 'alt="confident"' in section.body
    planted.training.start()
    planted.see(0, [(0, 0)], [(0, 0.9, 0)])
    planted.report(tmp_path, monkeypatch)
    assert not (tmp_path / "confident.png").exists()


def test_where_nothing_is_right_boxes_are_drawn_from_a_fixed_score_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = Planted()
    planted.see(0, [(0, 0)], [(1, 0.25, 0)])
    planted.see(1, [(0, 0)], [(1, 0.35, 0)])
    planted.see(2, None, [(1, 0.35, 1)])
    sheets = planted.report(tmp_path, monkeypatch)
    assert [title for _, title in sheets["mistakes.png"]] == ["1: 1 missed, 1 wrong", "0: 1 missed, 0 wrong"]
    first, second, third = (picture for picture, _ in sheets["predictions.png"])
    assert not shows(halves(first)[1], 0)
    assert shows(halves(second)[1], 0)
    # Not annotated: once, with what was found.
    assert third.shape[1] == pytest.approx(third.shape[0] * SIZE[1] / SIZE[0], abs=1)
    assert shows(third, 1)


def test_the_worst_of_many_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More photos than are kept, and scores below 0.3: the worst are found wherever they are."""
    planted = Planted()
    bad = {5, 77, 140}
    for image_id in range(150):
        found = [(2, 0.2, 1), (3, 0.2, 1)] if image_id in bad else [(0, 0.2, 0), (1, 0.2, 1)]
        planted.see(image_id, [(0, 0), (1, 1)], found)
    sheets = planted.report(tmp_path, monkeypatch)
    assert [title for _, title in sheets["mistakes.png"]] == [f"{i}: 2 missed, 2 wrong" for i in sorted(bad)]
    assert len(planted.training._mistakes._kept) < 64
