"""Readers that collect all faults, where they stop at the first one otherwise."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnv2vision.data.formats.coco import Coco
from mnv2vision.data.formats.faults import collected
from mnv2vision.data.formats.voc import Voc
from mnv2vision.data.formats.yolo import Yolo
from mnv2vision.data.sample import SampleSource
from mnv2vision.errors import DataError


def photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (100, 50), (90, 80, 70)).save(path)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def voc(root: Path) -> Voc:
    for name in "abcd":
        photo(root / f"JPEGImages/{name}.jpg")
    box = "<object><name>cup</name><bndbox><xmin>{}</xmin><ymin>1</ymin><xmax>{}</xmax><ymax>9</ymax></bndbox></object>"
    size = "<size><width>100</width><height>50</height></size>"
    write(root / "Annotations/a.xml", f"<annotation>{size}{box.format(11, 30)}{box.format(101, 140)}</annotation>")
    write(root / "Annotations/b.xml", "<annotation>")
    write(root / "Annotations/d.xml", f"<annotation>{size}{box.format(40, 20)}</annotation>")
    write(root / "ImageSets/Main/train.txt", "a\nb\nc\nd\n")
    return Voc(root, "train")


def coco(root: Path) -> Coco:
    for name in "ab":
        photo(root / f"train2017/{name}.jpg")
    images = [{"id": n, "file_name": f"{name}.jpg", "width": 100, "height": 50} for n, name in enumerate("ab")]
    objects = [
        {"id": 1, "image_id": 0, "category_id": 1, "bbox": [10, 0, 20, 9]},
        {"id": 2, "image_id": 0, "category_id": 1, "bbox": [100, 0, 40, 9]},
        {"id": 3, "image_id": 1, "category_id": 7, "bbox": [10, 0, 20, 9]},
        {"id": 4, "image_id": 9, "category_id": 1, "bbox": [10, 0, 20, 9]},
        {"id": 5, "image_id": 1, "category_id": 1, "bbox": [40, 0, -20, 9]},
    ]
    whole = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "cup"}]}
    write(root / "annotations/instances_train2017.json", json.dumps(whole))
    return Coco(root, "train")


def yolo(root: Path) -> Yolo:
    write(root / "data.yaml", "names: [cup]\ntrain: images/train\n")
    for name in "abc":
        photo(root / f"images/train/{name}.jpg")
    write(root / "labels/train/a.txt", "0 0.2 0.09 0.2 0.18\n0 1.2 0.1 0.2 0.18\n0 0.2 0.09 0.2 0.18\n")
    write(root / "labels/train/b.txt", "7 0.5 0.5 0.2 0.2\n0 0.5 half 0.1 0.1\n")
    write(root / "labels/train/c.txt", "0 0.5 0.5 0 0.2\n")
    return Yolo(root, "train")


OUTSIDE = ("box outside the image", (1.0, 0.0, 1.4, 0.18))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            voc,
            {
                "a": {OUTSIDE},
                "b": {("annotation unreadable", None)},
                "c": {("annotation missing", None)},
                "d": {("box without area", (0.39, 0.0, 0.2, 0.18))},
            },
        ),
        (
            coco,
            {
                "a": {OUTSIDE},
                "b": {("unknown class", None), ("box without area", (0.4, 0.0, 0.2, 0.18))},
                "instances_train2017": {("annotation of no image", None)},
            },
        ),
        (
            yolo,
            {
                "a": {("box outside the image", (1.1, 0.01, 1.3, 0.19)), ("box copied", None)},
                "b": {("unknown class", None), ("annotation unreadable", None)},
                "c": {("box without area", None)},  # its reader keeps nothing of it
            },
        ),
    ],
    ids=["voc", "coco", "yolo"],
)
def test_all_are_collected(
    make: Callable[[Path], SampleSource], expected: dict[str, set[tuple[str, tuple[float, ...] | None]]], tmp_path: Path
) -> None:
    with collected() as faults:
        source = make(tmp_path)
    found: dict[str, set[tuple[str, tuple[float, ...] | None]]] = {}
    for fault in faults:
        box = None if fault.box is None else tuple(round(side, 6) for side in fault.box)
        found.setdefault(Path(fault.file).stem, set()).add((fault.kind, box))
        assert "\n" not in fault.message
    assert found == expected
    # What is left is the one object without a fault.
    boxes = [sample.boxes for index in range(len(source)) if (sample := source[index]).boxes is not None]
    (corners,) = np.concatenate([own.boxes for own in boxes])
    np.testing.assert_allclose(corners, [10, 0, 30, 9], atol=1e-4)


@pytest.mark.parametrize("make", [voc, coco, yolo])
def test_without_it_the_first_one_ends_the_reading(make: Callable[[Path], SampleSource], tmp_path: Path) -> None:
    with collected():
        make(tmp_path)
    with pytest.raises(DataError):  # nothing of the collected reading was kept in the cache
        make(tmp_path)
