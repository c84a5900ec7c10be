"""COCO's layout: categories to labels and back, boxes as pycocotools reads them, and what is wrong by its name."""

import contextlib
import copy
import io
import json
import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from mnv2vision.data.formats.coco import Coco
from mnv2vision.data.formats.coco_categories import COCO_CATEGORIES
from mnv2vision.data.sample import Sample
from mnv2vision.errors import DataError

INSTANCES: dict[str, list[dict[str, Any]]] = {
    "images": [
        {"id": 31, "file_name": "c.png", "width": 40, "height": 30},
        {"id": 7, "file_name": "a.png", "width": 50, "height": 20},
        {"id": 19, "file_name": "b.png", "width": 10, "height": 60},
    ],
    "annotations": [
        {"id": 5, "image_id": 7, "category_id": 90, "bbox": [10, 2.5, 20.25, 10], "area": 99.5, "iscrowd": 0},
        {"id": 1, "image_id": 31, "category_id": 1, "bbox": [0, 0, 40, 30], "area": 700, "iscrowd": 1},
        {"id": 9, "image_id": 7, "category_id": 13, "bbox": [1, 1, 2, 3], "area": 5, "iscrowd": 0},
        {"id": 4, "image_id": 7, "category_id": 1, "bbox": [5, 5, 5, 5], "area": 20, "iscrowd": 0},
    ],
    "categories": [
        {"id": 13, "name": "stop sign", "supercategory": "outdoor"},
        {"id": 90, "name": "toothbrush", "supercategory": "indoor"},
        {"id": 1, "name": "person", "supercategory": "person"},
    ],
}


@pytest.fixture(autouse=True)
def _log_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("mnv2vision"), "propagate", True)  # the command line turns it off


@pytest.fixture
def data() -> dict[str, list[dict[str, Any]]]:
    return copy.deepcopy(INSTANCES)


def write(
    root: Path,
    data: object,
    file: str = "annotations/instances_train2017.json",
    images: str = "train2017",
) -> Path:
    """The annotation file and the images that `INSTANCES` is about; each one's red is its id."""
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(json.dumps(data))
    (root / images).mkdir(parents=True, exist_ok=True)
    for image in INSTANCES["images"]:
        picture = Image.new("RGB", (image["width"], image["height"]), (image["id"], 0, 0))
        picture.save(root / images / image["file_name"])
    return root / file


def refused(root: Path, data: object, **options: Any) -> str:
    """The message that a broken annotation file gives, which names the file in one line."""
    file = write(root, data)
    with pytest.raises(DataError) as caught:
        Coco(root, "train", **options)
    message = str(caught.value)
    assert message.startswith(f"{file}: ")
    assert "\n" not in message
    return message


def by_id(data: Coco) -> dict[Any, Sample]:
    return {data[i].image_id: data[i] for i in range(len(data))}


def test_samples(tmp_path: Path, data: dict[str, Any]) -> None:
    write(tmp_path, data)
    coco = Coco(str(tmp_path), "train")
    assert coco.targets == {"boxes"}
    assert coco.names == ("person", "stop sign", "toothbrush")
    assert coco.category_ids == (1, 13, 90)
    assert len(coco) == 3
    samples = by_id(coco)
    sample = samples[7]
    assert sample.image.shape == (20, 50, 3)
    assert sample.image[0, 0].tolist() == [7, 0, 0]
    assert Path(sample.path) == tmp_path / "train2017/a.png"
    assert sample.boxes is not None
    assert sample.boxes.boxes.dtype == np.float32
    assert sample.boxes.boxes.tolist() == [[10, 2.5, 30.25, 12.5], [1, 1, 3, 4], [5, 5, 10, 10]]  # in the file's order
    assert sample.boxes.labels.dtype == np.int64
    assert sample.boxes.labels.tolist() == [2, 1, 0]
    assert sample.boxes.crowd.dtype == np.bool_
    assert sample.boxes.crowd.tolist() == [False] * 3
    assert sample.boxes.difficult.dtype == np.bool_
    assert sample.boxes.difficult.tolist() == [False] * 3
    assert sample.boxes.areas is not None
    assert sample.boxes.areas.dtype == np.float64
    assert sample.boxes.areas.tolist() == [99.5, 5, 20]
    assert sample.label is None
    assert sample.mask is None
    assert sample.size == sample.image.shape[:2]
    crowd = samples[31]
    assert crowd.boxes is not None
    assert crowd.boxes.crowd.tolist() == [True]
    assert crowd.boxes.boxes.tolist() == [[0, 0, 40, 30]]


