"""YOLO's layouts as ultralytics, Roboflow, CVAT and labelImg write them; mistakes are named with file and line."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mnv2vision.data.formats.yolo import Yolo
from mnv2vision.errors import DataError

WIDTH, HEIGHT = 50, 40
RED = "0 0.2 0.25 0.2 0.25"  # (5, 5) to (15, 15) of 50 x 40


@pytest.fixture(autouse=True)
def _log_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("mnv2vision"), "propagate", True)  # the command line turns it off


def photo(path: Path, orientation: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (WIDTH, HEIGHT), (9, 9, 9)).save(path, exif=exif)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def folder_of(root: Path, labels: dict[str, str | None], description: str = "") -> Path:
    """Ultralytics' layout: images/train and labels/train, with a label file where it is not None."""
    for name, text in labels.items():
        photo(root / f"images/train/{name}.png")
        if text is not None:
            write(root / f"labels/train/{name}.txt", text)
    write(root / "data.yaml", description or "train: images/train\nval: images/train\nnames: [red, blue]\n")
    return root


def boxes(data: Yolo, index: int = 0) -> list[list[float]]:
    found = data[index].boxes
    assert found is not None
    corners: list[list[float]] = found.boxes.tolist()
    return corners


def refused(*arguments: Any, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        Yolo(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- layouts ----


@pytest.mark.parametrize(
    ("description", "images", "labels"),
    [
        ("path: .\ntrain: images/train\nnames: {0: red, 1: blue}", "images/train", "labels/train"),
        ("train: [images/a, images/b]\nnames: [red, blue]", "images/b", "labels/b"),
        (
            "train: ../train/images\nnc: 2\nnames: ['red', 'blue']\nroboflow: {version: 1}",
            "train/images",
            "train/labels",
        ),
        ("path: /content/coins\ntrain: images/train\nnames: [red, blue]", "images/train", "labels/train"),
        ("train: /content/coins/train/images\nnames: [red, blue]", "train/images", "train/labels"),
        ("path: ./\ntrain: train.txt\nnames: {0: red, 1: blue}", "images/train", "labels/train"),
        ("names: [red, blue]", "train/images", "train/labels"),
        ("names: [red, blue]", "images/train", "labels/train"),
        ("train: photos\nnames: [red, blue]", "photos", "photos"),
    ],
    ids=["ultralytics", "several", "Roboflow", "path elsewhere", "absolute", "CVAT", "bare", "bare 2", "beside"],
)
def test_layouts(tmp_path: Path, description: str, images: str, labels: str) -> None:
    write(tmp_path / "data.yaml", description)
    photo(tmp_path / f"{images}/t0.png")
    photo(tmp_path / f"{images}/below/t1.png")
    write(tmp_path / f"{labels}/t0.txt", RED)
    write(tmp_path / f"{labels}/below/t1.txt", f"{RED}\n1 .5 .5 .5 .5\n")
    write(tmp_path / "train.txt", f"./{images}/below/t1.png\n{images}/t0.png\n")
    (tmp_path / "images/a").mkdir(parents=True, exist_ok=True)
    photo(tmp_path / "images/a/x.png")
    data = Yolo(tmp_path, "train")
    assert (data.names, data.protocol) == (("red", "blue"), "coco")
    found = {str(data[i].image_id): boxes(data, i) for i in range(len(data))}
    assert found[f"{images}/t0.png"] == [[5, 5, 15, 15]]
    assert found[f"{images}/below/t1.png"] == [[5, 5, 15, 15], [12.5, 10, 37.5, 30]]
    assert len(Yolo(tmp_path / "data.yaml", "train")) == len(data)


def test_valid_is_val(tmp_path: Path) -> None:
    """Roboflow's exports."""
    for split in ("train", "valid", "test"):
        photo(tmp_path / f"{split}/images/{split}.png")
        write(tmp_path / f"{split}/labels/{split}.txt", RED)
    write(tmp_path / "data.yaml", "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnames: [red]\n")
    assert [Yolo(tmp_path, split)[0].image_id for split in ("val", "test")] == [
        "valid/images/valid.png",
        "test/images/test.png",
    ]
    write(tmp_path / "data.yaml", "names: [red]\n")
    assert Yolo(tmp_path, "val")[0].image_id == "valid/images/valid.png"


def test_names_are_as_typed(tmp_path: Path) -> None:
    """YAML would take them for a truth value and for the number 1."""
    root = folder_of(tmp_path, {"t0": RED}, "train: images/train\nnames: [no, 01]\n")
    assert Yolo(root, "train").names == ("no", "01")
    (root / "data.yaml").unlink()
    write(root / "classes.txt", "hot dog\n salad\n\n")  # labelImg's, and Label Studio's
    assert Yolo(root, "train").names == ("hot dog", "salad")


def test_classes_are_selected(tmp_path: Path) -> None:
    root = folder_of(tmp_path, {"t0": f"{RED}\n1 .5 .5 .5 .5"})
    data = Yolo(root, "train", classes=["blue"], targets=("boxes", "mask"))
    sample = data[0]
    assert (data.names, data.mask_names) == (("blue",), ("background", "blue"))
    assert sample.boxes is not None
    assert (sample.boxes.boxes.tolist(), sample.boxes.labels.tolist()) == ([[12.5, 10, 37.5, 30]], [0])
    assert set(np.unique(sample.mask).tolist()) == {0, 1}  # type: ignore[arg-type]


# ---- objects ----


def test_images_without_objects_stay(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = Yolo(folder_of(tmp_path, {"t0": None, "t1": "", "t2": RED, "t3": None, "t4": f"\n{RED}\n"}), "train")
    assert [len(boxes(data, i)) for i in range(5)] == [0, 0, 1, 0, 1]
    assert "2 of 5 images have no label file, and no objects then: t0.png, t3.png" in caplog.text


def test_a_polygon_is_painted_and_boxed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A triangle of whole pixels, and a rectangle without an outline in front, for it is smaller."""
    triangle = "1 0.2 0.25 0.8 0.25 0.2 0.75"  # (10, 10), (40, 10), (10, 30)
    data = Yolo(folder_of(tmp_path, {"t0": f"{triangle}\n{RED}"}), "train", targets=("boxes", "mask"))
    sample = data[0]
    assert sample.boxes is not None
    assert sample.mask is not None
    assert sample.boxes.boxes.tolist() == [[10, 10, 40, 30], [5, 5, 15, 15]]
    assert sample.boxes.areas is not None
    assert sample.boxes.areas.tolist() == [300, 100]
    assert (sample.mask == 1).sum() == 100
    assert (sample.mask[5:15, 5:15] == 1).all()
    rows, columns = np.nonzero(sample.mask == 2)
    assert abs(len(rows) - (300 - 25)) <= 20  # the rectangle hides 25 of it; COCO's rule of edges
    assert ((rows - 10) / 20 + (columns - 10) / 30 <= 1.0).all()
    assert "1 objects without an outline, painted as their boxes (line 2 of t0.txt)" in caplog.text


def test_six_decimals_give_whole_pixels(tmp_path: Path) -> None:
    """As COCO and VOC have them, whatever the division left over."""
    lines, expected = [], []
    for number in range(1, 30):
        x1, y1, x2, y2 = number, number // 2, number + 7 + number % 3, 30 + number % 11
        expected.append([x1, y1, x2, y2])
        shares = ((x1 + x2) / 2 / WIDTH, (y1 + y2) / 2 / HEIGHT, (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT)
        lines.append("0 " + " ".join(f"{share:.6f}" for share in shares))
    assert boxes(Yolo(folder_of(tmp_path, {"t0": "\n".join(lines)}), "train")) == expected
    thin = f"0 0.5 0.5 {0.005 / WIDTH:.6f} 0.5"
    found = boxes(Yolo(folder_of(tmp_path / "thin", {"t0": thin}), "train"))[0]
    assert 0 < found[2] - found[0] < 0.01


@pytest.mark.parametrize(("orientation", "expected"), [("upright", [4, 6.25, 12, 18.75]), ("stored", [25, 5, 35, 15])])
def test_turned_photos(
    tmp_path: Path, orientation: Any, expected: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    """Stored 50 x 40, shown 40 x 50: turned clockwise, the stored top left is at the top right."""
    root = folder_of(tmp_path, {"t0": RED})
    photo(root / "images/train/t0.png", orientation=6)
    assert boxes(Yolo(root, "train", orientation=orientation))[0] == expected
    assert "1 of 1 photos have an EXIF orientation" in caplog.text


def test_what_is_dropped_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = (RED, RED, "0 .5 .5 0 .5", "0 .9 .5 .4 .5", "1 1.5 .5 .2 .2", "0 nan .5 .2 .2", "1 .5 .5 .2 .2")
    root = folder_of(tmp_path, {"t0": "\n".join(lines)})
    write(root / "labels/train/other.txt", RED)
    for _ in range(2):  # read, then from the cache
        caplog.clear()
        data = Yolo(root, "train")
        assert boxes(data) == [[5, 5, 15, 15], [35, 10, 50, 30], [20, 16, 30, 24]]
        text = caplog.text
        assert "1 lines that repeat another one, dropped (line 2 of t0.txt)" in text
        assert (
            "of 6 boxes, 1 not finite, dropped (line 6 of t0.txt); 1 without area, dropped (line 3 of t0.txt)" in text
        )
        assert "1 outside the image, dropped (line 5 of t0.txt)" in text
        assert "1 reaching beyond the image, clipped (line 4 of t0.txt)" in text
        assert "1 label files have no image, and are not read: other.txt" in text


def test_a_class_without_objects_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Yolo(folder_of(tmp_path, {"t0": RED}), "train")
    assert "1 of 2 categories have no objects: blue" in caplog.text


# ---- refused ----


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 .5 .5 .2 .2", "1 objects have a class that (line 2 of t0.txt) is none of the ids 0 to 1 (red, blue)"),
        ("-1 .5 .5 .2 .2", "labels/train/t0.txt: line 2: -1 is not the id of a class"),
        ("0.5 .5 .5 .2 .2", "line 2: 0.5 is not the id of a class"),
        ("red .5 .5 .2 .2", "line 2: 'red' is not a number"),
        ("0,0.5,0.5,0.2,0.2", "line 2: '0,0.5,0.5,0.2,0.2' is not a number"),
        ("0 320 240 50 60", "line 2: 320 is not within 0..1: in pixels? Expected shares of the image"),
        ("0 .5 .5 .2", "line 2: has 4 columns; a box has 5 (class x y width height), a polygon 7 or more"),
        ("0 .5 .5 .2 .2 0.97", "line 2: has 6 columns"),
        ("0 .1 .1 .2 .2 .3 .3 .4", "line 2: has 8 columns"),
    ],
)
def test_a_wrong_line(tmp_path: Path, line: str, message: str) -> None:
    assert message in refused(folder_of(tmp_path, {"t0": f"{RED}\n{line}"}), "train")


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("train: images/train", "data.yaml: needs names, a list of class names, or a mapping of ids to names"),
        ("names: []", "data.yaml: needs names"),
        ("names: [red, red]", "data.yaml: several classes are named red"),
        ("names: {1: red, 2: blue}", "data.yaml: names has the id 2, but ids are 0 to 1, as there are 2"),
        ("names: [red]\nnc: 2", "data.yaml: nc is 2, but there are 1 names"),
        ("names: [red]\nkpt_shape: [17, 3]", "data.yaml: has kpt_shape: key points are not read"),
        ("names: [red", "data.yaml: is not valid YAML"),
        ("- red", "data.yaml: expected names, train and val"),
        ("names: [red]\ntrain: photos\ntest: images/train", "data.yaml: no split 'val'; it has train, test"),
        ("names: [red]\nval: photos", "data.yaml: photos: no such folder or list in"),
        ("names: [red]\nval: list.txt", "list.txt: images/train/none.png: no such image"),
        ("names: [red]\nval: [images/train, images/train]", "data.yaml: the split val has images twice: "),
        ("names: [red]\nval: labels/train", "labels/train: no images (.jpg"),
    ],
)
def test_a_wrong_description(tmp_path: Path, description: str, message: str) -> None:
    root = folder_of(tmp_path, {"t0": RED}, description)
    write(root / "list.txt", "images/train/t0.png\nimages/train/none.png\n")
    assert message in refused(root, "val")


def test_a_wrong_folder(tmp_path: Path) -> None:
    assert refused(tmp_path / "none", "train").endswith("none: the data set's root folder does not exist")
    assert "data.yaml: no such file, nor classes.txt" in refused(tmp_path, "train")
    root = folder_of(tmp_path, {"t0": None})
    assert "none of 1 images has a label file, such as" in refused(root, "train")
    write(root / "labels/train/t0.txt", "")
    assert "its 1 images have no objects of class red, blue" in refused(root, "train")
    photo(root / "images/train/t0.jpg")
    assert "t0.png have the same label file" in refused(root, "train")
    (root / "data.yaml").rename(root / "a.yaml")
    write(root / "b.yml", "names: [red]")
    assert "has a.yaml, b.yml: give one of them, dataset.root=" in refused(root, "train")


def test_the_index_follows_the_files(tmp_path: Path) -> None:
    root = folder_of(tmp_path, {"t0": RED, "t1": RED})
    assert len(boxes(Yolo(root, "train"))) == 1
    write(root / "labels/train/t0.txt", f"{RED}\n1 .5 .5 .5 .5\n")
    assert len(boxes(Yolo(root, "train"))) == 2
    (root / "labels/train/t0.txt").unlink()
    data = Yolo(root, "train")
    assert (boxes(data, 0), boxes(data, 1)) == ([], [[5, 5, 15, 15]])
