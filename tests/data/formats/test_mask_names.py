"""Names and colours of masks: from the data set where it says them, VOC's where the masks are VOC's, asked for else."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnv2vision.data.formats.mask_names import MASK_NAMES
from mnv2vision.data.formats.voc import Voc
from mnv2vision.errors import DataError

# VOC's colour map as its development kit lists it: background, aeroplane, bicycle, bird; void is cream.
VOCS = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)]
CREAM = (224, 224, 192)


@pytest.fixture(autouse=True)
def _log_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("mnv2vision"), "propagate", True)  # the command line turns it off


def indexed(*values: int, colors: list[tuple[int, int, int]] = VOCS) -> Image.Image:
    picture = Image.fromarray(np.array([values, values], np.uint8))
    flat = [channel for color in colors for channel in color]
    picture.putpalette(flat + [7] * (255 * 3 - len(flat)) + list(CREAM))
    return picture


def data_set(root: Path, masks: dict[str, Image.Image]) -> Path:
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / part).mkdir(parents=True)
    for name, mask in masks.items():
        Image.new("RGB", mask.size).save(root / f"JPEGImages/{name}.jpg")
        mask.save(root / f"SegmentationClass/{name}.png")
    (root / "ImageSets/Segmentation/train.txt").write_text("".join(f"{name}\n" for name in masks))
    return root


def refused(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        Voc(root, "train", targets=("mask",))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_vocs_colours_with_vocs_borders(tmp_path: Path) -> None:
    root = data_set(tmp_path, {"a": indexed(0, 255, 3), "b": indexed(0, 0)})
    assert Voc(root, "train", targets=("mask",)).names == MASK_NAMES


@pytest.mark.parametrize(
    "mask",
    [
        indexed(0, 1, 3),
        indexed(0, 255, 1, colors=[(0, 0, 0), (0, 0, 128)]),
        indexed(0, 255, 30),
        Image.fromarray(np.array([[0, 255, 1]], np.uint8)),
    ],
    ids=["no borders", "other colours", "more values", "grey"],
)
def test_others_with_vocs_layout(tmp_path: Path, mask: Image.Image) -> None:
    """Tools paint classes of one's own in VOC's colours; six digits are the ids of many data sets."""
    message = refused(data_set(tmp_path, {"000001": mask}))
    assert "the classes of its masks are unknown" in message
    assert "dataset.classes=[...]" in message


@pytest.mark.parametrize("name", ["classes.txt", "labels.txt", "class_names.txt"])
def test_lists_of_names(tmp_path: Path, name: str) -> None:
    data_set(tmp_path, {"a": indexed(0, 1, 2)})
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf__ignore__\r\n_background_\r\n rust \r\ncrack\r\n\r\n")
    assert Voc(tmp_path, "train", targets=("mask",)).names == ("_background_", "rust", "crack")


def test_a_labelmap_whose_last_colour_is_void(tmp_path: Path) -> None:
    colors = np.array([[[9, 8, 7], CREAM, [1, 2, 3]]], np.uint8)
    data_set(tmp_path, {"a": Image.fromarray(colors)})
    (tmp_path / "labelmap.txt").write_text("ignored:224,224,192::\nrust:1,2,3::\nbackground:9,8,7::\n")
    data = Voc(tmp_path, "train", targets=("mask",))
    assert data.names == ("rust", "background")
    assert data[0].mask is not None
    assert data[0].mask.tolist() == [[1, 255, 0]]


@pytest.mark.parametrize("line", ["rust", "rust:1,2", "rust:red::", "rust:1,2,300::"])
def test_a_labelmap_that_cannot_be_right(tmp_path: Path, line: str) -> None:
    data_set(tmp_path, {"a": indexed(0, 1)})
    (tmp_path / "labelmap.txt").write_text(f"background:0,0,0::\n{line}\n")
    assert str(tmp_path) in refused(tmp_path) or "dataset.colors" in refused(tmp_path)


def test_palettes_that_number_the_colours_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    swapped = [VOCS[0], VOCS[2], VOCS[1]]
    data_set(tmp_path, {"a": indexed(0, 1, 2), "b": indexed(0, 1, 2, colors=swapped)})
    Voc(tmp_path, "train", classes=["background", "rust", "crack"], targets=("mask",))
    said = "the value 1 has the colour (128, 0, 0) in a.png and (0, 128, 0) in b.png"
    assert [said in message for message in caplog.messages] == [True]
    data = Voc(tmp_path, "train", classes=["background", "rust", "crack"], colors=VOCS[:3], targets=("mask",))
    assert [data[i].mask[0].tolist() for i in range(2)] == [[0, 1, 2], [0, 2, 1]]  # type: ignore[index]


def test_a_damaged_mask_is_left_to_whoever_reads_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """data.on_error=skip has no say before the first batch."""
    data_set(tmp_path, {name: indexed(0, 1) for name in "abc"})
    (tmp_path / "SegmentationClass/a.png").write_bytes(b"rubbish")
    Image.new("L", (10_000, 10_000)).save(tmp_path / "SegmentationClass/b.png")
    data = Voc(tmp_path, "train", classes=["background", "rust", "crack"], targets=("mask",))
    assert "no pixel of crack in the 1 masks checked" in caplog.text
    assert data[2].mask is not None
    for index, told in ((0, "cannot be read as a mask"), (1, "10000x10000, but its image is 2x2")):
        with pytest.raises(DataError, match=told):
            data[index]
    assert "the classes of its masks are unknown" in refused(tmp_path)
