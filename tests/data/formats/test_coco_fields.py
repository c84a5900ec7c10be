"""What tools write that is not COCO's way, after public reports: taken for what it means, and said, or refused."""

import copy
import json
import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from mnv2vision.data.formats.coco import Coco
from mnv2vision.data.sample import Sample
from mnv2vision.detection.coco_evaluator import CocoEvaluator
from mnv2vision.errors import DataError
from mnv2vision.predictions.detection import Detection

SIDE = 64


@pytest.fixture(autouse=True)
def _log_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("mnv2vision"), "propagate", True)  # the command line turns it off


def set_of(*objects: dict[str, Any], **sections: Any) -> dict[str, Any]:
    """An image with a red square of 32 pixels for each object, which says what is different about it."""
    usual = {
        "category_id": 1,
        "iscrowd": 0,
        "area": 1024,
        "bbox": [8, 12, 32, 32],
        "segmentation": [[8, 12, 40, 12, 40, 44, 8, 44]],
    }
    numbered = [{**usual, "id": n, "image_id": n, **item} for n, item in enumerate(objects, 1)]
    return {
        "images": [
            {"id": n, "file_name": f"{n}.png", "height": SIDE, "width": SIDE} for n in range(1, len(objects) + 1)
        ],
        "annotations": [{key: value for key, value in item.items() if value is not ...} for item in numbered],
        "categories": [{"id": 1, "name": "red"}],
        **sections,
    }


def write(root: Path, data: object, images: str = "train", names: tuple[str, ...] = ("1.png", "2.png")) -> Path:
    file = root / "annotations/instances_train.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(data if isinstance(data, str) else json.dumps(data))
    (root / images).mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (SIDE, SIDE)).save(root / images / name)
    return file


def only(root: Path, data: object) -> Sample:
    write(root, data)
    return Coco(root, "train")[0]


def painted(root: Path, data: object) -> list[int]:
    """The box around what is painted, and how many pixels it has."""
    write(root, data)
    mask = Coco(root, "train", targets=("mask",))[0].mask
    assert mask is not None
    rows, columns = np.nonzero(mask)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1, len(rows)]


def refused(root: Path, data: object, **options: Any) -> str:
    file = write(root, data)
    with pytest.raises(DataError) as caught:
        Coco(root, "train", **options)
    message = str(caught.value)
    assert message.startswith(f"{file}: ")
    assert "\n" not in message
    return message.removeprefix(f"{file}: ")


# ---- nothing to find ----


@pytest.mark.parametrize("target", ["boxes", "mask"])
def test_all_crowd(tmp_path: Path, target: str) -> None:
    """facebookresearch/detectron2#5027: mIoU 1.0 and AP -1 for a whole run."""
    message = refused(tmp_path, set_of({"iscrowd": 1}, {"iscrowd": 1}), targets=(target,))
    assert message == "all 2 objects are marked iscrowd, so training and evaluation would ignore them"


@pytest.mark.parametrize("target", ["boxes", "mask"])
def test_no_objects(tmp_path: Path, target: str) -> None:
    nothing = set_of({}) | {"annotations": []}
    assert refused(tmp_path, nothing, targets=(target,)) == "its 1 images have no objects of class red"


def test_no_object_of_the_wanted_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = set_of({}, categories=[{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}])
    assert "no objects of class blue" in refused(tmp_path, data, classes=["blue"])
    Coco(tmp_path, "train", classes=["red"])
    assert not caplog.records
    Coco(tmp_path, "train")
    assert caplog.messages[0].endswith("instances_train.json: 1 of 2 categories have no objects: blue")


@pytest.mark.parametrize("value", [0, "0", False, None, 0.0])
def test_no_crowd(tmp_path: Path, value: object) -> None:
    """A word is true in Python, "0" too."""
    assert only(tmp_path, set_of({"iscrowd": value})).boxes.crowd == [False]


