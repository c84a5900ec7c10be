"""The command check on small data sets of each layout, made here, and what it says of wrong ones."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mnv2vision.cli.main import main

Report = dict[str, list[dict[str, str]]]


def photo(path: Path, seed: int, size: tuple[int, int] = (120, 90)) -> None:
    """Large blots, other ones for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC).save(path, quality=95)


def check(tmp_path: Path, *arguments: str) -> tuple[int, Counter[str], Report]:
    status = main(["check", f"output={tmp_path / 'out'}", *arguments])
    report: Report = json.loads((tmp_path / "out/check.json").read_text(encoding="utf-8"))
    return status, Counter(finding["kind"] for finding in report["findings"]), report


# ---- classification ----


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for number, split in enumerate(("train", "val")):
        for label, name in enumerate(("ant", "bee")):
            for index in range(4):
                photo(root / split / name / f"{index}.jpg", 100 * number + 10 * label + index)
    return root


def test_folders_of_classes(photos: Path, tmp_path: Path) -> None:
    status, found, report = check(tmp_path, "dataset=imagenet", f"dataset.root={photos}")
    assert (status, found) == (0, Counter())
    assert report["images"] == {"train": 8, "val": 8}
    assert report["classes"] == {"ant": {"train": 4, "val": 4}, "bee": {"train": 4, "val": 4}}


def test_an_image_of_two_classes(photos: Path, tmp_path: Path) -> None:
    (photos / "train/bee/copy.jpg").write_bytes((photos / "train/ant/0.jpg").read_bytes())
    (photos / "val/ant/copy.jpg").write_bytes((photos / "train/bee/1.jpg").read_bytes())
    status, found, _ = check(tmp_path, "dataset=imagenet", f"dataset.root={photos}")
    assert status == 1
    assert found == {"copy": 1, "leak": 1, "copies of two classes": 2}


def test_splits_of_different_classes(photos: Path, tmp_path: Path) -> None:
    (photos / "val/bee").rename(photos / "val/Bee")
    status, found, report = check(tmp_path, "dataset=imagenet", f"dataset.root={photos}")
    assert status == 1
    assert found == {"different classes": 1, "class names alike": 1}
    assert any("bee only in train; Bee only in val" in item["what"] for item in report["findings"])


@pytest.mark.parametrize(("size", "share"), [((120, 90), 0.5742), ((100, 100), 0.7656)])
def test_what_the_crop_leaves(size: tuple[int, int], share: float, photos: Path, tmp_path: Path) -> None:
    """0.875 of the shorter side, in a square: 78.75 x 78.75 of 120 x 90 pixels; rounding aside."""
    for index, path in enumerate(sorted(photos.rglob("*.jpg"))):
        photo(path, index, size)
    _, _, report = check(tmp_path, "dataset=imagenet", f"dataset.root={photos}")
    (words,) = (figure["words"] for figure in report["figures"] if "resize=crop" in figure["title"])
    assert f"Half of the photos show {share:.0%} of their area or less" in words


def test_photos_without_labels(photos: Path, tmp_path: Path) -> None:
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    status, found, report = check(tmp_path, "dataset=folder", f"dataset.root={photos}")
    assert (status, found) == (1, {"unreadable image": 1})
    assert report["images"] == {"train": 17}


# ---- objects ----


def yolo(root: Path) -> None:
    (root / "labels").mkdir(parents=True)
    (root / "data.yaml").write_text("names: [cup, fork]\ntrain: images/train\nval: images/val\n")
    for number, split in enumerate(("train", "val")):
        (root / "labels" / split).mkdir()
        for index in range(4):
            photo(root / f"images/{split}/{index}.jpg", 10 * number + index)
            (root / f"labels/{split}/{index}.txt").write_text(f"{index % 2} 0.5 0.5 0.4 0.4\n")


def test_yolo(tmp_path: Path) -> None:
    yolo(tmp_path / "data")
    arguments = ("dataset=yolo", f"dataset.root={tmp_path / 'data'}")
    assert check(tmp_path, *arguments)[:2] == (0, Counter())
    labels = tmp_path / "data/labels"
    (labels / "train/0.txt").write_text("0 0.5 0.5 0.4 0.4\n0 0.5 0.5 0.4 0.4\n9 0.5 0.5 0.2 0.2\n")
    (labels / "train/1.txt").write_text(
        "1 0.5 0.5 0.4 0.4\n1 0.5 0.5 0.4 0.38\n1 0.9 0.5 0.4 0.2\n0 0.1 0.1 0.005 0.2\n"
    )
    (labels / "val/0.txt").write_text("")
    (labels / "val/1.txt").unlink()
    (labels / "val/2.txt").write_text("1 0.5 0.5 0.4 0.4\n")
    status, found, report = check(tmp_path, *arguments)
    assert status == 1
    assert found == {
        "unknown class": 1,
        "box copied": 2,
        "box reaching beyond the image": 1,
        "tiny box": 1,
        "no objects": 2,
        "class in one split": 1,
    }
    (tiny,) = (item for item in report["findings"] if item["kind"] == "tiny box")
    assert tiny["file"].endswith("images/train/1.jpg")
    assert "object 4, cup: 1.6 x 64.0 pixels" in tiny["what"]  # 0.005 and 0.2 of 320


