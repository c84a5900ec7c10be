"""The page: what file names hold is text, what is marked is where it is, and the page stays small."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnv2vision.data.check.finding import KINDS, Finding, Picture
from mnv2vision.data.check.page import Table, write_page


def pictures(page: str) -> list[Image.Image]:
    found = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB") for data in found]


def test_names_are_text() -> None:
    name = "<script>alert('&')</script>.jpg"
    page = write_page(name, {"train": 1}, [Finding("no objects", "train", name, name)], [Table(name, [name])], [name])
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 4


def test_no_findings() -> None:
    page = write_page("cups", {"train": 1234, "val": 5}, [], [], [])
    assert "1,234 images in train, 5 images in val" in page
    assert "Nothing was found." in page


@pytest.mark.parametrize(
    ("box", "marked"),
    [
        ((0.25, 0.2, 0.75, 0.6), (50, 20, 150, 60)),  # of 200 x 100 pixels
        ((0.75, 0.6, 0.25, 0.2), (50, 20, 150, 60)),  # the wrong way round
        ((0.9, 0.5, 1.1, 0.9), (180, 50, 199, 90)),  # it leaves the image
        ((1.5, 0.5, 1.9, 0.9), (198, 50, 199, 90)),  # it is outside
    ],
)
def test_the_mark(box: tuple[float, ...], marked: tuple[int, ...], tmp_path: Path) -> None:
    Image.new("RGB", (400, 200), (0, 60, 0)).save(tmp_path / "a.png")
    finding = Finding("tiny box", "train", "a", "b", (Picture(str(tmp_path / "a.png"), box),))
    (shown,) = pictures(write_page("cups", {"train": 1}, [finding], [], []))
    assert shown.size == (200, 100)
    red = np.argwhere(np.asarray(shown)[..., 0] > 120)
    (top, left), (bottom, right) = red.min(axis=0), red.max(axis=0)
    assert (left, top, right, bottom) == pytest.approx(marked, abs=2)


def test_small_objects_are_shown_from_near(tmp_path: Path) -> None:
    """Ten pixels of 1000 would be two of a picture: the part around them is shown, in which they have more."""
    image = np.zeros((800, 1000, 3), np.uint8)
    image[400:410, 700:710] = (0, 255, 0)
    Image.fromarray(image).save(tmp_path / "a.png")
    finding = Finding("tiny box", "train", "a", "b", (Picture(str(tmp_path / "a.png"), (0.7, 0.5, 0.71, 0.5125)),))
    (shown,) = pictures(write_page("cups", {"train": 1}, [finding], [], []))
    green = (np.asarray(shown)[..., 1] > 200).sum()
    assert 12**2 < green < 25**2


def test_the_worst_page_is_small(tmp_path: Path) -> None:
    """Noise in every picture of every kind."""
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    picture = Picture(str(tmp_path / "a.png"))
    several = {"leak", "near leak", "copy", "near copy", "copies of two classes"}
    findings = [
        Finding(kind, "train", "x" * 200, "y" * 200, (picture,) * (3 if kind in several else 1))
        for kind in KINDS
        for _ in range(60)
    ]
    page = write_page("cups", {"train": 1}, findings, [], [])
    assert len(page) < 5e6
    assert page.count("And 20 more") == len(KINDS)
