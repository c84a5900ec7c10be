"""A mended copy: faults planted in each layout are gone from it, all else is there, and the original is as it was."""

import hashlib
import json
import os
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from mnv2vision.cli.main import main
from mnv2vision.data.formats.coco import Coco
from mnv2vision.data.formats.imagenet import ImageNet
from mnv2vision.data.formats.voc import Voc
from mnv2vision.data.formats.yolo import Yolo

pytestmark = pytest.mark.slow

WIDTH, HEIGHT = 96, 64
NAN = float("nan")
GOOD = ("cup", 10.0, 8.0, 50.0, 40.0)
ALSO = ("fork", 60.0, 20.0, 90.0, 60.0)
MENDED = {
    *("missing file", "empty file", "not an image", "unreadable image", "copy", "leak"),
    *("box not finite", "box without area", "box outside the image", "box reaching beyond the image", "box copied"),
}

Box = tuple[str, float, float, float, float]
"""Class, and x1, y1, x2, y2 in pixels counted from 0."""


class Photo(NamedTuple):
    """An image of a made data set; `after` is what the copy has of its boxes, None where it has no such image."""

    split: str
    name: str
    boxes: list[Box]
    after: list[Box] | None
    fault: str = ""
    same_as: str = ""


PHOTOS = [
    Photo("train", "plain", [GOOD, ALSO], [GOOD, ALSO]),
    Photo("train", "turned", [GOOD], [GOOD], "turned"),
    Photo("train", "empty", [GOOD], None, "empty"),
    Photo("train", "page", [GOOD], None, "page"),
    Photo("train", "cut", [GOOD], None, "cut"),
    Photo("val", "cut_val", [GOOD], None, "cut"),
    Photo("train", "twin1", [GOOD], [GOOD]),
    Photo("train", "twin2", [GOOD], None, same_as="twin1"),
    Photo("train", "unlike1", [GOOD], [GOOD]),
    Photo("train", "unlike2", [ALSO], [ALSO], same_as="unlike1"),
    Photo("val", "known", [GOOD, ALSO], [GOOD, ALSO]),
    Photo("train", "leaked", [GOOD, ALSO], None, same_as="known"),
    Photo("train", "beyond", [("cup", 50, 10, 130, 40), ALSO], [("cup", 50, 10, WIDTH, 40), ALSO]),
    Photo("train", "outside", [GOOD, ("cup", 120, 10, 150, 40)], [GOOD]),
    Photo("val", "flat", [GOOD, ("cup", 30, 10, 30, 40)], [GOOD]),
    Photo("train", "nan", [("cup", NAN, 10, 30, 40), ALSO], [ALSO]),
    Photo("train", "twice", [GOOD, ("cup", 10, 8, 51, 40), ALSO], [GOOD, ALSO]),
    Photo("train", "two", [GOOD, ("fork", *GOOD[1:])], [GOOD, ("fork", *GOOD[1:])]),  # a person decides
]
MISSING = Photo("train", "missing", [GOOD], None, "missing")
LEFT = {"turned by EXIF", "copy", "box of two classes"}
"""Kinds that stay: the one copy has other annotations."""