def test_images_without_objects_are_kept(tmp_path: Path, data: dict[str, Any]) -> None:
    write(tmp_path, data)
    sample = by_id(Coco(tmp_path, "train"))[19]
    for values, shape in (
        (sample.boxes.boxes, (0, 4)),
        (sample.boxes.labels, (0,)),
        (sample.boxes.crowd, (0,)),
        (sample.boxes.difficult, (0,)),
        (sample.boxes.areas, (0,)),
    ):
        assert values is not None
        assert values.shape == shape


def test_index_from_the_end_and_beyond(tmp_path: Path, data: dict[str, Any]) -> None:
    write(tmp_path, data)
    coco = Coco(tmp_path, "train")
    assert coco[-1].image_id == coco[2].image_id
    assert coco[-1].boxes is not None
    assert coco[2].boxes is not None
    assert coco[-1].boxes.boxes.tolist() == coco[2].boxes.boxes.tolist()
    for index in (3, -4):
        with pytest.raises(IndexError):
            coco[index]


def test_survives_the_way_to_a_worker(tmp_path: Path, data: dict[str, Any]) -> None:
    write(tmp_path, data)
    coco = pickle.loads(pickle.dumps(Coco(tmp_path, "train")))
    assert by_id(coco)[7].boxes.labels.tolist() == [2, 1, 0]  # type: ignore[union-attr]


def test_keys_that_may_be_absent(tmp_path: Path, data: dict[str, Any]) -> None:
    for annotation in data["annotations"]:
        del annotation["iscrowd"], annotation["area"]
    data["annotations"][1]["bbox"] = [30, 20, 40, 40]  # the area is that of the clipped box
    write(tmp_path, data)
    samples = by_id(Coco(tmp_path, "train"))
    assert samples[7].boxes.areas is not None
    assert samples[7].boxes.areas.tolist() == [202.5, 6, 25]
    assert samples[31].boxes.areas is not None
    assert samples[31].boxes.areas.tolist() == [100]
    assert samples[31].boxes is not None
    assert samples[31].boxes.crowd.tolist() == [False]


def test_string_ids(tmp_path: Path, data: dict[str, Any]) -> None:
    for image in data["images"]:
        image["id"] = f"image {image['id']}"
    for annotation in data["annotations"]:
        annotation["image_id"] = f"image {annotation['image_id']}"
    write(tmp_path, data)
    assert len(by_id(Coco(tmp_path, "train"))["image 7"].boxes) == 3  # type: ignore[arg-type]


# ---- categories ----


def test_ids_that_start_at_zero(tmp_path: Path, data: dict[str, Any]) -> None:
    data["categories"][2]["id"] = 0
    for annotation in data["annotations"]:
        annotation["category_id"] = {1: 0}.get(annotation["category_id"], annotation["category_id"])
    write(tmp_path, data)
    coco = Coco(tmp_path, "train")
    assert coco.category_ids == (0, 13, 90)
    assert by_id(coco)[7].boxes.labels.tolist() == [2, 1, 0]  # type: ignore[union-attr]


def test_labels_do_not_depend_on_what_is_annotated(tmp_path: Path, data: dict[str, Any]) -> None:
    data["annotations"] = data["annotations"][:1]
    data["categories"].reverse()
    write(tmp_path, data)
    coco = Coco(tmp_path, "train")
    assert coco.category_ids == (1, 13, 90)
    assert by_id(coco)[7].boxes.labels.tolist() == [2]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("classes", "ids", "labels"),
    [
        (["person"], (1,), [0]),
        (["toothbrush", "person"], (90, 1), [0, 1]),
        (("person", "toothbrush", "stop sign"), (1, 90, 13), [1, 2, 0]),
    ],
)
def test_classes_restrict_and_order(
    tmp_path: Path, data: dict[str, Any], classes: list[str], ids: tuple[int, ...], labels: list[int]
) -> None:
    write(tmp_path, data)
    coco = Coco(tmp_path, "train", classes=classes)
    assert coco.names == tuple(classes)
    assert coco.category_ids == ids
    assert len(coco) == 3
    sample = by_id(coco)[7]
    assert sample.boxes is not None
    assert sample.boxes.labels.tolist() == labels
    found = {
        90: [10, 2.5, 30.25, 12.5],
        13: [1, 1, 3, 4],
        1: [5, 5, 10, 10],
    }
    assert sample.boxes.boxes.tolist() == [found[ids[label]] for label in labels]