@pytest.mark.parametrize("value", [1, "1", True])
def test_crowd(tmp_path: Path, value: object) -> None:
    assert only(tmp_path, set_of({"iscrowd": value, "image_id": 2}, {"image_id": 1})).boxes.crowd == [False]
    boxes = Coco(tmp_path, "train")[1].boxes
    assert boxes is not None
    assert boxes.crowd == [True]


@pytest.mark.parametrize("value", ["no", "", 2, -1, [0], {}, 0.5])
def test_crowds_of_no_use(tmp_path: Path, value: object) -> None:
    assert f"annotation 1 has iscrowd {json.dumps(value)}; valid: 0, 1" in refused(
        tmp_path, set_of({"iscrowd": value}, {})
    )


# ---- areas, boxes and outlines from one another ----


@pytest.mark.parametrize("area", [0, -1, None, ..., "1024", float("nan")])
def test_areas(tmp_path: Path, area: object, caplog: pytest.LogCaptureFixture) -> None:
    """open-mmlab/mmpose#1795: squares of 50 pixels are of medium size, whatever their "area" of 0 says."""
    square = {"bbox": [4, 6, 50, 50], "segmentation": [[4, 6, 54, 6, 54, 56, 4, 56]], "area": area}
    sample = only(tmp_path, set_of(square))
    assert sample.boxes.areas == [2500]
    assert "1 areas derived from outline or box (annotation 1 of 1.png)" in caplog.messages[0]
    evaluator = CocoEvaluator(["red"])
    assert sample.boxes is not None
    found = Detection(sample.boxes.boxes, np.ones(1, np.float32), np.zeros(1, np.int64))
    evaluator.update([found], [sample])
    figures = evaluator.compute()
    assert (figures["APs"], figures["APm"]) == (-1, pytest.approx(1))


def test_areas_are_the_outlines_where_there_is_one(tmp_path: Path) -> None:
    """As COCO's own are."""
    triangle = [[8, 12, 40, 12, 40, 44]]
    runs = {"size": [SIDE, SIDE], "counts": [5, 10, SIDE * SIDE - 15]}
    for outline, area in ((triangle, 512), (runs, 10), ([], 1024), ("rubbish", 1024)):
        assert only(tmp_path, set_of({"area": ..., "segmentation": outline})).boxes.areas == [area]


@pytest.mark.parametrize("box", [..., None, [], [0, 0, 0, 0], [1, 2, 3], "rubbish", [8, 12, -1, 5]])
def test_boxes_from_outlines(tmp_path: Path, box: object, caplog: pytest.LogCaptureFixture) -> None:
    sample = only(tmp_path, set_of({"bbox": box}))
    assert sample.boxes is not None
    assert sample.boxes.boxes.tolist() == [[8, 12, 40, 44]]
    assert caplog.messages[0].endswith(": 1 boxes derived from outlines (annotation 1 of 1.png)")


