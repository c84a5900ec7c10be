"""The command check: faults planted by hand in copies of real and made data are found, each as what it is."""

import io
import json
import shutil
import subprocess
from base64 import b64decode
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from mnv2vision.cli.main import main
from mnv2vision.data.check.finding import KINDS

pytestmark = pytest.mark.slow

# What the data set itself has, by md5sum and by eye: the same file twice or the same photo at another size, one of
# them in both splits.
COPIES = {("copy", "52", "74"), ("copy", "65", "98"), ("copy", "83", "120"), ("copy", "11", "116")}
NEAR = {("near copy", "50", "52"), ("near leak", "45", "21")}
WITHOUT_COPIES = ("50", "74", "98", "120", "116", "21")


def check(*arguments: str, output: Path) -> tuple[int, dict[str, list[dict[str, str]]]]:
    status = main(["check", *arguments, f"output={output}"])
    return status, json.loads((output / "check.json").read_text(encoding="utf-8"))


class Page(HTMLParser):
    """Which tags are open, how many pictures there are, and what the page wants from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.pictures: list[str] = []
        self.outside: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data", "action"):
                assert value is not None
                if tag == "img" and value.startswith("data:image/jpeg;base64,"):
                    self.pictures.append(value)
                elif not value.startswith("#"):
                    self.outside.append(value)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page_of(output: Path) -> Page:
    text = (output / "check.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert page.outside == []
    assert "url(" not in text
    assert "@import" not in text
    assert "<script" not in text
    assert len(text) < 5e6
    return page


# ---- raccoons ----


@pytest.fixture
def raccoons(shared: Path, tmp_path: Path) -> Path:
    """A copy of the raccoons without the six photos that are there twice."""
    root = tmp_path / "VOCdevkit"
    shutil.copytree(shared / "data/raccoon/VOCdevkit", root, copy_function=shutil.copyfile)
    for name in ("train", "val", "trainval"):
        path = root / f"VOC2012/ImageSets/Main/{name}.txt"
        kept = [line for line in path.read_text().split() if line.removeprefix("raccoon-") not in WITHOUT_COPIES]
        path.write_text("\n".join(kept) + "\n")
    return root


def test_raccoons_as_they_are(shared: Path, tmp_path: Path) -> None:
    status, report = check("dataset=voc", f"dataset.root={shared}/data/raccoon/VOCdevkit", output=tmp_path / "out")
    found = report["findings"]
    assert status == 1
    assert {finding["kind"] for finding in found} == {"copy", "near copy", "near leak"}
    for kind, one, other in COPIES | NEAR:
        (finding,) = (item for item in found if item["kind"] == kind and item["file"].endswith(f"raccoon-{one}.jpg"))
        assert f"raccoon-{other}.jpg" in finding["what"]
    assert len(found) == len(COPIES | NEAR)


def test_raccoons_without_copies(raccoons: Path, tmp_path: Path) -> None:
    status, report = check("dataset=voc", f"dataset.root={raccoons}", output=tmp_path / "out")
    assert report["findings"] == []
    assert status == 0
    assert page_of(tmp_path / "out").pictures == []


class Planter:
    """Changes a copy of the raccoons, file by file."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "VOC2012"
        lists = self.folder / "ImageSets/Main"
        self.free = {split: (lists / f"{split}.txt").read_text().split()[::-1] for split in ("train", "val")}
        self.planted: dict[str, str] = {}

    def take(self, kind: str, split: str = "train") -> str:
        """An image that nothing was planted in yet, with one raccoon, for this kind."""
        while True:
            name = self.free[split].pop()
            if len(self.tree(name).findall("object")) == 1:
                self.planted[kind] = name
                return name

    def photo(self, name: str) -> Path:
        return self.folder / f"JPEGImages/{name}.jpg"

    def xml(self, name: str) -> Path:
        return self.folder / f"Annotations/{name}.xml"

    def tree(self, name: str) -> ElementTree.Element:
        return ElementTree.parse(self.xml(name)).getroot()

    def pixels(self, name: str) -> Image.Image:
        with Image.open(self.photo(name)) as picture:
            return picture.convert("RGB")

    def replace(self, name: str, picture: Image.Image, form: str, **options: object) -> None:
        """Another picture, in another format, and its size in the annotation; the box is the middle of it."""
        self.photo(name).unlink()
        picture.save(self.folder / f"JPEGImages/{name}.{form.lower().replace('jpeg', 'jpg')}", form, **options)
        root = self.tree(name)
        for key, value in zip(("width", "height"), picture.size, strict=True):
            root.find(f"size/{key}").text = str(value)
        width, height = picture.size
        self.set_box(root, width // 4, height // 4, width * 3 // 4, height * 3 // 4)
        self.write(name, root)

    def set_box(self, root: ElementTree.Element, *sides: float | str, place: int = 0) -> None:
        for key, value in zip(("xmin", "ymin", "xmax", "ymax"), sides, strict=True):
            root.findall("object")[place].find(f"bndbox/{key}").text = str(value)

    def box(self, name: str, *sides: float | str) -> None:
        root = self.tree(name)
        self.set_box(root, *sides)
        self.write(name, root)

    def sides(self, root: ElementTree.Element) -> list[int]:
        return [int(root.find(f"object/bndbox/{key}").text) for key in ("xmin", "ymin", "xmax", "ymax")]

    def size(self, name: str) -> tuple[int, int]:
        root = self.tree(name)
        return int(root.find("size/width").text), int(root.find("size/height").text)

    def again(self, name: str, called: str) -> None:
        """The object a second time, a pixel aside."""
        root = self.tree(name)
        root.append(ElementTree.fromstring(ElementTree.tostring(root.find("object"))))
        x1, y1, x2, y2 = self.sides(root)
        self.set_box(root, x1 + 1, y1, x2, y2, place=1)
        root.findall("object")[1].find("name").text = called
        self.write(name, root)

    def write(self, name: str, root: ElementTree.Element) -> None:
        ElementTree.ElementTree(root).write(self.xml(name))

    def copy(self, name: str, other: str, picture: Callable[[Image.Image], Image.Image] | None = None) -> None:
        """Put an image and its annotation in the place of another."""
        shutil.copyfile(self.xml(name), self.xml(other))
        if picture is None:
            shutil.copyfile(self.photo(name), self.photo(other))
            return
        changed = picture(self.pixels(name))
        changed.save(self.photo(other), quality=60)
        root = self.tree(other)
        scale = changed.width / int(root.find("size/width").text)
        for key, value in zip(("width", "height"), changed.size, strict=True):
            root.find(f"size/{key}").text = str(value)
        self.set_box(root, *(max(1, int(side * scale)) for side in self.sides(root)))
        self.write(other, root)


def plant(planter: Planter) -> None:
    # Files.
    name = planter.take("missing file")
    planter.photo(name).unlink()
    root = planter.tree(name)
    root.remove(root.find("size"))  # which is then the photo's
    planter.write(name, root)
    planter.photo(planter.take("empty file")).write_bytes(b"")
    planter.photo(planter.take("not an image")).write_text("<html><body>404 Not Found</body></html>")
    cut = planter.photo(planter.take("unreadable image"))
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    name = planter.take("turned by EXIF")
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    planter.pixels(name).save(planter.photo(name), exif=exif)
    name = planter.take("16-bit image")
    grey = np.asarray(planter.pixels(name).convert("L")).astype(np.uint16) * 257
    planter.replace(name, Image.fromarray(grey), "PNG")
    name = planter.take("CMYK image")
    planter.replace(name, planter.pixels(name).convert("CMYK"), "JPEG")
    name = planter.take("palette image")
    planter.replace(name, planter.pixels(name).quantize(64), "PNG")
    name = planter.take("image with alpha")
    planter.replace(name, planter.pixels(name).convert("RGBA"), "PNG")
    name = planter.take("animated image")
    picture = planter.pixels(name)
    planter.replace(name, picture, "WEBP", save_all=True, append_images=[picture.rotate(180)], duration=100)
    name = planter.take("small image")
    planter.replace(name, planter.pixels(name).resize((40, 30)), "JPEG")
    name = planter.take("long image")
    planter.replace(name, planter.pixels(name).resize((800, 120)), "JPEG")
    name = planter.take("blank image")
    planter.replace(name, Image.new("RGB", (400, 300), (90, 140, 60)), "JPEG")
    # Copies.
    planter.copy(planter.take("copy"), planter.take("of copy"))
    planter.copy(planter.take("leak"), planter.take("of leak", "val"))
    planter.copy(planter.take("near copy"), planter.take("of near copy"), lambda one: one.reduce(2))
    name = planter.take("near leak")
    planter.copy(name, planter.take("of near leak", "val"), lambda one: one.point(lambda value: min(255, value + 6)))
    # Annotations.
    planter.xml(planter.take("annotation missing")).unlink()
    planter.xml(planter.take("annotation unreadable")).write_text("<annotation><object></annotation>")
    name = planter.take("annotation of another size")
    root = planter.tree(name)
    root.find("size/width").text = "1234"
    planter.write(name, root)
    name = planter.take("no objects")
    root = planter.tree(name)
    root.remove(root.find("object"))
    planter.write(name, root)
    planter.box(planter.take("box not finite"), "", 10, 90, 90)
    planter.box(planter.take("box without area"), 90, 10, 40, 90)
    name = planter.take("box outside the image")
    width, _ = planter.size(name)
    planter.box(name, width + 20, 10, width + 90, 90)
    name = planter.take("box reaching beyond the image")
    width, _ = planter.size(name)
    planter.box(name, width // 2, 10, width + 30, 90)
    name = planter.take("tiny box")
    planter.box(name, 30, 30, 31, 31)
    planter.again(planter.take("box copied"), "raccoon")
    # In one split only, and as another class of the same box.
    planter.again(planter.take("box of two classes"), "Raccoon")


def assert_drawn(browser: str, output: Path, patience: float) -> None:
    """A real browser shows the page: the colour of errors, and the picture of the blank image."""
    picture = output / "page.png"
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={output / 'profile'}"]
    place = [f"--screenshot={picture}", "--window-size=1000,9000", f"file://{output / 'check.html'}"]
    subprocess.run([browser, *flags, *place], capture_output=True, timeout=patience, check=True)
    with Image.open(picture) as opened:
        colors = np.asarray(opened.convert("RGB")).reshape(-1, 3).astype(int)
    for color, least in (((0xB3, 0x26, 0x1E), 1000), ((90, 140, 60), 150 * 200 * 0.9)):
        assert (np.abs(colors - color).max(axis=1) <= 3).sum() >= least


def test_planted_faults(
    raccoons: Path,
    tmp_path: Path,
    patience: float,
    browser: str | None,
    in_browser: Callable[[Path, int], dict[str, int] | None],
) -> None:
    planter = Planter(raccoons)
    plant(planter)
    output = tmp_path / "out"
    status, report = check("dataset=voc", f"dataset.root={raccoons}", output=output)
    assert status == 1
    found: dict[str, list[dict[str, str]]] = {}
    for finding in report["findings"]:
        found.setdefault(finding["kind"], []).append(finding)
        assert (finding["level"], finding["right"]) == tuple(KINDS[finding["kind"]])
    about_classes = {"class names alike", "class in one split"}
    expected = {kind for kind in planter.planted if not kind.startswith("of ")}
    assert len(expected) >= 28
    assert found.keys() == expected | about_classes
    for kind in expected:
        (finding,) = found[kind]  # one of each, and no other
        name = planter.planted[kind]
        assert name in (Path(finding["file"]).stem, Path(finding["what"].split(" ")[0]).stem), finding
    for kind in ("copy", "leak", "near copy", "near leak"):
        assert f"{planter.planted[f'of {kind}']}.jpg" in found[kind][0]["what"]
        assert found[kind][0]["split"] == ("train, val" if "leak" in kind else "train")
    (alike,), (single,) = found["class names alike"], found["class in one split"]
    assert "'Raccoon' and 'raccoon'" in alike["what"]
    assert single["what"] == "Raccoon: 1 in train, none in val"
    # Errors come first.
    levels = [finding["level"] for finding in report["findings"]]
    assert levels == sorted(levels)
    page = page_of(output)
    text = (output / "check.html").read_text(encoding="utf-8")
    assert all(f">{kind}</a>" in text for kind in found)
    if browser is not None:
        assert_drawn(browser, output, patience)
        shown = len(page.pictures)
        assert in_browser(output / "check.html", 1000) == {"pictures": shown, "shown": shown, "beyond": 0}
    # Whatever can be shown is, and what is shown is a picture.
    unseen = {"missing file", "empty file", "not an image", "unreadable image", *about_classes}
    assert len(page.pictures) >= len(found.keys() - unseen)
    for picture in page.pictures:
        with Image.open(io.BytesIO(b64decode(picture.partition(",")[2]))) as opened:
            assert max(opened.size) == 200


def test_many_findings_stay_a_small_page(raccoons: Path, tmp_path: Path) -> None:
    for path in (raccoons / "VOC2012/Annotations").glob("*.xml"):
        root = ElementTree.parse(path).getroot()
        for item in root.findall("object"):
            root.remove(item)
        if path.stem not in ("raccoon-1", "raccoon-2"):  # a data set without any object is refused
            ElementTree.ElementTree(root).write(path)
    _, report = check("dataset=voc", f"dataset.root={raccoons}", output=tmp_path / "out")
    counts = Counter(finding["kind"] for finding in report["findings"])
    assert counts["no objects"] > 100
    assert len(page_of(tmp_path / "out").pictures) == 4
    assert f"And {counts['no objects'] - 40} more" in (tmp_path / "out/check.html").read_text(encoding="utf-8")
