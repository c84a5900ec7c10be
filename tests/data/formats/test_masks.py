"""Masks from palette, grey and coloured files; what cannot be right is named by its file and value."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mnv2vision.data.formats.masks import check_labels, read_mask
from mnv2vision.errors import DataError

SIZE = (6, 9)
COLORS = [[0, 0, 0], [128, 0, 0], [0, 128, 0], [0, 0, 255], [255, 255, 255]]
LABELS = np.random.default_rng(0).integers(0, 5, SIZE).astype(np.uint8)


def save(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def with_palette(values: NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(values)
    image.putpalette(np.random.default_rng(1).integers(0, 256, 768).astype(np.uint8).tobytes())
    assert image.mode == "P"
    return image


def colored(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.array(COLORS, np.uint8)[labels]


def refused(path: Path, num_classes: int = 5, size: tuple[int, int] = SIZE, **options: Any) -> str:
    """The message, which names the file in one line."""
    with pytest.raises(DataError) as caught:
        read_mask(path, size, num_classes, **options)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


# ---- values ----


def test_palette_is_read_by_index(tmp_path: Path) -> None:
    labels = np.where(LABELS == 4, 255, LABELS)
    mask = read_mask(save(tmp_path / "a.png", with_palette(labels)), SIZE, 4)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, labels)


@pytest.mark.parametrize("bits", [4, 8])
def test_small_palettes(tmp_path: Path, bits: int) -> None:
    np.testing.assert_array_equal(read_mask(save(tmp_path / "a.png", with_palette(LABELS), bits=bits), SIZE, 5), LABELS)


def test_transparent_palette(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", with_palette(LABELS), transparency=0)
    np.testing.assert_array_equal(read_mask(path, SIZE, 5), LABELS)


def test_grey(tmp_path: Path) -> None:
    labels = np.where(LABELS == 0, 255, LABELS)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "a.png", Image.fromarray(labels)), SIZE, 5), labels)


def test_black_and_white(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(LABELS > 2))
    np.testing.assert_array_equal(read_mask(path, SIZE, 2), LABELS > 2)


@pytest.mark.parametrize("void", [0, 4, 7, 254])
def test_void_index(tmp_path: Path, void: int) -> None:
    labels = LABELS.copy()
    labels[0, :3], labels[1, :2] = void, 255
    ours = read_mask(save(tmp_path / "a.png", Image.fromarray(labels)), SIZE, 5, void=void)
    np.testing.assert_array_equal(ours, np.where(labels == void, 255, labels))


def test_the_array_may_be_written_to(tmp_path: Path) -> None:
    mask = read_mask(save(tmp_path / "a.png", Image.fromarray(LABELS)), SIZE, 5)
    mask[0, 0] = 3  # a worker pads or collates it
    assert mask[0, 0] == 3


# ---- colours ----


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colors(tmp_path: Path, mode: str) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(colored(LABELS)).convert(mode))
    np.testing.assert_array_equal(read_mask(path, SIZE, 5, colors=COLORS), LABELS)
    # One colour more than classes: the last is void.
    void = np.where(LABELS == 4, 255, LABELS)
    np.testing.assert_array_equal(read_mask(path, SIZE, 4, colors=COLORS), void)


def test_colors_of_a_palette(tmp_path: Path) -> None:
    """With a table, a palette's colours count, not its order."""
    order = [3, 0, 4, 1, 2]
    image = Image.fromarray(np.argsort(order)[LABELS].astype(np.uint8))
    image.putpalette(np.array(COLORS, np.uint8)[order].tobytes())
    path = save(tmp_path / "a.png", image)
    np.testing.assert_array_equal(read_mask(path, SIZE, 5, colors=COLORS), LABELS)
    assert not np.array_equal(read_mask(path, SIZE, 5), LABELS)


def test_colors_that_differ_in_one_channel(tmp_path: Path) -> None:
    table = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [255, 255, 254], [255, 255, 255]]
    path = save(tmp_path / "a.png", Image.fromarray(np.array(table, np.uint8)[LABELS]))
    np.testing.assert_array_equal(read_mask(path, SIZE, 5, colors=table), LABELS)


@pytest.mark.parametrize("color", [(1, 0, 0), (255, 255, 254), (128, 128, 0), (0, 0, 128)])
def test_wrong_color(tmp_path: Path, color: tuple[int, int, int]) -> None:
    image = colored(LABELS)
    image[2, 3] = color
    assert str(color) in refused(save(tmp_path / "a.png", Image.fromarray(image)), colors=COLORS)


def test_colors_without_a_table(tmp_path: Path) -> None:
    message = refused(save(tmp_path / "a.png", Image.fromarray(colored(LABELS))))
    assert "RGB" in message
    assert "dataset.colors" in message


# ---- what cannot be right ----


@pytest.mark.parametrize("value", [5, 6, 200, 254])
def test_wrong_value(tmp_path: Path, value: int) -> None:
    labels = LABELS.copy()
    labels[3, 4] = value
    for name, image in (("a.png", Image.fromarray(labels)), ("b.png", with_palette(labels))):
        message = refused(save(tmp_path / name, image))
        assert f"the value {value};" in message
        assert "0..4" in message


def test_wrong_size(tmp_path: Path) -> None:
    message = refused(save(tmp_path / "a.png", Image.fromarray(LABELS)), size=(9, 6))
    assert "9x6" in message
    assert "6x9" in message
    image = Image.fromarray(colored(LABELS))
    assert "9x6" in refused(save(tmp_path / "b.png", image), size=(6, 8), colors=COLORS)


def test_missing(tmp_path: Path) -> None:
    refused(tmp_path / "a.png")


@pytest.mark.parametrize("mode", ["LA", "I;16", "CMYK", "F"])
@pytest.mark.parametrize("colors", [None, COLORS])
def test_no_label_image(tmp_path: Path, mode: str, colors: Any) -> None:
    path = tmp_path / ("a.png" if mode in ("LA", "I;16") else "a.tif")
    Image.fromarray(LABELS).convert(mode).save(path)
    assert "mode" in refused(path, colors=colors)


@pytest.mark.parametrize("content", [b"", b"rubbish", b"\x89PNG\r\n\x1a\n", None])
def test_unreadable(tmp_path: Path, content: bytes | None) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(np.random.default_rng(0).integers(0, 5, (90, 90)).astype(np.uint8)))
    path.write_bytes(path.read_bytes()[:-900] if content is None else content)
    refused(path, size=(90, 90))
    refused(path, size=(90, 90), colors=COLORS)


def test_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    refused(tmp_path / "a.png")


def test_labels_are_checked_by_value() -> None:
    mask = np.array([[0, 1, 255], [2, 9, 1]], np.uint8)
    ours = check_labels(mask, 3, 9, "x")
    assert ours.tolist() == [[0, 1, 255], [2, 255, 1]]
    assert mask[1, 1] == 9  # the caller's array stays
    for classes, void, value in ((2, 9, 2), (3, 255, 9), (1, 9, 1)):
        with pytest.raises(DataError, match=f"^x: contains the value {value};"):
            check_labels(mask, classes, void, "x")
