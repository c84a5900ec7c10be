"""Objects over the frames of a video: their numbers follow them, and each is counted once."""

import csv
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

import mnv2vision as mv
from mnv2vision.cli.main import main
from mnv2vision.inference.predictor import Predictor
from mnv2vision.inference.tracks import Tracker
from mnv2vision.predictions.detection import Detection

NAMES = ("ant", "bee")
HEIGHT, WIDTH, COUNT = 96, 128, 24
HIDDEN = range(10, 14)
"""Frames on which the bee is behind something."""


def places(frame: int) -> dict[int, tuple[int, int]]:
    """Left and top of the squares of each label: they pass each other; the bee is hidden for some frames."""
    there = {0: (4 * frame, 10)}
    if frame not in HIDDEN:
        there[1] = (104 - 4 * frame, 60)
    return there


def picture(frame: int) -> NDArray[np.uint8]:
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for label, (left, top) in places(frame).items():
        image[top : top + 20, left : left + 20, label] = 255
    return image


def look(image: NDArray[np.uint8]) -> Detection:
    """Finds the squares by their colours, the lower one first."""
    boxes, labels = [], []
    for label in (1, 0):
        rows, columns = np.nonzero(image[..., label] > 128)
        if len(rows):
            boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            labels.append(label)
    found = np.array(boxes, np.float32).reshape(-1, 4)
    return Detection(found, np.full(len(found), 0.4, np.float32), np.array(labels, np.int64), NAMES)


def test_numbers_follow_objects() -> None:
    tracker, seen = Tracker(rate=10), list[dict[str, int]]()
    for frame in range(COUNT):
        objects = look(picture(frame))
        numbered = tracker(objects, frame / 10)
        assert numbered.tracks is not None
        assert numbered.boxes is objects.boxes  # in their order
        seen.append({NAMES[label]: int(track) for label, track in zip(numbered.labels, numbered.tracks, strict=True)})
    assert seen[0] == {"ant": 0, "bee": 0}  # what is found once may be nothing
    assert all(frame["ant"] == seen[1]["ant"] for frame in seen[1:])
    numbers = [frame["bee"] for frame in seen[1:] if "bee" in frame]
    assert set(numbers) == {seen[1]["bee"]}
    assert {seen[1]["ant"], seen[1]["bee"]} == {1, 2}
    rows = {name: rest for _, name, *rest in tracker.rows()}
    assert rows == {"ant": [COUNT - 1, "0.100", "2.300"], "bee": [COUNT - 1 - len(HIDDEN), "0.100", "2.300"]}
    assert tracker.summary() in ("1 ant, 1 bee", "1 bee, 1 ant")


def test_what_has_gone_comes_back_as_another() -> None:
    tracker = Tracker(rate=10)
    for frame in (0, 1, 2):
        tracker(look(picture(frame)), frame / 10)
    nothing = look(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    for frame in range(3, 23):  # two seconds
        assert len(tracker(nothing, frame / 10)) == 0
    for frame in (23, 24, 25):
        tracker(look(picture(0)), frame / 10)
    assert [row[0] for row in tracker.rows()] == [1, 2, 3, 4]
    assert tracker.summary() in ("2 ant, 2 bee", "2 bee, 2 ant")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    mv.save(mv.create_model("detection", width=0.35, names=NAMES, image_size=64), path)
    return path


def written(path: Path) -> Path:
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for frame in range(COUNT):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture(frame), format="rgb24")))
        output.mux(stream.encode(None))
    return path


def test_predict(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Predictor, "predict_batch", lambda _, images: [look(image) for image in images])
    out, given = tmp_path / "out", (f"checkpoint={checkpoint}", "tracks=true")
    clips = [written(tmp_path / f"{name}.mp4") for name in "ab"]
    assert main(["predict", *given, f"images=[{clips[0]},{clips[1]}]", f"output={out}"]) == 0
    for name in "ab":  # numbers start anew with each
        with (out / f"{name}.mp4.tracks.csv").open() as file:
            tracks = list(csv.DictReader(file))
        assert {row["name"]: (row["first"], row["last"]) for row in tracks} == dict.fromkeys(NAMES, ("0.100", "2.300"))
        assert [row["track"] for row in tracks] == ["1", "2"]
        with (out / f"{name}.mp4.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert {row["track"] for row in rows if row["frame"] == "0"} == {""}
        assert {(row["name"], row["track"]) for row in rows if row["frame"] != "0"} == {
            (row["name"], row["track"]) for row in tracks
        }
    assert capsys.readouterr().err.count("objects over all frames: 1 ") == 2


def test_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def line(model: Path, *arguments: str) -> str:
        assert main(["predict", f"checkpoint={model}", f"output={tmp_path}/out", "tracks=true", *arguments]) == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    clip = written(tmp_path / "a.mp4")
    assert "tracks=true numbers objects over the frames of a video" in line(checkpoint, f"images={clip}", "frames=true")
    other = tmp_path / "other.safetensors"
    mv.save(mv.create_model("classification", width=0.35, names=NAMES, image_size=64), other)
    assert f"tracks=true: is for detection, and {other} does not detect" in line(other, f"images={clip}")
    monkeypatch.setitem(sys.modules, "trackers", None)
    assert "tracks=true needs trackers: pip install mnv2vision[tracks]" in line(checkpoint, f"images={clip}")
    assert not (tmp_path / "out").exists()