def test_unknown_class(tmp_path: Path, data: dict[str, Any]) -> None:
    message = refused(tmp_path, data, classes=["person", "dragon"])
    assert "no category dragon; the categories are: person, stop sign, toothbrush" in message


@pytest.mark.parametrize("classes", [[], ["person", "person"]])
def test_classes_must_be_some_and_distinct(tmp_path: Path, data: dict[str, Any], classes: list[str]) -> None:
    assert "one or more distinct names" in refused(tmp_path, data, classes=classes)


def test_the_table_of_categories() -> None:
    assert len(COCO_CATEGORIES) == len(set(COCO_CATEGORIES.values())) == 80
    assert set(range(1, 91)) - set(COCO_CATEGORIES) == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    assert list(COCO_CATEGORIES) == sorted(COCO_CATEGORIES)


# ---- layouts ----


@pytest.mark.parametrize(
    ("file", "images", "year"),
    [
        ("annotations/instances_train2017.json", "train2017", 2017),
        ("annotations/instances_train2014.json", "train2014", 2014),
        ("annotations/instances_train.json", "train", 2017),
        ("annotations/instances_train.json", "train", None),
        ("annotations/instances_train.json", "images", 2017),
        ("annotations/instances_train2017.json", "images/train2017", 2017),
        ("annotations/instances_train2017.json", "images/train", 2017),
        ("annotations/instances_train2017.json", "images", 2017),
        ("annotations/train.json", "train", 2017),
        ("train/_annotations.coco.json", "train", 2017),
        ("train/_annotations.coco.json", "train", None),
    ],
)
def test_layouts(tmp_path: Path, data: dict[str, Any], file: str, images: str, year: int | None) -> None:
    written = write(tmp_path, data, file, images)
    coco = Coco(tmp_path, "train", year=year)
    assert coco.annotation_file == written
    assert Path(coco[0].path) == tmp_path / images / "c.png"
    assert coco[0].image[0, 0, 0] == 31


def test_the_year_is_preferred(tmp_path: Path, data: dict[str, Any]) -> None:
    write(tmp_path, {**data, "images": [], "annotations": []}, "annotations/instances_train.json", "train")
    write(tmp_path, data)
    assert len(Coco(tmp_path, "train")) == 3
    assert len(Coco(tmp_path, "train", year=None)) == 0


def test_images_in_folders_of_their_own(tmp_path: Path, data: dict[str, Any]) -> None:
    write(tmp_path, data)
    (tmp_path / "train2017/deep").mkdir()
    (tmp_path / "train2017/a.png").rename(tmp_path / "train2017/deep/a.png")
    data["images"][1]["file_name"] = "deep/a.png"
    write(tmp_path, data)
    assert by_id(Coco(tmp_path, "train"))[7].image.shape == (20, 50, 3)


def test_only_the_splits_own_files(tmp_path: Path, data: dict[str, Any]) -> None:
    write(tmp_path, data, "annotations/instances_val2017.json", "val2017")
    assert len(by_id(Coco(tmp_path, "val"))) == 3
    with pytest.raises(DataError) as caught:
        Coco(tmp_path, "train")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/annotations/instances_train2017.json: ")
    assert "'train'" in message
    assert "instances_val2017.json" in message


def test_root_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        Coco(tmp_path / "nowhere", "train")
    assert str(tmp_path / "nowhere") in str(caught.value)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        Coco(tmp_path, "train")
    assert str(caught.value).startswith(f"{tmp_path}/annotations/instances_train2017.json: ")


