"""Labels written of objects, read again by this package's readers and by pycocotools; and counts."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO

import mnv2vision as mv
from mnv2vision.cli.main import main
from mnv2vision.data.formats.coco import Coco
from mnv2vision.data.formats.voc import Voc
from mnv2vision.data.formats.yolo import Yolo
from mnv2vision.data.sample import SampleSource
from mnv2vision.errors import ConfigError
from mnv2vision.inference.labels import Found, Layout, check_layout, write_counts, write_labels
from mnv2vision.predictions.detection import Detection

NAMES = ("cow", "emu & gnu", "мышь")
BOXES = {"a.png": [(3, 4, 50, 60), (10, 0, 64, 20)], "sub/b.jpg": [(0, 0, 1, 80)], "c.jpg": []}
LABELS = {"a.png": [2, 0], "sub/b.jpg": [1], "c.jpg": []}
SIZES = {"a.png": (60, 64), "sub/b.jpg": (80, 40), "c.jpg": (30, 30)}


def found() -> dict[str, Found]:
    return {
        name: Found(
            *SIZES[name],
            Detection(
                np.array(boxes, np.float32).reshape(-1, 4),
                np.linspace(0.9, 0.5, len(boxes), dtype=np.float32),
                np.array(LABELS[name], np.int64),
                NAMES,
            ),
        )
        for name, boxes in BOXES.items()
    }


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name, (height, width) in SIZES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, height)).save(folder / name)
    return folder


def read(source: SampleSource) -> dict[str, tuple[NDArray[np.floating], list[str]]]:
    """Boxes and class names by photo."""
    samples = [source[index] for index in range(len(source))]
    return {
        Path(sample.path).name: (sample.boxes.boxes, [source.names[label] for label in sample.boxes.labels])
        for sample in samples
        if sample.boxes is not None
    }


def assert_as_written(source: SampleSource, count: int = 3) -> None:
    there = read(source)
    assert len(there) == count
    for name, boxes in BOXES.items():
        if Path(name).name in there:
            ours, names = there[Path(name).name]
            np.testing.assert_allclose(ours, np.array(boxes).reshape(-1, 4), atol=1e-4)
            assert names == [NAMES[label] for label in LABELS[name]]


def test_coco(tmp_path: Path, photos: Path) -> None:
    write_labels("coco", found(), NAMES, tmp_path / "out")
    theirs = COCO(str(tmp_path / "out/labels.json"))
    assert [category["name"] for category in theirs.loadCats(theirs.getCatIds())] == list(NAMES)
    first = theirs.loadAnns(theirs.getAnnIds(imgIds=[1]))
    assert [annotation["bbox"] for annotation in first] == [[3, 4, 47, 56], [10, 0, 54, 20]]
    assert [annotation["score"] for annotation in first] == pytest.approx([0.9, 0.5])
    (tmp_path / "annotations").mkdir()
    shutil.copy(tmp_path / "out/labels.json", tmp_path / "annotations/photos.json")
    assert_as_written(Coco(tmp_path, "photos"))


def test_yolo(tmp_path: Path, photos: Path) -> None:
    root = tmp_path / "yolo"
    write_labels("yolo", found(), NAMES, root)
    shutil.copytree(photos, root / "images")
    (root / "data.yaml").write_text((root / "data.yaml").read_text() + "train: images\n")
    assert (root / "labels/c.txt").read_text() == ""
    assert_as_written(Yolo(root, "train"))


def test_voc(tmp_path: Path, photos: Path) -> None:
    root = tmp_path / "voc"
    write_labels("voc", found(), NAMES, root)
    shutil.copytree(photos, root / "JPEGImages")
    shutil.move(root / "JPEGImages/sub/b.jpg", root / "JPEGImages/b.jpg")
    shutil.move(root / "Annotations/sub/b.xml", root / "Annotations/b.xml")
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "ImageSets/Main/train.txt").write_text("a\nb\nc\n")
    assert_as_written(Voc(root, "train"))


def test_counts(tmp_path: Path) -> None:
    write_counts(found(), NAMES, tmp_path / "counts.csv")
    with (tmp_path / "counts.csv").open(encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows == [["image", *NAMES], ["a.png", "1", "0", "1"], ["sub/b.jpg", "0", "1", "0"], ["c.jpg", "0", "0", "0"]]
    assert found()["a.png"].objects.counts() == {"cow": 1, "мышь": 1}


@pytest.mark.parametrize("layout", ["yolo", "voc"])
def test_photos_that_would_have_the_same_file(layout: Layout) -> None:
    with pytest.raises(ConfigError, match=r"a\.jpg and a\.png would have the same file"):
        check_layout(layout, ["a.jpg", "b.jpg", "a.png"])
    check_layout("coco", ["a.jpg", "a.png"])


def test_the_command(tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mv.save(mv.create_model("detection", names=NAMES, width=0.35, image_size=64), tmp_path / "model.safetensors")
    output = tmp_path / "output"
    told = ["predict", f"images={photos}", f"output={output}", "threshold=0", "runtime=torch", "device=cpu"]
    command = [*told, f"checkpoint={tmp_path / 'model.safetensors'}"]
    assert main([*command, "output_format=coco"]) == 0
    theirs = COCO(str(output / "labels.json"))
    names = sorted(image["file_name"] for image in theirs.loadImgs(theirs.getImgIds()))
    assert names == ["a.png", "c.jpg", "sub/b.jpg"]
    with (output / "counts.csv").open(encoding="utf-8") as file:
        counted = sum(int(value) for row in list(csv.reader(file))[1:] for value in row[1:])
    with (output / "predictions.csv").open(encoding="utf-8") as file:
        assert len(list(csv.reader(file))) - 1 == counted == len(theirs.getAnnIds()) > 0

    mv.save(mv.create_model("classification", num_classes=2, width=0.35), tmp_path / "classifier.safetensors")
    capsys.readouterr()
    assert main([*told, f"checkpoint={tmp_path / 'classifier.safetensors'}", "output_format=coco"]) == 2
    assert "output_format=coco: is for detection, and" in capsys.readouterr().err