def test_what_a_larger_input_reaches(tmp_path: Path) -> None:
    """Objects of a tenth of the image, the smallest anchors, by hand.

    112 pixels have 7 x 7 cells of 16, with centres at 0.5/7, 1.5/7, …: an object upon one of them is reached. At 1/7 it
    is as far as can be from four: 0.0714 in x and in y. Of 20 cells, those of 320 pixels, the nearest centre is 0.125,
    0.0179 away: (0.1 - 0.0179)^2 = 0.00674 of 0.02 - 0.00674 in common, 0.508.
    """
    yolo(tmp_path / "data")
    for path in (tmp_path / "data/labels").rglob("*.txt"):
        path.write_text("0 0.0714 0.0714 0.1 0.1\n")
    arguments = ("dataset=yolo", f"dataset.root={tmp_path / 'data'}", "model.image_size=112")
    _, _, report = check(tmp_path, *arguments)
    (figure,) = (item for item in report["figures"] if "reach" in item["title"])
    reached = {row[0]: row[1] for row in figure["rows"]}
    assert reached["112 (the model's)"] == "100.0%"
    for path in (tmp_path / "data/labels").rglob("*.txt"):
        path.write_text("0 0.142857 0.142857 0.1 0.1\n")
    _, _, report = check(tmp_path, *arguments)
    (figure,) = (item for item in report["figures"] if "reach" in item["title"])
    reached = {row[0]: row[1] for row in figure["rows"]}
    assert reached["112 (the model's)"] == "0.0%"
    assert reached["320"] == "100.0%"
    assert "model.image_size=320 reaches 100.0% instead of 0.0%" in figure["words"]


def test_coco(tmp_path: Path) -> None:
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    for number, split in enumerate(("train", "val")):
        images, objects = [], []
        for index in range(3):
            photo(root / f"{split}2017/{index}.jpg", 10 * number + index)
            images.append({"id": index, "file_name": f"{index}.jpg", "width": 120, "height": 90})
            box = {"image_id": index, "category_id": 1 + index % 2, "bbox": [10, 10, 50, 40]}
            objects.append({"id": index, "iscrowd": 0, "area": 2000, **box})
        if split == "train":
            objects[0]["bbox"] = [10, 10, -5, 40]
            objects.append({**objects[1], "id": 7, "image_id": 8})
            images.append({"id": 5, "file_name": "gone.jpg", "width": 120, "height": 90})
        categories = [{"id": 1, "name": "cup"}, {"id": 2, "name": "fork"}, {"id": 3, "name": "spoon"}]
        file = {"images": images, "annotations": objects, "categories": categories}
        (root / f"annotations/instances_{split}2017.json").write_text(json.dumps(file))
    status, found, _ = check(tmp_path, "dataset=coco", f"dataset.root={root}")
    assert status == 1
    assert found == {
        "box without area": 1,
        "annotation of no image": 1,
        "missing file": 1,
        "class without objects": 1,
    }


# ---- masks ----


def test_masks(tmp_path: Path) -> None:
    root = tmp_path / "voc"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    for number, split in enumerate(("train", "val")):
        names = [f"{split}{index}" for index in range(4)]
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(names))
        for index, name in enumerate(names):
            photo(root / f"JPEGImages/{name}.jpg", 10 * number + index)
            mask = np.zeros((90, 120), np.uint8)
            mask[20:50, 30:70] = 1
            Image.fromarray(mask).save(root / f"SegmentationClass/{name}.png")
    arguments = ("dataset=voc", f"dataset.root={root}", "task=segmentation", "dataset.classes=[background,cup]")
    assert check(tmp_path, *arguments)[:2] == (0, Counter())
    folder = root / "SegmentationClass"
    Image.fromarray(np.full((90, 120), 7, np.uint8)).save(folder / "train0.png")
    Image.fromarray(np.ones((90, 60), np.uint8)).save(folder / "train1.png")
    (folder / "train2.png").unlink()
    Image.fromarray(np.zeros((90, 120), np.uint8)).save(folder / "val0.png")
    status, found, report = check(tmp_path, *arguments)
    assert status == 1
    assert found == {"mask": 3, "empty mask": 1}
    told = " ".join(item["what"] for item in report["findings"])
    for part in ("contains the value 7", "is 60x90, but its image is 120x90", "train2.png: no such mask"):
        assert part in told


