"""What people's folders of VOC's layout are like, after public reports: read right, or refused in one line."""

import logging
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mnv2vision.data.formats.mask_names import MASK_NAMES
from mnv2vision.data.formats.orientation import Orientation
from mnv2vision.data.formats.voc import Voc
from mnv2vision.errors import DataError

WIDTH, HEIGHT = 50, 40


@pytest.fixture(autouse=True)
def _log_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("mnv2vision"), "propagate", True)  # the command line turns it off


def xml(*objects: tuple[str, tuple[float, float, float, float]], difficult: str = "0") -> str:
    parts = [
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{box[0]}</xmin>"
        f"<ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
        for name, box in objects
    ]
    return f"<annotation><size><width>{WIDTH}</width><height>{HEIGHT}</height></size>{''.join(parts)}</annotation>"


def folder_of(root: Path, listed: bytes, names: tuple[str, ...], kind: str = ".png", text: str = "") -> Path:
    """A folder with a photo and a red box for each name, and a list with the given bytes."""
    for name in names:
        for part, ending in (("Annotations", ".xml"), ("JPEGImages", kind)):
            path = root / part / f"{name}{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            if part == "Annotations":
                path.write_text(text or xml(("red", (1, 1, 10, 10))))
            else:
                Image.new("RGB", (WIDTH, HEIGHT), (9, 9, 9)).save(path, format="JPEG" if kind == ".jfif" else None)
    lists = root / "ImageSets/Main"
    lists.mkdir(parents=True, exist_ok=True)
    (lists / "train.txt").write_bytes(listed)
    return root


