"""What Roboflow and labelImg write, and a single year, are read without further keys."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mnv2vision.data.formats.coco import Coco
from mnv2vision.data.formats.voc import Voc
from mnv2vision.errors import DataError


@pytest.fixture(autouse=True)
def _log_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("mnv2vision"), "propagate", True)  # the command line turns it off


def photo(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (50, 40), (9, 9, 9)).save(path)
    return path


def annotate(path: Path, name: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    box = "<bndbox><xmin>6</xmin><ymin>6</ymin><xmax>15</xmax><ymax>15</ymax></bndbox>"
    path.write_text(f"<annotation><object><name>{name}</name>{box}</object></annotation>")


def coco(path: Path, names: dict[str, str]) -> None:
    images = [{"id": i, "file_name": name, "width": 50, "height": 40} for i, name in enumerate(names)]
    boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [5, 5, 10, 10]} for i in range(len(names))]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "red"}]}))


def ids(data: Any) -> list[object]:
    assert all(data[i].boxes.boxes.tolist() == [[5, 5, 15, 15]] for i in range(len(data)))
    return [data[i].image_id for i in range(len(data))]


def test_roboflows_coco(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        photo(tmp_path / split / f"{split}.jpg")
        coco(tmp_path / split / "_annotations.coco.json", {f"{split}.jpg": "red"})
    assert Coco(tmp_path, "val")[0].path.endswith("valid/valid.jpg")
    assert ids(Coco(tmp_path, "train")) == [0]


def test_a_single_year_of_coco(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    photo(tmp_path / "val2014/a.jpg")
    coco(tmp_path / "annotations/instances_val2014.json", {"a.jpg": "red"})
    assert ids(Coco(tmp_path, "val")) == [0]
    assert "no instances_val2017.json; using that of 2014 instead (dataset.year=2014)" in caplog.text
    coco(tmp_path / "annotations/instances_val2015.json", {"a.jpg": "red"})
    with pytest.raises(DataError, match=r"instances_val2017\.json: no such file for the split 'val'; annotations/"):
        Coco(tmp_path, "val")


def test_roboflows_voc(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each split has a folder with photos and XML files; the classes are those of all splits."""
    for split, name in (("train", "red"), ("train", "blue"), ("valid", "red")):
        photo(tmp_path / split / f"{name}.jpg")
        annotate(tmp_path / split / f"{name}.xml", name)
    photo(tmp_path / "valid/more.jpg")
    train, val = Voc(tmp_path, "train"), Voc(tmp_path, "val")
    assert train.names == val.names == ("blue", "red")
    assert (ids(train), ids(val)) == (["train/blue", "train/red"], ["valid/red"])
    assert "1 photos have no XML file, and are not used: more.jpg" in caplog.text
    (tmp_path / "train/blue.jpg").unlink()
    with pytest.raises(DataError, match=r"train/blue: no such image"):
        Voc(tmp_path, "train")


@pytest.mark.parametrize(
    ("photos", "annotations"),
    [
        ("images", "annotations"),
        ("JPEGImages", "Annotations"),
        (".", "."),
        ("VOC2012/JPEGImages", "VOC2012/Annotations"),
    ],
)
def test_folders_without_lists(tmp_path: Path, photos: str, annotations: str) -> None:
    """What labelImg leaves; a split of them is for the caller."""
    for name in ("a", "b"):
        photo(tmp_path / photos / f"{name}.jpg")
        annotate(tmp_path / annotations / f"{name}.xml", name)
    assert ids(Voc(tmp_path, None)) == ["a", "b"]
    with pytest.raises(DataError, match="no XML files"):
        Voc(photo(tmp_path / "empty/x.jpg").parent, None)