def test_missing_image_is_named(tmp_path: Path, data: dict[str, Any]) -> None:
    write(tmp_path, data)
    (tmp_path / "train2017/a.png").unlink()
    coco = Coco(tmp_path, "train")
    assert coco[0].image_id == 31
    with pytest.raises(DataError) as caught:
        coco[1]
    assert str(caught.value).startswith(f"{tmp_path}/train2017/a.png: ")


@pytest.mark.parametrize("name", ["../a.png", "..", "deep/../../a.png", "{root}/a.png", "/etc/passwd"])
def test_file_names_that_lead_out(tmp_path: Path, data: dict[str, Any], name: str) -> None:
    data["images"][1]["file_name"] = name.format(root=tmp_path)
    assert f"{name.format(root=tmp_path)!r} points outside" in refused(tmp_path, data)


@pytest.mark.parametrize("name", ["..a.png", "deep/../a.png", "./a.png"])
def test_file_names_that_only_look_so(tmp_path: Path, data: dict[str, Any], name: str) -> None:
    (tmp_path / "train2017/deep").mkdir(parents=True)
    data["images"][1]["file_name"] = name
    write(tmp_path, data)
    Image.new("RGB", (50, 20)).save(tmp_path / "train2017/..a.png")
    assert by_id(Coco(tmp_path, "train"))[7].image.shape == (20, 50, 3)


# ---- files that cannot be right ----


def test_broken_json(tmp_path: Path, data: dict[str, Any]) -> None:
    file = write(tmp_path, data)
    lines = json.dumps(data, indent=1).splitlines()
    for content, line in (("\n".join(lines[:10]), 10), ("", 1), ("\n\n{'images'", 3)):
        file.write_text(content)
        with pytest.raises(DataError) as caught:
            Coco(tmp_path, "train")
        assert str(caught.value).startswith(f"{file}: line {line} ")
        assert "\n" not in str(caught.value)
    file.write_bytes(b'{"images": "\xff\xfe"}')
    with pytest.raises(DataError) as caught:
        Coco(tmp_path, "train")
    assert str(caught.value).startswith(f"{file}: ")


@pytest.mark.parametrize("content", [[], None, 3, "text", [{"images": []}]])
def test_json_that_is_something_else(tmp_path: Path, content: object) -> None:
    assert "images, annotations and categories" in refused(tmp_path, content)


@pytest.mark.parametrize("section", INSTANCES)
def test_section_missing(tmp_path: Path, data: dict[str, Any], section: str) -> None:
    del data[section]
    message = refused(tmp_path, data)
    assert f"{section!r}" in message
    assert ", ".join(sorted(data)) in message
    refused(tmp_path, {**data, section: {"a": 1}})
    refused(tmp_path, {**data, section: None})


@pytest.mark.parametrize(
    ("section", "key"),
    [
        *(("images", key) for key in ("id", "file_name", "width", "height")),
        *(("annotations", key) for key in ("image_id", "category_id")),
        *(("categories", key) for key in ("id", "name")),
    ],
)
def test_key_missing(tmp_path: Path, data: dict[str, Any], section: str, key: str) -> None:
    del data[section][1][key]
    message = refused(tmp_path, data)
    assert f"{key!r}" in message
    assert json.dumps(data[section][1])[:60] in message


@pytest.mark.parametrize("section", INSTANCES)
@pytest.mark.parametrize("entry", [None, 3, [], "id"])
def test_entries_that_are_no_objects(tmp_path: Path, data: dict[str, Any], section: str, entry: object) -> None:
    data[section][1] = entry
    refused(tmp_path, data)


@pytest.mark.parametrize("key", ["width", "height"])
@pytest.mark.parametrize("value", [None, "wide", [3], float("nan")])
def test_sizes_that_are_no_numbers(tmp_path: Path, data: dict[str, Any], key: str, value: object) -> None:
    data["images"][1][key] = value
    write(tmp_path, data)
    with pytest.raises(DataError) as caught:  # at once, or for the image at fault
        by_id(Coco(tmp_path, "train"))
    assert "instances_train2017.json" in str(caught.value)