@pytest.mark.parametrize("seed", range(4))
def test_boxes_and_areas_of_runs(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = np.zeros((SIDE, SIDE), bool)
    x, y = rng.integers(0, 40, 2)
    mask[y : y + rng.integers(1, 24), x : x + rng.integers(1, 24)] = True
    mask &= rng.random(mask.shape) < 0.7
    rows, columns = np.nonzero(mask)
    changes = np.flatnonzero(np.diff(mask.T.ravel(), prepend=False))
    counts = np.diff(changes, prepend=0, append=SIDE * SIDE).tolist()
    outline = {"size": [SIDE, SIDE], "counts": counts}
    sample = only(tmp_path, set_of({"bbox": ..., "area": ..., "segmentation": outline}))
    assert sample.boxes is not None
    assert sample.boxes.boxes.tolist() == [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]
    assert sample.boxes.areas == [mask.sum()]


def test_neither_box_nor_outline(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert len(only(tmp_path, set_of({"image_id": 1}, {"bbox": ..., "segmentation": ...})).boxes) == 1  # type: ignore[arg-type]
    assert "of 2 boxes, 1 not finite, dropped (annotation 2 of 2.png)" in caplog.messages[0]


def test_two_corners(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """tensorpack/tensorpack#1041: 1024 pixels, where COCO's tools paint 1760 (x, y, width and height)."""
    assert painted(tmp_path, set_of({"segmentation": [[8, 12, 40, 44]]})) == [8, 12, 40, 44, 1024]
    assert [message.split(": ", 1)[1] for message in caplog.messages] == [
        "1 outlines with a polygon of fewer than three points, dropped (annotation 1 of 1.png)",
        "1 objects without an outline, painted as their boxes (annotation 1 of 1.png)",
    ]


@pytest.mark.parametrize(
    "outline",
    [[8, 12, 40, 12, 40, 44, 8, 44], [[[8, 12], [40, 12], [40, 44], [8, 44]]], [], ...],
    ids=["flat", "points", "empty", "absent"],
)
def test_other_outlines(tmp_path: Path, outline: object) -> None:
    assert painted(tmp_path, set_of({"segmentation": outline})) == [8, 12, 40, 44, 1024]


def test_shares_instead_of_pixels(tmp_path: Path) -> None:
    """swatig007/automlForImages#27, ox-vgg/via#3: boxes of half a pixel, and an AP of 0."""
    data = set_of({"bbox": [0.125, 0.1875, 0.5, 0.5]}, {"bbox": [0.0, 0.5, 1.0, 0.5]})
    assert refused(tmp_path, data) == ("all 2 boxes are within 0..1: relative to the image? Expected pixels")
    data["annotations"][1]["bbox"] = [0, 0, 2, 2]  # one in pixels: the other is a speck
    write(tmp_path, data)
    assert Coco(tmp_path, "train")[0].boxes is not None


# ---- ids and names ----


@pytest.mark.parametrize(
    ("own", "reference"), [(1, "1"), ("1", 1), (1, 1.0), ("1", "1"), ("a/1", "a/1"), ("007", "007"), (10**30, 10**30)]
)
def test_ids_as_words_and_as_numbers(tmp_path: Path, own: int | str, reference: object) -> None:
    """cvat-ai/cvat#298."""
    data = set_of({"image_id": reference})
    data["images"][0]["id"] = own
    sample = only(tmp_path, data)
    assert len(sample.boxes.labels) == 1  # type: ignore[arg-type]
    assert (sample.image_id, type(sample.image_id)) == (own, type(own))


@pytest.mark.parametrize("reference", [7, "007", "x", True, None, [1], 1.5, float("nan")])
def test_ids_that_are_not_there(tmp_path: Path, reference: object) -> None:
    data = set_of({"image_id": reference})
    data["images"][0]["id"] = "7x"
    assert (
        "annotation 1 belongs to image" in (message := refused(tmp_path, data))
        or "image_id must be a whole number" in message
    )


@pytest.mark.parametrize(("own", "reference"), [(3, "3"), ("3", 3), ("3", "3")])
def test_category_ids(tmp_path: Path, own: object, reference: object) -> None:
    data = set_of({"category_id": reference}, categories=[{"id": 1, "name": "blue"}, {"id": own, "name": "red"}])
    assert only(tmp_path, data).boxes.labels == [1]
    assert Coco(tmp_path, "train").category_ids == (1, 3)


@pytest.mark.parametrize("options", [{}, {"classes": ["red"]}])
def test_the_same_name_twice(tmp_path: Path, options: dict[str, Any]) -> None:
    """open-mmlab/mmdetection#11072."""
    twice = [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}, {"id": 3, "name": " red"}]
    message = refused(tmp_path, set_of({}, categories=twice), **options)
    assert message.startswith("categories 1 and 3 are both named red: ")


@pytest.mark.parametrize("name", [" red", "red\r\n", "\ufeffred"])
def test_names_with_what_nobody_sees(tmp_path: Path, name: str) -> None:
    write(tmp_path, set_of({}, categories=[{"id": 1, "name": name}]))
    assert Coco(tmp_path, "train", classes=["red"]).names == ("red",)


def test_names_that_are_numbers(tmp_path: Path) -> None:
    write(tmp_path, set_of({}, categories=[{"id": 1, "name": 10}]))
    assert Coco(tmp_path, "train", classes=[10]).names == ("10",)  # type: ignore[list-item]  # as YAML reads it


@pytest.mark.parametrize("name", [None, "", "  ", [], {"a": 1}])
def test_names_of_no_use(tmp_path: Path, name: object) -> None:
    message = refused(tmp_path, set_of({}, categories=[{"id": 1, "name": name}]))
    assert message == f"category 1 has the invalid name {json.dumps(name)}"


# ---- file names ----


@pytest.mark.parametrize(
    ("name", "folder"), [("train\\1.png", "train"), ("sub\\1.png", "train/sub"), ("images/1.png", "images")]
)
def test_file_names_as_other_tools_write_them(
    tmp_path: Path, name: str, folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    """HumanSignal/label-studio#7294: Windows' separators, and the image folder's own name."""
    data = set_of({})
    data["images"][0]["file_name"] = name
    file = write(tmp_path, data, folder, ("1.png",))
    found = tmp_path / folder / "1.png"
    assert Coco(tmp_path, "train")[0].path == str(found)
    assert caplog.messages == [f"{file}: reading the file name {name!r} as {found}, and others likewise"]


def test_a_backslash_may_be_part_of_a_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = set_of({})
    data["images"][0]["file_name"] = "a\\1.png"
    write(tmp_path, data, "train", ("a\\1.png",))
    assert Coco(tmp_path, "train")[0].path == str(tmp_path / "train" / "a\\1.png")
    assert not caplog.records


@pytest.mark.parametrize("name", ["..\\1.png", "a\\..\\..\\1.png", "\\etc\\passwd"])
def test_backslashes_do_not_lead_out(tmp_path: Path, name: str) -> None:
    data = set_of({})
    data["images"][0]["file_name"] = name
    assert "points outside the image folder" in refused(tmp_path, data)


@pytest.mark.parametrize("name", ["n" * 300, "n" * 5000, "a/" * 300, "nul\0.png"])
def test_file_names_no_file_can_have(tmp_path: Path, name: str) -> None:
    data = set_of({})
    data["images"][0]["file_name"] = name
    write(tmp_path, data)
    with pytest.raises(DataError, match="cannot be read"):
        Coco(tmp_path, "train")[0]


def test_half_of_a_character(tmp_path: Path) -> None:
    """JSON can write what is no text."""
    data = set_of({})
    data["images"][0]["file_name"] = "\ud800.png"
    assert "is not valid Unicode" in refused(tmp_path, data)


@pytest.mark.parametrize("split", ["n" * 300, "nul\0"])
def test_splits_no_file_can_be_named_after(tmp_path: Path, split: str) -> None:
    with pytest.raises(DataError, match="no such file"):
        Coco(tmp_path, split)


def test_a_root_one_level_too_high(tmp_path: Path) -> None:
    (tmp_path / "sets/mine").mkdir(parents=True)
    write(tmp_path / "sets/mine", set_of({}))
    with pytest.raises(DataError, match=r"mine/ has an annotations folder: is the root one level too high\?"):
        Coco(tmp_path / "sets", "train")


def test_roots_no_folder_can_have(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the data set's root folder does not exist"):
        Coco(tmp_path / ("n" * 300), "train")


# ---- photos that a camera turned ----


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("orientation", ["upright", "stored"])
def test_orientation(tmp_path: Path, tag: int, orientation: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A red rectangle, which Pillow turns as EXIF says: boxes and masks are on it, whichever way they were drawn."""
    stored = np.zeros((40, 64, 3), np.uint8)
    stored[5:15, 30:50, 0] = 255
    photo = Image.fromarray(stored)
    photo.getexif()[0x0112] = tag
    (tmp_path / "train").mkdir()
    photo.save(tmp_path / "train/1.png", exif=photo.getexif())
    with Image.open(tmp_path / "train/1.png") as file:
        upright = np.asarray(ImageOps.exif_transpose(file))
    drawn_on = stored if orientation == "stored" else upright
    rows, columns = np.nonzero(drawn_on[..., 0])
    x1, y1, x2, y2 = (int(side) for side in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    outline = [[x1, y1, x2, y1, x2, y2, x1, y2]]
    data = set_of({"bbox": [x1, y1, x2 - x1, y2 - y1], "segmentation": outline})
    data["images"][0] |= {"height": drawn_on.shape[0], "width": drawn_on.shape[1]}
    write(tmp_path, data, names=())
    for item in (outline, []):  # an outline, and none: the box
        data["annotations"][0]["segmentation"] = item
        write(tmp_path, data, names=())
        mask = Coco(tmp_path, "train", orientation=orientation, targets=("mask",))[0].mask
        np.testing.assert_array_equal(mask, upright[..., 0] > 0)
    caplog.clear()
    sample = Coco(tmp_path, "train", orientation=orientation)[0]
    np.testing.assert_array_equal(sample.image, upright)
    rows, columns = np.nonzero(upright[..., 0])
    assert sample.boxes is not None
    assert sample.boxes.boxes.tolist() == [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]
    said = [message for message in caplog.messages if "1 of 1 photos have" in message]
    assert len(said) == (tag > 1)


# ---- JSON ----


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"images": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ('{"images": ' + "1" * 5000 + "}", "its 'images' is not a list"),
        ('{"images": [{"id": ' + "1" * 5000 + "}]}", "lacks the list 'annotations'"),
        ('{"images": [{"id": ' + "1" * 5000 + '}], "annotations": [], "categories": []}', "thousands of digits"),
        ('{"images": [{"id": 1e999}], "annotations": [], "categories": []}', "id must be a whole number or a string"),
    ],
    ids=["deep", "deep in a section", "long", "long in a section", "long id", "beyond floats"],
)
def test_json_beyond_all_measure(tmp_path: Path, content: str, problem: str) -> None:
    assert problem in refused(tmp_path, content)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_other_encodings(tmp_path: Path, encoding: str) -> None:
    file = write(tmp_path, set_of({}))
    file.write_bytes(file.read_text().encode(encoding))
    assert len(Coco(tmp_path, "train")) == 1


def test_not_a_number_where_it_does_not_matter(tmp_path: Path) -> None:
    """Python writes NaN, which JSON has not."""
    data = set_of({"score": float("nan"), "area": float("nan")})
    assert "NaN" in json.dumps(data)
    assert only(tmp_path, data).boxes.areas == [1024]


# ---- the index ----


def test_the_second_reading_is_the_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Messages included: what was dropped is said every time."""
    data = set_of({"area": 0}, {"bbox": [8, 12, 99, 32], "segmentation": []})
    file = write(tmp_path, data)
    os.utime(file, (10**9, 10**9))
    found, said = [], []
    for _ in range(2):
        caplog.clear()
        found.append([asdict(sample) for sample in Coco(tmp_path, "train")])
        said.append(list(caplog.messages))
    np.testing.assert_equal(found[0], found[1])
    assert said[0] == said[1]
    assert len(said[0]) == 2
    changed = copy.deepcopy(data)
    changed["annotations"][0]["bbox"] = [1, 2, 3, 4]
    write(tmp_path, changed)
    assert Coco(tmp_path, "train")[0].boxes.boxes.tolist() == [[1, 2, 4, 6]]  # type: ignore[union-attr]