def refused(*arguments: Any, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        Voc(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("listed", "names"),
    [
        (b"\xef\xbb\xbft0\nt1\n", ("t0", "t1")),
        ("t0\r\nt1\r\n".encode("utf-16"), ("t0", "t1")),
        (b'"t 0"\n"t 1"\n', ("t 0", "t 1")),
        (b"t0.jpg\nt1.jpg\n", ("t0", "t1")),
        (b"photo 0\nphoto 1\nWhatsApp Image 2021-05-01 at 10.11.12\n", ("photo 0", "photo 1",
         "WhatsApp Image 2021-05-01 at 10.11.12")),
        (b"t0  1\nt1 -1\n", ("t0", "t1")),
        (b"photo 0  1\nphoto 1 -1\n", ("photo 0", "photo 1")),
        (b"cam1\\t0\ncam2\\t0.jpg\n", ("cam1/t0", "cam2/t0")),
    ],
    ids=["BOM", "UTF-16", "quoted", "extensions", "spaces", "columns", "spaces and columns", "backslashes"],
)  # fmt: skip
def test_lists(tmp_path: Path, listed: bytes, names: tuple[str, ...]) -> None:
    """bubbliiiing/efficientdet-pytorch#16, yukkyo/voc2coco#4, fengxinjie/Transformer-OCR#8, CVAT's quoted ids."""
    data = Voc(folder_of(tmp_path, listed, names, ".jpg"), "train")
    assert [data[i].image_id for i in range(len(data))] == list(names)


def test_a_list_of_another_encoding(tmp_path: Path) -> None:
    path = folder_of(tmp_path, "t\xe9\n".encode("latin-1"), ("t0",)) / "ImageSets/Main/train.txt"
    assert refused(tmp_path, "train") == f"{path}: byte 1 is not UTF-8: save the list as UTF-8"


@pytest.mark.parametrize("line", [b"a" * 300, b"a/" + b"b" * 300, b"a\0b"])
def test_names_that_no_file_has(tmp_path: Path, line: bytes) -> None:
    path = folder_of(tmp_path, line + b"\n", ("t0",)) / "ImageSets/Main/train.txt"
    assert refused(tmp_path, "train").startswith(f"{path}: ")


@pytest.mark.parametrize("kind", [".bmp", ".webp", ".jfif", ".JPG"])
def test_kinds_of_photos(tmp_path: Path, kind: str) -> None:
    """sovit-123/fasterrcnn-pytorch-training-pipeline#85."""
    folder_of(tmp_path, b"t0\n", ("t0",), ".jfif" if kind == ".jfif" else kind)
    assert Voc(tmp_path, "train")[0].path.endswith(f"t0{kind}")


def test_subfolders_hold_classes(tmp_path: Path) -> None:
    """CVAT's export: the classes of all sub-folders number those of a split."""
    folder_of(tmp_path, b"cam1/t0\n", ("cam1/t0",))
    (tmp_path / "Annotations/cam2").mkdir()
    (tmp_path / "Annotations/cam2/v0.xml").write_text(xml(("blue", (1, 1, 5, 5))))
    assert Voc(tmp_path, "train").names == ("blue", "red")


def test_the_only_year_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder_of(tmp_path / "VOC2007", b"t0\n", ("t0",))
    assert len(Voc(tmp_path, "train")) == 1
    assert "no VOC2012; using VOC2007 instead (dataset.year=2007)" in caplog.text


def test_root_one_level_too_high(tmp_path: Path) -> None:
    folder_of(tmp_path / "devkit/VOC2012", b"t0\n", ("t0",))
    assert f"try dataset.root={tmp_path / 'devkit'}" in refused(tmp_path, "train")


def test_nothing_to_find(tmp_path: Path) -> None:
    """facebookresearch/maskrcnn-benchmark#498: a whole run with an AP of -1."""
    text = f"<annotation><size><width>{WIDTH}</width><height>{HEIGHT}</height></size><item/></annotation>"
    folder_of(tmp_path, b"t0\n", ("t0",), text=text)
    assert "its annotations have no <object>" in refused(tmp_path, "train")


def test_names_of_another_case(tmp_path: Path) -> None:
    """jwyang/faster-rcnn.pytorch#689, dmlc/gluon-cv#609."""
    folder_of(tmp_path, b"t0\n", ("t0",), text=xml(("Red", (1, 1, 9, 9)), ("blue", (2, 2, 5, 5))))
    assert refused(tmp_path, "train", classes=["red", "blue"]).endswith(
        "no object is named red, but some are named Red"
    )


def test_boxes_in_shares(tmp_path: Path) -> None:
    """swatig007/automlForImages#27, ox-vgg/via#3."""
    folder_of(tmp_path, b"t0\n", ("t0",), text=xml(("red", (0.1, 0.2, 0.6, 0.9)), ("red", (0, 0, 1, 1))))
    assert "all 2 boxes are within 0..1" in refused(tmp_path, "train")


@pytest.mark.parametrize(("word", "wanted"), [("1", True), ("True", True), ("Unspecified", False), ("0", False)])
def test_difficult_in_words(tmp_path: Path, word: str, wanted: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Megvii-BaseDetection/YOLOX#1162."""
    easy, hard = ("red", (1, 1, 9, 9)), ("red", (2, 2, 9, 9))
    text = xml(easy, hard).replace("<difficult>0", f"<difficult>{word}").replace(word, "0", 1)
    folder_of(tmp_path, b"t0\n", ("t0",), text=text)
    boxes = Voc(tmp_path, "train")[0].boxes
    assert boxes is not None
    assert boxes.difficult.tolist() == [False, wanted]
    said = "1 objects have a <difficult> other than 0 or 1, read as 0 (object 2 of t0.xml)"
    assert (said in caplog.text) == (word == "Unspecified")


def test_nothing_but_difficult_objects(tmp_path: Path) -> None:
    folder_of(tmp_path, b"t0\n", ("t0",), text=xml(("red", (1, 1, 9, 9)), difficult="1"))
    assert "all 1 objects are marked difficult" in refused(tmp_path, "train")


def test_numbers_are_names(tmp_path: Path) -> None:
    folder_of(tmp_path, b"t0\n", ("t0",), text=xml(("10", (1, 1, 9, 9))))
    assert Voc(tmp_path, "train", classes=[10]).names == ("10",)  # type: ignore[list-item]


def test_vocs_names_for_other_photos_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder_of(tmp_path, b"t0\n", ("t0",), text=xml(("car", (1, 1, 9, 9)), ("person", (1, 1, 9, 9))))
    assert len(Voc(tmp_path, "train").names) == 20
    assert "using VOC's 20 classes; the annotations have only 2 of them (dataset.classes=[car,person])" in caplog.text


def test_objects_keep_their_numbers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder_of(tmp_path, b"t0\n", ("t0",), text=xml(("a", (1, 1, 9, 9)), ("b", (1, 1, 9, 9)), ("b", (9, 9, 1, 1))))
    Voc(tmp_path, "train", classes=["b"])
    assert "1 without area, dropped (object 3 of t0.xml)" in caplog.text


# ---- photos that a camera turned ----


def turned_photo(path: Path, stored: np.ndarray[Any, Any], orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(path, exif=exif)


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("way", ["upright", "stored"])
def test_orientation(tmp_path: Path, orientation: int, way: Orientation, caplog: pytest.LogCaptureFixture) -> None:
    """HumanSignal/labelImg#376, #198: the object's pixels are white, wherever its box and mask are said to be."""
    stored = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    stored[5:15, 10:35] = 255
    upright = stored if way == "stored" else np.zeros((1, 1, 3), np.uint8)
    if way == "upright":
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / "probe.png"
        turned_photo(path, stored, orientation)
        from PIL import ImageOps

        with Image.open(path) as image:
            upright = np.asarray(ImageOps.exif_transpose(image))
    rows, columns = np.nonzero(upright[..., 0])
    box = (columns.min() + 1, rows.min() + 1, columns.max() + 1, rows.max() + 1)
    text = xml(("red", box)).replace(f"<width>{WIDTH}", f"<width>{upright.shape[1]}")
    text = text.replace(f"<height>{HEIGHT}", f"<height>{upright.shape[0]}")
    folder_of(tmp_path, b"t0\n", ("t0",), text=text)
    turned_photo(tmp_path / "JPEGImages/t0.png", stored, orientation)
    for part in ("SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / part).mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("t0\n")
    Image.fromarray((upright[..., 0] > 0).astype(np.uint8)).save(tmp_path / "SegmentationClass/t0.png")

    sample = Voc(tmp_path, "train", orientation=way)[0]
    assert sample.boxes is not None
    x1, y1, x2, y2 = sample.boxes.boxes[0].astype(int)
    assert (sample.image[y1:y2, x1:x2] == 255).all()
    assert np.count_nonzero(sample.image[..., 0]) == (x2 - x1) * (y2 - y1)
    masks = Voc(tmp_path, "train", orientation=way, classes=["background", "thing"], targets=("mask",))
    assert masks[0].mask is not None
    np.testing.assert_array_equal(masks[0].mask == 1, masks[0].image[..., 0] == 255)
    assert "1 of 1 photos have an EXIF orientation" in caplog.text


# ---- masks ----


def masks_of(root: Path, masks: dict[str, Image.Image]) -> Path:
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / part).mkdir(parents=True, exist_ok=True)
    for name, mask in masks.items():
        Image.new("RGB", mask.size, (9, 9, 9)).save(root / f"JPEGImages/{name}.jpg")
        mask.save(root / f"SegmentationClass/{name}.png")
    (root / "ImageSets/Segmentation/train.txt").write_text("".join(f"{name}\n" for name in masks))
    return root


def grey(*values: int) -> Image.Image:
    return Image.fromarray(np.repeat(np.array(values, np.uint8)[None], 4, axis=0))


def test_white_objects(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """open-mmlab/mmsegmentation#1609: masks of 0 and 255, of which 255 is void."""
    masks_of(tmp_path, {"a": grey(0, 0, 0, 255)})
    names = ["background", "object"]
    Voc(tmp_path, "train", classes=names, targets=("mask",))
    assert "no pixel of object in the 1 masks; 25% of the pixels are 255, void" in caplog.text
    mask = Voc(tmp_path, "train", classes=names, colors=[[0, 0, 0], [255, 255, 255]], targets=("mask",))[0].mask
    assert mask is not None
    assert mask[0].tolist() == [0, 0, 0, 1]


def test_names_are_asked_for(tmp_path: Path) -> None:
    """Street scenes with labels of their own, whose sky would be background and whose road a bird."""
    masks_of(tmp_path, {"street_1": grey(0, 1, 2, 11)})
    message = refused(tmp_path, "train", targets=("mask",))
    assert "the classes of its masks are unknown (their values: 0, 1, 2, 11): give dataset.classes=[...]" in message
    (tmp_path / "classes.txt").write_text("\ufeffsky\nbuilding\npole\n" + "\n".join(map(str, range(9))) + "\n")
    assert Voc(tmp_path, "train", targets=("mask",)).names[:3] == ("sky", "building", "pole")


def test_names_and_colours_of_a_labelmap(tmp_path: Path) -> None:
    picture = Image.new("RGB", (4, 4), (0, 0, 0))
    picture.putpixel((1, 2), (51, 221, 255))
    masks_of(tmp_path, {"a": picture})
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\nsky:51,221,255::\n")
    data = Voc(tmp_path, "train", targets=("mask",))
    assert data.names == ("background", "sky")
    assert data[0].mask is not None
    assert np.argwhere(data[0].mask == 1).tolist() == [[2, 1]]


def test_vocs_own_names(tmp_path: Path) -> None:
    masks_of(tmp_path, {"2007_000032": grey(0, 15)})
    assert Voc(tmp_path, "train", targets=("mask",)).names == MASK_NAMES


def test_a_mask_of_false_size_is_refused_unread(tmp_path: Path) -> None:
    masks_of(tmp_path, {"2007_000032": grey(0, 1)})
    path = tmp_path / "SegmentationClass/2007_000032.png"
    content = path.read_bytes()
    header = b"IHDR" + struct.pack(">2I", 30_000, 30_000) + content[24:29]
    path.write_bytes(content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:])
    data = Voc(tmp_path, "train", targets=("mask",))
    with pytest.raises(DataError, match="900000000 pixels"):
        data[0]
