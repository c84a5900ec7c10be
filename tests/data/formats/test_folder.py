"""A folder of photos without labels."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnv2vision.data.formats.folder import Folder
from mnv2vision.data.formats.imagenet import ImageNet
from mnv2vision.errors import DataError


def test_all_images_below_a_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number, name in enumerate(("b.png", "a/c.png", "a/deeper/d.png", "z.png", ".hidden/e.png")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5, 4), (number, 0, 0)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("")
    data = Folder(tmp_path)
    assert [data[index].image_id for index in range(len(data))] == ["a/c.png", "a/deeper/d.png", "b.png", "z.png"]
    assert [int(data[index].image[0, 0, 0]) for index in range(-4, 0)] == [1, 2, 0, 3]
    sample = data[0]
    assert (sample.path, sample.label, sample.boxes, sample.mask) == (str(tmp_path / "a/c.png"), None, None, None)
    assert (data.names, data.targets) == ((), set())
    assert [message.partition(": ")[2] for message in caplog.messages] == [
        "1 file is ignored, without an image extension (.txt 1)"
    ]


def test_the_index_follows_the_folder(tmp_path: Path) -> None:
    """Class folders and a folder of photos have indexes of their own."""
    photos = tmp_path / "data/train"
    (photos / "ants").mkdir(parents=True)
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(photos / "ants/0.png")
    assert len(Folder(photos)) == 1
    assert ImageNet(tmp_path / "data", "train").names == ("ants",)
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(photos / "1.png")
    assert len(Folder(photos)) == 2
    assert len(ImageNet(tmp_path / "data", "train")) == 1


def test_a_folder_without_photos(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: no images \(\.jpg"):
        Folder(tmp_path / "empty")
    with pytest.raises(DataError, match=r"none: the data set's root folder does not exist$"):
        Folder(tmp_path / "none")
    (tmp_path / "loop").symlink_to(tmp_path)
    with pytest.raises(DataError, match="this symbolic link points to a folder above it"):
        Folder(tmp_path)
