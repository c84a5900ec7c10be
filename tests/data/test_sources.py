"""Data sets give the targets that are asked for, several at once where they have them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mnv2vision.data.formats.coco import Coco
from mnv2vision.data.formats.mask_names import MASK_NAMES
from mnv2vision.data.formats.voc import Voc
from mnv2vision.data.formats.voc_boxes import VOC_NAMES
from mnv2vision.data.sample import Sample, names_of
from mnv2vision.data.sources import create_source
from mnv2vision.errors import ConfigError

VOC_CONFIG: dict[str, Any] = {
    "name": "voc",
    "year": 2012,
    "train_split": "train",
    "classes": None,
    "void": 255,
    "colors": None,
    "sbd": None,
}
BOX = "<bndbox><xmin>3</xmin><ymin>2</ymin><xmax>9</xmax><ymax>7</ymax></bndbox>"


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    outline = [[2, 1, 8, 1, 8, 6, 2, 6]]
    data = {
        "images": [{"id": 7, "file_name": "a.png", "width": 20, "height": 10}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 5, "bbox": [2, 1, 6, 5], "segmentation": outline}],
        "categories": [{"id": 5, "name": "ant"}],
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/train.json").write_text(json.dumps(data))
    (tmp_path / "train").mkdir()
    Image.new("RGB", (20, 10)).save(tmp_path / "train/a.png")
    return tmp_path


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """Two images with masks, the first of which has boxes as well."""
    folder = tmp_path / "VOC2012"
    for name in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    mask = np.zeros((10, 20), np.uint8)
    mask[1:7, 2:9] = 12
    for image_id in ("2007_000001", "2007_000002"):
        Image.new("RGB", (20, 10)).save(folder / f"JPEGImages/{image_id}.jpg")
        Image.fromarray(mask).save(folder / f"SegmentationClass/{image_id}.png")
    (folder / "ImageSets/Segmentation/train.txt").write_text("2007_000001\n2007_000002\n")
    text = f"<annotation><object><name>dog</name>{BOX}</object></annotation>"
    (folder / "Annotations/2007_000001.xml").write_text(text)
    return tmp_path


def check(sample: Sample, value: int, label: int) -> None:
    assert sample.boxes is not None
    assert sample.boxes.boxes.tolist() == [[2, 1, 8 + (value == 12), 6 + (value == 12)]]
    assert sample.boxes.labels.tolist() == [label]
    assert sample.mask is not None
    rows, columns = np.nonzero(sample.mask == value)
    assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == sample.boxes.boxes[0].tolist()


def test_boxes_and_masks_of_coco(coco: Path) -> None:
    data = Coco(coco, "train", targets=("boxes", "mask"))
    assert (data.targets, data.protocol) == ({"boxes", "mask"}, "coco")
    assert (names_of(data, "boxes"), names_of(data, "mask")) == (("ant",), ("background", "ant"))
    check(data[0], 1, 0)
    for target in ("boxes", "mask"):
        only = Coco(coco, "train", targets=(target,))[0]
        assert ((only.boxes is None), (only.mask is None)) == ((target == "mask"), (target == "boxes"))


@pytest.mark.parametrize("classes", [None, MASK_NAMES])
def test_boxes_and_masks_of_voc(voc: Path, classes: Any, caplog: pytest.LogCaptureFixture) -> None:
    data = Voc(voc, "train", targets=("boxes", "mask"), classes=classes)
    assert (data.targets, data.protocol) == ({"boxes", "mask"}, "voc")
    assert (names_of(data, "boxes"), names_of(data, "mask")) == (VOC_NAMES, MASK_NAMES)
    check(data[0], 12, 11)
    assert data[1].boxes is None
    assert data[1].mask is not None
    assert caplog.messages[-1].endswith("train: 1 of 2 images have no XML file: masks, but no boxes")


def test_several_targets_by_configuration(voc: Path) -> None:
    config = VOC_CONFIG | {"root": str(voc)}
    data = create_source(config, "train", "mask", "boxes")
    assert data.targets == {"boxes", "mask"}
    check(data[0], 12, 11)
    with pytest.raises(ConfigError, match=r"^dataset=voc offers boxes, mask, but the task needs label, which "):
        create_source(config, "train", "boxes", "label")