def draw(photo: Photo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = int(hashlib.sha256((photo.same_as or photo.name).encode()).hexdigest()[:8], 16)
    cells = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    picture = Image.fromarray(cells).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    if photo.fault == "turned":
        exif[0x0112] = 3
    picture.save(path, quality=95, exif=exif)
    content = path.read_bytes()
    change = {"empty": b"", "page": b"<html></html>", "cut": content[: len(content) // 2]}
    path.write_bytes(change.get(photo.fault, content))
    if photo.fault == "missing":
        path.unlink()


def state(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def mend(root: Path, output: Path, *arguments: str) -> dict[str, list[dict[str, str]]]:
    """Look and mend; the original stays, and what is said to be left is what another look finds."""
    before = state(root)
    assert main(["check", f"dataset.root={root}", *arguments, "fix=copy", f"output={output}"]) == 1
    assert state(root) == before
    report = json.loads((output / "check.json").read_text())
    found = {finding["kind"] for finding in report["findings"]}
    fixed: dict[str, list[dict[str, str]]] = report["fixed"]
    assert {change["kind"] for change in fixed["changes"]} == found & MENDED
    again = output / "again"
    main(["check", *arguments, f"dataset.root={output / 'fixed'}", f"output={again}"])
    assert json.loads((again / "check.json").read_text())["findings"] == fixed["left"]
    assert "The mended copy" in (output / "check.html").read_text()
    assert not list(output.glob(".*"))
    return fixed


def left(fixed: dict[str, list[dict[str, str]]]) -> set[str]:
    return {finding["kind"] for finding in fixed["left"]}


def assert_boxes(sources: dict[str, Coco | Voc | Yolo], photos: list[Photo]) -> None:
    """The samples of a copy are those that should be there, with their boxes."""
    for split, source in sources.items():
        expected = {photo.name: photo.after for photo in photos if photo.split == split and photo.after is not None}
        samples = {Path(sample.path).stem: sample for sample in map(source.__getitem__, range(len(source)))}
        assert samples.keys() == expected.keys()
        for name, boxes in expected.items():
            own = samples[name].boxes
            assert own is not None
            assert [source.names[label] for label in own.labels] == [box[0] for box in boxes]
            np.testing.assert_allclose(own.boxes, [box[1:] for box in boxes], atol=1e-3)


# ---- layouts ----


def test_voc(tmp_path: Path) -> None:
    root, photos = tmp_path / "VOCdevkit", [*PHOTOS, MISSING]
    folder = root / "VOC2012"
    (folder / "Annotations").mkdir(parents=True)
    (folder / "ImageSets/Main").mkdir(parents=True)
    for photo in photos:
        draw(photo, folder / f"JPEGImages/{photo.name}.jpg")
        objects = ""
        for name, x1, y1, x2, y2 in photo.boxes:
            sides = {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": x2, "ymax": y2}
            box = "".join(f"<{key}>{'' if side != side else int(side)}</{key}>" for key, side in sides.items())
            objects += f"<object><name>{name}</name><pose>Left</pose><bndbox>{box}</bndbox></object>\n"
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
        text = f"<annotation><!-- by hand --><owner>Ada</owner>{size}{objects}</annotation>"
        (folder / f"Annotations/{photo.name}.xml").write_text(text)
    for name in ("train", "val", "trainval"):
        listed = [photo.name for photo in photos if photo.split in name]
        if name == "train":
            listed.append("known")  # a file that val has, too: it goes from this list alone
        (folder / f"ImageSets/Main/{name}.txt").write_text("".join(f"{photo}\n" for photo in listed))
    fixed = mend(root, tmp_path / "out", "dataset=voc")
    assert left(fixed) == LEFT
    mended = tmp_path / "out/fixed"
    sources = {split: Voc(mended, split) for split in ("train", "val")}
    assert_boxes(dict(sources), photos)
    kept = {photo.name for photo in photos if photo.after is not None}
    assert set((mended / "VOC2012/ImageSets/Main/trainval.txt").read_text().split()) == kept
    assert {path.stem for path in (mended / "VOC2012/Annotations").iterdir()} == kept
    assert {path.stem for path in (mended / "VOC2012/JPEGImages").iterdir()} == kept
    assert os.path.samefile(mended / "VOC2012/JPEGImages/plain.jpg", folder / "JPEGImages/plain.jpg")
    # What is mended keeps all else, and is not the file of the original; what is not is the same to the byte.
    tree = ElementTree.parse(mended / "VOC2012/Annotations/beyond.xml").getroot()
    assert (tree.findtext("owner"), tree.findtext("object/pose")) == ("Ada", "Left")
    assert "<!-- by hand -->" in (mended / "VOC2012/Annotations/beyond.xml").read_text()
    assert [tree.findtext(f"object/bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")] == [
        "51",
        "11",
        "96",
        "40",
    ]
    same = Path("VOC2012/Annotations/two.xml")
    assert (mended / same).read_bytes() == (root / same).read_bytes()


def test_voc_stored_boxes_of_a_turned_photo(tmp_path: Path) -> None:
    """A photo of 64 x 96, stored as 96 x 64: boxes end with the stored pixels."""
    root = tmp_path / "VOC2012"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    for seed, name in enumerate(("train", "val")):
        cells = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(cells).save(root / f"JPEGImages/{name}.jpg", exif=exif)
        box = "<bndbox><xmin>50</xmin><ymin>11</ymin><xmax>130</xmax><ymax>60</ymax></bndbox>"
        text = f"<annotation><object><name>cup</name>{box}</object></annotation>"
        (root / f"Annotations/{name}.xml").write_text(text)
        (root / f"ImageSets/Main/{name}.txt").write_text(name)
    fixed = mend(root, tmp_path / "out", "dataset=voc", "dataset.orientation=stored")
    assert left(fixed) == {"turned by EXIF"}
    tree = ElementTree.parse(tmp_path / "out/fixed/Annotations/train.xml").getroot()
    assert [tree.findtext(f"object/bndbox/{key}") for key in ("xmin", "xmax", "ymax")] == ["50", "96", "60"]


def test_voc_masks(tmp_path: Path) -> None:
    root = tmp_path / "VOC2012"
    for folder in ("SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    photos = [photo for photo in PHOTOS if not photo.boxes or photo.after in (None, photo.boxes)]
    for photo in photos:
        draw(photo, root / f"JPEGImages/{photo.name}.jpg")
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[: 20 if photo.name == "unlike2" else 30, 10:60] = 1
        Image.fromarray(mask).save(root / f"SegmentationClass/{photo.name}.png")
    for split in ("train", "val"):
        names = [photo.name for photo in photos if photo.split == split]
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(names))
    options = ["dataset=voc", "task=segmentation", "dataset.classes=[background,cup]", "model.image_size=320"]
    fixed = mend(root, tmp_path / "out", *options)
    assert left(fixed) == {"turned by EXIF", "copy"}
    for split in ("train", "val"):
        expected = {photo.name for photo in photos if photo.split == split and photo.after is not None}
        source = Voc(tmp_path / "out/fixed", split, targets=["mask"], classes=["background", "cup"])
        assert {str(source.image_id(index)) for index in range(len(source))} == expected
    kept = {photo.name for photo in photos if photo.after is not None}
    assert {path.stem for path in (tmp_path / "out/fixed/SegmentationClass").iterdir()} == kept


def test_voc_without_lists(tmp_path: Path) -> None:
    root = tmp_path / "coins"
    for photo in PHOTOS:
        place = root / photo.split / f"{photo.name}.jpg"
        draw(photo, place)
        objects = "".join(
            f"<object><name>{name}</name><bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax>"
            f"<ymax>{y2}</ymax></bndbox></object>"
            for name, x1, y1, x2, y2 in photo.boxes
        )
        place.with_suffix(".xml").write_text(f"<annotation>{objects}</annotation>")
    assert left(mend(root, tmp_path / "out", "dataset=voc")) == LEFT
    assert_boxes({split: Voc(tmp_path / "out/fixed", split) for split in ("train", "val")}, PHOTOS)


def test_coco(tmp_path: Path) -> None:
    root, photos = tmp_path / "coco", [*PHOTOS, MISSING]
    (root / "annotations").mkdir(parents=True)
    categories = [{"id": 3, "name": "cup", "supercategory": "kitchen"}, {"id": 7, "name": "fork"}]
    for split in ("train", "val"):
        own = [photo for photo in photos if photo.split == split]
        images, annotations = list[dict[str, object]](), list[dict[str, object]]()
        for number, photo in enumerate(own, 100):
            draw(photo, root / split / f"{photo.name}.jpg")
            size = {"width": WIDTH, "height": HEIGHT}
            images.append({"id": number, "file_name": f"{photo.name}.jpg", **size, "license": 4})
            for name, x1, y1, x2, y2 in photo.boxes:
                box = [x1, y1, x2 - x1, y2 - y1]
                area = box[2] * box[3]
                label = {"cup": 3, "fork": 7}[name]
                entry = {"id": len(annotations), "image_id": number, "category_id": label, "bbox": box, "area": area}
                annotations.append({**entry, "iscrowd": 0, "score": 0.5})
        # One without a box, which its outline gives, and a crowd, which is no copy of an object.
        outline = [[70.0, 5.0, 80.0, 5.0, 80.0, 15.0, 70.0, 15.0]]
        annotations.append({"id": 900, "image_id": 100, "category_id": 7, "area": 100, "segmentation": outline})
        annotations.append({**annotations[0], "id": 901, "iscrowd": 1})
        content = {"info": {"by": "Ada"}, "images": images, "annotations": annotations, "categories": categories}
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    fixed = mend(root, tmp_path / "out", "dataset=coco")
    assert left(fixed) == LEFT
    mended = tmp_path / "out/fixed"
    assert photos[0].after is not None
    expected = [photos[0]._replace(after=[*photos[0].after, ("fork", 70.0, 5.0, 80.0, 15.0), GOOD]), *photos[1:]]
    assert_boxes({split: Coco(mended, split) for split in ("train", "val")}, expected)
    content = json.loads((mended / "annotations/instances_train.json").read_text())
    assert (content["info"], content["categories"]) == ({"by": "Ada"}, categories)
    assert {image["license"] for image in content["images"]} == {4}
    (clipped,) = [entry for entry in content["annotations"] if entry.get("bbox") == [50, 10, WIDTH - 50, 30]]
    assert (clipped["area"], clipped["score"]) == ((WIDTH - 50) * 30, 0.5)
    assert not (mended / "train/twin2.jpg").exists()


@pytest.mark.parametrize("lists", [False, True])
def test_yolo(tmp_path: Path, lists: bool) -> None:
    root = tmp_path / "coins"
    for photo in PHOTOS:
        draw(photo, root / f"images/{photo.split}/{photo.name}.jpg")
        lines = []
        for name, x1, y1, x2, y2 in photo.boxes:
            sides = ((x1 + x2) / 2 / WIDTH, (y1 + y2) / 2 / HEIGHT, (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT)
            lines.append(f"{['cup', 'fork'].index(name)} {' '.join(map(str, sides))}\n")
        place = root / f"labels/{photo.split}/{photo.name}.txt"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("".join(lines))
    entries = {split: f"{split}.txt" if lists else f"images/{split}" for split in ("train", "val")}
    (root / "data.yaml").write_text(
        f"path: {root}  # here\ntrain: {entries['train']}\nval: {entries['val']}\nnames: [cup, fork]\nowner: Ada\n"
    )
    for split in entries if lists else ():
        own = [photo for photo in PHOTOS if photo.split == split]
        whole = [f"{root}/images/{split}/{photo.name}.jpg\n" for photo in own]
        (root / f"{split}.txt").write_text("".join(whole))
    assert left(mend(root, tmp_path / "out", "dataset=yolo")) == LEFT
    mended = tmp_path / "out/fixed"
    sources = {split: Yolo(mended, split) for split in ("train", "val")}
    assert all(source.path(0).startswith(f"{mended}{os.sep}") for source in sources.values())
    assert_boxes(dict(sources), PHOTOS)
    assert "owner: Ada" in (mended / "data.yaml").read_text()
    same = Path("labels/train/plain.txt")
    assert (mended / same).read_bytes() == (root / same).read_bytes()
    assert not (mended / "labels/train/twin2.txt").exists()


def test_class_folders(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    for photo in PHOTOS:
        draw(photo, root / photo.split / "Cup" / f"{photo.name}.jpg")
        draw(
            photo._replace(name=f"{photo.name}2", same_as="", fault=""),
            root / photo.split / "cup" / f"{photo.name}.jpg",
        )
    one = Photo("train", "one", [], None)
    for name in ("Cup", "cup"):  # of which class, a person decides
        draw(one, root / "train" / name / "one.jpg")
    (root / "notes.md").write_text("by Ada")
    fixed = mend(root, tmp_path / "out", "dataset=imagenet")
    assert left(fixed) == {"turned by EXIF", "copy", "copies of two classes", "class names alike"}
    mended = tmp_path / "out/fixed"
    assert (mended / "notes.md").read_text() == "by Ada"
    expected = {photo.name for photo in PHOTOS if photo.split == "train" and photo.after is not None}
    expected = expected - {"unlike2"} | {"one"}  # a copy, as there are no boxes
    source = ImageNet(mended, "train", classes=["Cup"])
    assert {Path(source.path(index)).stem for index in range(len(source))} == expected


# ---- refusals ----


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["check", "fix=copy", *arguments]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "fix=copy" in line]
    return line


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for photo in PHOTOS[:2]:
        for split in ("train", "val"):
            draw(photo, tmp_path / "photos" / split / "cup" / f"{photo.name}{split}.jpg")
    root = f"dataset.root={tmp_path / 'photos'}"
    assert "dataset=shapes has no files" in refused(capsys, "dataset=shapes", f"output={tmp_path / 'a'}")
    assert "lies in dataset.root" in refused(capsys, "dataset=imagenet", root, f"output={tmp_path / 'photos/check'}")
    (tmp_path / "b/fixed").mkdir(parents=True)
    assert "is there already" in refused(capsys, "dataset=imagenet", root, f"output={tmp_path / 'b'}")
    assert not (tmp_path / "a").exists()


def test_images_elsewhere_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "coins"
    for split in ("train", "val"):
        draw(PHOTOS[0]._replace(name=split), tmp_path / f"images/{split}.jpg")
        (tmp_path / f"images/{split}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    root.mkdir()
    (root / "data.yaml").write_text("train: ../images/train.jpg\nval: ../images/val.jpg\nnames: [cup]\n")
    line = refused(capsys, "dataset=yolo", f"dataset.root={root}", f"output={tmp_path / 'out'}")
    assert "lies outside of dataset.root" in line
    assert (tmp_path / "out/check.json").exists()  # what was found is told
    assert not (tmp_path / "out/fixed").exists()


def test_without_anything_to_mend(tmp_path: Path) -> None:
    for photo in PHOTOS[:2]:
        for split in ("train", "val"):
            draw(photo._replace(name=photo.name + split), tmp_path / "photos" / split / "cup" / f"{photo.name}.jpg")
    out = tmp_path / "out"
    assert main(["check", "dataset=imagenet", f"dataset.root={tmp_path / 'photos'}", "fix=copy", f"output={out}"]) == 1
    report = json.loads((out / "check.json").read_text())
    assert {finding["kind"] for finding in report["findings"]} == {"turned by EXIF"}
    assert "fixed" not in report
    assert not (out / "fixed").exists()