@pytest.mark.parametrize(
    ("section", "key"),
    [("images", "id"), ("annotations", "image_id"), ("annotations", "category_id"), ("categories", "id")],
)
@pytest.mark.parametrize("value", [[1], "x", None])
def test_ids_of_no_use(tmp_path: Path, data: dict[str, Any], section: str, key: str, value: object) -> None:
    """An id that is unlike all the others is refused, if only because nothing refers to it or it refers to nothing."""
    data[section][1][key] = value
    refused(tmp_path, data)


def test_annotation_of_an_unknown_image(tmp_path: Path, data: dict[str, Any]) -> None:
    data["annotations"][2]["image_id"] = 8
    message = refused(tmp_path, data)
    assert "annotation 9 " in message
    assert "image 8" in message


def test_annotation_of_an_unknown_category(tmp_path: Path, data: dict[str, Any]) -> None:
    data["annotations"][2]["category_id"] = 12
    for options in ({}, {"classes": ["person"]}):
        message = refused(tmp_path, data, **options)
        assert "annotation 9 " in message
        assert "category 12" in message


def test_images_with_the_id_of_another(tmp_path: Path, data: dict[str, Any]) -> None:
    data["images"] += [dict(data["images"][1])]
    assert "several images have the id 7" in refused(tmp_path, data)
    data["images"][-1]["id"] = "7"  # which of the two an object is in, nobody can tell
    assert "several images have the id 7" in refused(tmp_path, data)


def test_categories_with_the_id_of_another(tmp_path: Path, data: dict[str, Any]) -> None:
    """Which of the two names an object has, nobody can tell."""
    data["categories"].append({"id": 13, "name": "dragon"})
    assert "13" in refused(tmp_path, data)


@pytest.mark.parametrize("size", [(20, 51), (50, 20), (10, 25)], ids=["a column", "turned", "half"])
def test_image_of_another_size(tmp_path: Path, data: dict[str, Any], size: tuple[int, int]) -> None:
    data["annotations"] = data["annotations"][1:2]
    data["annotations"][0]["iscrowd"] = 0
    data["images"][1] |= {"height": size[0], "width": size[1]}
    file = write(tmp_path, data)
    coco = Coco(tmp_path, "train")
    assert coco[0].image_id == 31
    with pytest.raises(DataError) as caught:
        coco[1]
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/train2017/a.png: ")
    assert "50x20" in message
    assert f"{size[1]}x{size[0]}" in message
    assert str(file) in message


# ---- boxes ----


