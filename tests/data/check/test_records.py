"""What is kept of images: of kinds of files that are easily mistaken, and of those that cannot be read."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mnv2vision.data.check.files import find
from mnv2vision.data.check.records import look_over
from mnv2vision.data.formats.folder import Folder

SCENE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)).resize((120, 100))


def kinds(folder: Path) -> Sequence[str]:
    records = list(look_over(Folder(folder), "train"))
    return sorted(finding.kind for finding in find(records, (224, 224)))


def test_a_phones_jpeg_of_two_pictures_is_not_animated(tmp_path: Path) -> None:
    SCENE.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[SCENE.rotate(180)])
    with Image.open(tmp_path / "a.jpg") as picture:
        assert picture.n_frames == 2
    assert kinds(tmp_path) == []


def test_16_bits_in_colour(tmp_path: Path) -> None:
    """Pillow's mode of it is RGB, as of 8 bits."""
    cv2.imwrite(str(tmp_path / "a.png"), np.asarray(SCENE).astype(np.uint16) * 257)
    cv2.imwrite(str(tmp_path / "b.png"), np.asarray(SCENE))
    assert kinds(tmp_path) == ["16-bit image"]


def test_grey_photos_are_as_usual_as_others(tmp_path: Path) -> None:
    SCENE.convert("L").save(tmp_path / "a.jpg")
    assert kinds(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "empty file"),
        (b"\xff\xd8\xff\xe0" + bytes(40), "unreadable image"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "unreadable image"),
        (b"GET / HTTP/1.1", "not an image"),
    ],
)
def test_what_cannot_be_read(content: bytes, kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    assert kinds(tmp_path) == [kind]
    (record,) = look_over(Folder(tmp_path), "train")
    assert (record.size, record.look) == ((0, 0), None)


def test_the_size_is_that_of_the_upright_photo(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    SCENE.save(tmp_path / "a.jpg", exif=exif)
    (record,) = look_over(Folder(tmp_path), "train")
    assert record.size == (120, 100)
    assert kinds(tmp_path) == ["turned by EXIF"]


def test_the_same_bytes_have_the_same_digest(tmp_path: Path) -> None:
    for name in ("a", "b"):
        SCENE.save(tmp_path / f"{name}.jpg")
    SCENE.save(tmp_path / "c.jpg", quality=50)
    one, two, other = (record.digest for record in look_over(Folder(tmp_path), "train"))
    assert one == two != other