# ---- what is left out ----


def unused(report: Report, root: Path) -> set[tuple[str, str, str]]:
    return {(item["kind"], item["split"], str(Path(item["file"]).relative_to(root))) for item in report["findings"]}


def coco(root: Path, name: str, files: list[str]) -> None:
    """An annotation file with an object in each image."""
    images = [{"id": index, "file_name": file, "width": 120, "height": 90} for index, file in enumerate(files)]
    boxes = [{"image_id": index, "category_id": 1, "bbox": [10, 10, 50, 40]} for index in range(len(files))]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cup"}]}
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations" / name).write_text(json.dumps(content))


def xml(path: Path) -> None:
    sides = "<xmin>10</xmin><ymin>10</ymin><xmax>60</xmax><ymax>50</ymax>"
    size = "<size><width>120</width><height>90</height></size>"
    path.write_text(f"<annotation>{size}<object><name>cup</name><bndbox>{sides}</bndbox></object></annotation>")


def test_files_that_are_no_part_of_class_folders(photos: Path, tmp_path: Path) -> None:
    arguments = ("dataset=imagenet", f"dataset.root={photos}")
    for name in ("train/readme.txt", "train/ant/.hidden.tiff"):
        (photos / name).touch()
    assert check(tmp_path, *arguments)[:2] == (0, Counter())  # which also writes an index
    for name in ("train/ant/phone.HEIC", "val/bee/deep/scan.tiff"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).touch()
    photo(photos / "train/stray.jpg", 99)
    for _ in range(2):
        status, _, report = check(tmp_path, *arguments)
        assert status == 1
        assert unused(report, photos) == {
            ("image not read", "train", "train/ant/phone.HEIC"),
            ("image not read", "val", "val/bee/deep/scan.tiff"),
            ("unlabelled image", "train", "train/stray.jpg"),
        }
    _, _, report = check(tmp_path, *arguments, "fix=copy")  # a person decides
    assert "fixed" not in report