def test_bad_boxes_are_counted_and_named(
    tmp_path: Path, data: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    bad: list[tuple[object, str]] = [
        ([5, 5, 0, 4], "without area, dropped"),
        ([5, 5, -3, 4], "without area, dropped"),
        ([60, 5, 4, 4], "outside the image, dropped"),
        ([float("nan"), 5, 4, 4], "not finite, dropped"),
        ([1, 2, 3], "not finite, dropped"),
        (None, "not finite, dropped"),
        (["1", "2", "3", "4"], "not finite, dropped"),
        ([40, 10, 30, 30], "reaching beyond the image, clipped"),
    ]
    number = 100
    for box, _ in bad:
        crowd = int(number % 2)
        data["annotations"].insert(
            1, {"id": number, "image_id": 7, "category_id": 13, "bbox": box, "area": number, "iscrowd": crowd}
        )
        number += 1
    data["annotations"].append({"id": number, "image_id": 7, "category_id": 13})  # no box at all
    data["annotations"].append({"id": 200, "image_id": 19, "category_id": 90, "bbox": [2, 3, 4, 5]})
    file = write(tmp_path, data)
    with caplog.at_level(logging.WARNING, logger="mnv2vision"):
        samples = by_id(Coco(tmp_path, "train"))
    message, derived = caplog.messages
    assert derived.startswith(f"{file}: 1 areas derived from outline or box (annotation 200 of b.png)")
    assert message.startswith(f"{file}: of 14 boxes, ")
    for count, kind, numbers in (
        (5, "not finite, dropped", [106, 105, 104, 103, 108]),
        (2, "without area, dropped", [101, 100]),
        (1, "outside the image, dropped", [102]),
        (1, "reaching beyond the image, clipped", [107]),
    ):
        names = ", ".join(f"annotation {n} of a.png" for n in numbers)
        assert f"{count} {kind} ({names})" in message
    sample = samples[7]
    # What is left keeps its order, and its own label, area and flag.
    assert sample.boxes is not None
    assert sample.boxes.boxes.tolist() == [[10, 2.5, 30.25, 12.5], [40, 10, 50, 20], [1, 1, 3, 4], [5, 5, 10, 10]]
    assert sample.boxes.labels.tolist() == [2, 1, 1, 0]
    assert sample.boxes.areas is not None
    assert sample.boxes.areas.tolist() == [99.5, 107, 5, 20]
    assert sample.boxes.crowd.tolist() == [False, True, False, False]
    assert len(samples[31].boxes) == 1  # type: ignore[arg-type]
    assert samples[19].boxes is not None  # of the image after
    assert samples[19].boxes.boxes.tolist() == [[2, 3, 6, 8]]


def test_good_files_are_read_in_silence(tmp_path: Path, data: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, data)
    with caplog.at_level(logging.WARNING, logger="mnv2vision"):
        Coco(tmp_path, "train")
    assert not caplog.records


def test_boxes_have_an_area_in_float32_too(tmp_path: Path, data: dict[str, Any]) -> None:
    """A width that is lost in rounding is a width of 0, and its logarithm the end of a training run."""
    data["annotations"][0]["bbox"] = [10, 5, 1e-8, 4]
    write(tmp_path, data)
    boxes = by_id(Coco(tmp_path, "train"))[7].boxes.boxes
    assert boxes is not None
    assert (boxes[:, 2:] > boxes[:, :2]).all()


# ---- the real set ----


@pytest.mark.parametrize("split", ["train", "val"])
def test_as_pycocotools_reads_it(shared: Path, split: str) -> None:
    root = shared / "data/coco"
    ours = Coco(root, split)
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = COCO(str(root / f"annotations/instances_{split}2017.json"))
    assert dict(zip(ours.category_ids, ours.names, strict=True)) == COCO_CATEGORIES
    assert list(ours.category_ids) == sorted(theirs.getCatIds())
    assert [item["name"] for item in theirs.loadCats(list(ours.category_ids))] == list(ours.names)
    count = crowds = 0
    seen = []
    for i in range(len(ours)):
        sample = ours[i]
        (image,) = theirs.loadImgs(sample.image_id)
        seen.append(sample.image_id)
        assert Path(sample.path) == root / f"{split}2017" / image["file_name"]
        wanted = theirs.loadAnns(theirs.getAnnIds(imgIds=sample.image_id))
        assert sample.boxes is not None
        assert sample.boxes.areas is not None
        boxes = np.array([item["bbox"] for item in wanted], float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes = np.clip(boxes, 0, [image["width"], image["height"]] * 2)
        np.testing.assert_allclose(sample.boxes.boxes, boxes, atol=1e-4)
        assert [ours.category_ids[label] for label in sample.boxes.labels] == [item["category_id"] for item in wanted]
        assert sample.boxes.areas.tolist() == [item["area"] for item in wanted]
        assert sample.boxes.crowd.tolist() == [item["iscrowd"] == 1 for item in wanted]
        count += len(wanted)
        crowds += sum(sample.boxes.crowd)
    assert sorted(seen) == sorted(theirs.getImgIds())
    assert count == len(theirs.anns)
    assert crowds > 0


def test_one_class_of_the_real_set(shared: Path) -> None:
    whole, dogs = Coco(shared / "data/coco", "val"), Coco(shared / "data/coco", "val", classes=["dog"])
    assert dogs.category_ids == (18,)
    assert len(dogs) == len(whole)
    label = whole.names.index("dog")
    found = 0
    for mine, all_of_them in zip(dogs, whole, strict=True):
        assert mine.boxes is not None
        assert all_of_them.boxes is not None
        assert mine.boxes.labels.tolist() == [0] * len(mine.boxes.labels)
        np.testing.assert_array_equal(mine.boxes.boxes, all_of_them.boxes.boxes[all_of_them.boxes.labels == label])
        found += len(mine.boxes.labels)
    assert found > 0