@pytest.mark.parametrize("splits", [["train"], ["val"], ["train", "val"]])
def test_a_class_folder_without_images(splits: list[str], photos: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        photo(photos / split / "wasp/0.jpg", 50 + len(split))
    for split in splits:
        (photos / split / "wasp/0.jpg").unlink()
    (photos / "train/ant/1.jpg").write_bytes(b"")
    status, found, report = check(tmp_path, "dataset=imagenet", f"dataset.root={photos}")
    assert status == 1
    kind = "class without objects" if len(splits) == 2 else "class in one split"
    assert found == {kind: 1, "empty file": 1}  # all else is looked at
    assert "wasp" in report["findings"][1]["what"]


def test_a_class_folder_without_images_in_the_only_split_that_has_it(photos: Path, tmp_path: Path) -> None:
    (photos / "train/wasp").mkdir()
    status, found, report = check(tmp_path, "dataset=imagenet", f"dataset.root={photos}")
    assert (status, found) == (1, {"different classes": 1, "class without objects": 1})
    assert [report["findings"][1][key] for key in ("split", "what")] == ["train", "wasp has no examples"]


def test_a_label_file_without_its_photo(tmp_path: Path) -> None:
    yolo(root := tmp_path / "data")
    photo(root / "images/val/9.jpg", 77)  # of the other split: it is no photo of the label file's
    for name in ("train/9", "val/9"):
        (root / f"labels/{name}.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    (root / "images/train/phone.heic").touch()
    status, _, report = check(tmp_path, "dataset=yolo", f"dataset.root={root}")
    assert status == 1
    assert unused(report, root) == {
        ("annotation of no image", "train", "labels/train/9.txt"),
        ("image not read", "train", "images/train/phone.heic"),
    }


@pytest.mark.parametrize("roboflow", [True, False])
def test_a_photo_without_its_xml_file(roboflow: bool, tmp_path: Path) -> None:
    root = tmp_path / "data"
    for number, split in enumerate(("train", "valid")):
        for index in range(3):
            folder = root / split if roboflow else root
            photo(folder / f"{split}{index}.jpg", 10 * number + index)
            xml(folder / f"{split}{index}.xml")
    options = ["dataset.classes=[cup]", *([] if roboflow else ["dataset.split=0.2"])]
    arguments = ("dataset=voc", f"dataset.root={root}", *options)
    assert check(tmp_path, *arguments)[:2] == (0, Counter())
    name = "valid/valid1" if roboflow else "valid1"
    (root / f"{name}.xml").unlink()
    status, _, report = check(tmp_path, *arguments)
    assert status == 1
    assert unused(report, root) == {("unlabelled image", "val" if roboflow else "train", f"{name}.jpg")}
    folder = root / "train" if roboflow else root
    (folder / "empty.jpg").write_bytes(b"")
    xml(folder / "empty.xml")
    _, _, report = check(tmp_path / "fix", *arguments, "fix=copy")
    fixed: Any = report["fixed"]
    assert [change["kind"] for change in fixed["changes"]] == ["empty file"]
    assert [(item["kind"], Path(item["file"]).name) for item in fixed["left"]] == [
        ("unlabelled image", f"{Path(name).name}.jpg")
    ]


def test_photos_that_no_coco_file_lists(tmp_path: Path) -> None:
    """The same names in both splits, each with a folder of its own."""
    root = tmp_path / "data"
    for number, split in enumerate(("train", "val")):
        for index in range(3):
            photo(root / f"{split}2017/{index}.jpg", 10 * number + index)
        coco(root, f"instances_{split}2017.json", ["0.jpg", "1.jpg", "2.jpg"])
    arguments = ("dataset=coco", f"dataset.root={root}")
    assert check(tmp_path, *arguments)[:2] == (0, Counter())
    coco(root, "instances_train2017.json", ["0.jpg", "1.jpg"])
    photo(root / "test2017/0.jpg", 70)  # another split's
    status, _, report = check(tmp_path, *arguments)
    assert status == 1
    assert unused(report, root) == {("unlabelled image", "train", "train2017/2.jpg")}
    coco(root, "instances_part.json", ["./2.jpg"])  # wherever its photos are
    (root / "annotations/results.json").write_text("{}")
    assert check(tmp_path, *arguments)[:2] == (0, Counter())


@pytest.mark.parametrize("linked", [False, True])
def test_splits_of_coco_that_share_a_folder(linked: bool, tmp_path: Path) -> None:
    root = tmp_path / "data"
    for index in range(6):
        photo(root / f"images/part/{index}.jpg", index)
    for number, split in enumerate(("train", "val", "test")):
        coco(root, f"{split}.json", [f"part/{2 * number + index}.jpg" for index in range(2)])
        if linked:
            (root / split).symlink_to("images")
    arguments = ("dataset=coco", f"dataset.root={root}")
    assert check(tmp_path, *arguments)[:2] == (0, Counter())
    (root / "annotations/test.json").write_text("{")  # no telling what it lists
    assert check(tmp_path, *arguments)[:2] == (0, Counter())
    (root / "annotations/test.json").unlink()
    status, _, report = check(tmp_path, *arguments)
    assert status == 1
    if not linked:
        lonely = {("unlabelled image", "train, val", f"images/part/{index}.jpg") for index in (4, 5)}
        assert unused(report, root) == lonely


# ---- what cannot be looked at ----


def test_a_split_that_its_reader_refuses(tmp_path: Path) -> None:
    yolo(tmp_path / "data")
    for path in (tmp_path / "data/labels/val").glob("*.txt"):
        path.write_text("")
    status, found, report = check(tmp_path, "dataset=yolo", f"dataset.root={tmp_path / 'data'}")
    assert (status, found) == (1, {"refused": 1})
    assert report["findings"][0]["split"] == "val"
    assert "have no objects of class cup, fork" in report["findings"][0]["what"]
    assert report["images"] == {"train": 4}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dataset=voc", "dataset.root=nowhere"], "nowhere: the data set's root folder does not exist"),
        (["dataset=voc"], "dataset=voc needs dataset.root="),
        (["task=cooking"], "task 'cooking' is unknown; valid: classification, detection, segmentation"),
        (["dataset=imagenet", "dataset.root=.", "task=detection"], "dataset=imagenet offers label, but the task needs"),
        (["model.image_size=0"], "model.image_size"),
        (["outptu=x"], "unknown key outptu; did you mean output?"),
        (["output=file/below"], "file"),
    ],
)
def test_errors(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert main(["check", *arguments]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ")
    assert message in line
    assert {path.name for path in tmp_path.iterdir()} <= {"file", "mnv2vision_home"}


def test_shapes_have_no_files(tmp_path: Path) -> None:
    status, found, report = check(tmp_path, "task=segmentation", "dataset.train_size=150", "dataset.val_size=60")
    assert report["images"] == {"train": 150, "val": 60}
    assert (status, found) == (0, Counter())
