"""Pictures: letters of all scripts, and labels that are all drawn."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.figure import Figure
from PIL import Image

from mnv2vision.common import charts, draw, fonts
from mnv2vision.common.colors import background_label, class_colors, palette
from mnv2vision.errors import ConfigError

PHOTO = np.full((120, 160, 3), 90, np.uint8)
COLORS = np.full((4, 3), 200, np.uint8)
CHINESE = ("红色", "蓝色")


@pytest.fixture(autouse=True)
def _nothing_remembered() -> Iterator[None]:
    functions = (fonts._font_files, fonts._font_file, fonts._letters, fonts._tell_of_fonts)
    for function in functions:
        function.cache_clear()
    yield
    for function in functions:
        getattr(function, "cache_clear", lambda: None)()  # one may be replaced


@pytest.fixture
def no_system_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_font_files", lambda: (font_manager.findfont("DejaVu Sans"),))


@pytest.fixture
def chinese_font(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A font of filled squares, for what is needed here."""
    pen = TTGlyphPen(None)
    for index, point in enumerate(((50, 0), (50, 800), (850, 800), (850, 0))):
        (pen.lineTo if index else pen.moveTo)(point)
    pen.closePath()
    square = pen.glyph()
    letters = sorted({ord(letter) for letter in "".join(CHINESE) + "class 0123456789%"})
    names = [".notdef", *(f"u{code:04X}" for code in letters)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap(dict(zip(letters, names[1:], strict=True)))
    builder.setupGlyf(dict.fromkeys(names, square))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (900, 50)))
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "squares.ttf")
    default = font_manager.findfont("DejaVu Sans")
    monkeypatch.setattr(fonts, "_font_files", lambda: (default, str(tmp_path / "squares.ttf")))
    return tmp_path / "squares.ttf"


@pytest.mark.usefixtures("no_system_fonts")
def test_names_that_no_font_has_are_drawn_as_numbers_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        assert fonts.legible(["red", *CHINESE, "größer", "μετάξι", "да"]) == [
            *("red", "class 1", "class 2", "größer", "μετάξι", "да")
        ]
    (line,) = caplog.messages
    assert line.startswith("no installed font has the letters of some class names")


def test_a_font_of_the_system_is_used(chinese_font: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert fonts.legible(CHINESE) == list(CHINESE)
    boxes, labels = np.array([[10.0, 40.0, 90.0, 100.0]]), np.array([0])
    drawn = draw.draw_boxes(PHOTO, boxes, labels, ["红色 90%"], COLORS)
    number = draw.draw_boxes(PHOTO, boxes, labels, ["class 0"], COLORS)
    assert (drawn != number).any()
    assert caplog.messages == []


def test_a_font_that_is_given_comes_first(chinese_font: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its letters are squares, also those that an installed font has."""
    monkeypatch.undo()  # nothing but what is installed
    monkeypatch.setattr(fonts, "_given", [])
    manager = font_manager.fontManager
    monkeypatch.setattr(manager, "ttflist", list(manager.ttflist))
    boxes, labels = np.array([[10.0, 40.0, 90.0, 100.0]]), np.array([0])
    plain, ascii_text = (draw.draw_boxes(PHOTO, boxes, labels, [text], COLORS) for text in ("größe", "class"))
    fonts.use_font(str(chinese_font))
    assert fonts.legible(CHINESE) == list(CHINESE)
    assert fonts._font_files()[0] == str(chinese_font)
    assert fonts.font("红", 12).path == str(chinese_font)
    assert fonts.families(["红"]) == ["DejaVu Sans", "Squares"]  # of charts
    # What it lacks is taken from others, and plain letters stay as they are.
    np.testing.assert_array_equal(draw.draw_boxes(PHOTO, boxes, labels, ["größe"], COLORS), plain)
    np.testing.assert_array_equal(draw.draw_boxes(PHOTO, boxes, labels, ["class"], COLORS), ascii_text)


@pytest.mark.parametrize("content", [None, b"", b"no font at all"])
def test_what_is_no_font(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "a.ttf").write_bytes(content)
    with pytest.raises(ConfigError, match=r"^font=.*a\.ttf: cannot be read as a font; give a \.ttf"):
        fonts.use_font(str(tmp_path / "a.ttf"))


@pytest.mark.usefixtures("no_system_fonts")
def test_no_letter_becomes_a_box(recwarn: pytest.WarningsRecorder, tmp_path: Path) -> None:
    """What is drawn is what is drawn of the number, and Matplotlib misses no glyph."""
    boxes, labels = np.array([[10.0, 40.0, 90.0, 100.0]]), np.array([3])
    drawn = draw.draw_boxes(PHOTO, boxes, labels, ["红色 90%"], COLORS)
    np.testing.assert_array_equal(drawn, draw.draw_boxes(PHOTO, boxes, labels, ["class 3"], COLORS))
    captioned = np.asarray(draw.caption(PHOTO, ["90% 红"]))
    np.testing.assert_array_equal(captioned, np.asarray(draw.caption(PHOTO, ["90% ?"])))
    draw.confusion_matrix(np.eye(2, dtype=np.int64), CHINESE, tmp_path / "a.png")
    draw.contact_sheet([PHOTO], ["✗ 红色"], tmp_path / "b.png")
    draw.overlay_sheet([(PHOTO, np.zeros((120, 160), np.uint8))], CHINESE, tmp_path / "c.png")
    assert [warning for warning in recwarn if "Glyph" in str(warning.message)] == []


def test_confusion_is_in_percent_of_the_rows_with_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(draw, "write_figure", lambda figure, path, texts: figures.append(figure))
    counts = np.array([[3, 1, 0], [0, 0, 0], [10, 25_000, 999_990]])
    draw.confusion_matrix(counts, ["ant", "bee", "(nothing)"], tmp_path / "a.png", found=["ant", "bee", "(missed)"])
    axes = figures[0].axes[0]
    cells = {(text.get_position()): text.get_text() for text in axes.texts}
    assert cells == {
        (0, 0): "75%\n3",
        (1, 0): "25%\n1",
        (0, 2): "<1%\n10",  # 0.001 %
        (1, 2): "2%\n25k",
        (2, 2): "98%\n1M",
    }
    assert [label.get_text() for label in axes.get_yticklabels()] == ["ant", "bee", "(nothing)"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["ant", "bee", "(missed)"]
    draw.confusion_matrix(np.eye(20, dtype=np.int64) * 9, [f"class {i}" for i in range(20)], tmp_path / "b.png")
    assert {text.get_text() for text in figures[1].axes[0].texts} == {"100%"}  # no room for counts


def test_curves_are_named_with_their_average_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    for module in (draw, charts):
        monkeypatch.setattr(module, "write_figure", lambda figure, path, texts: figures.append(figure))
    points = np.array([0.5, 1.0])
    draw.precision_recall({"person": (points, points, 0.71249)}, tmp_path / "a.png")
    curves = {"ant": (points[::-1], points, points, points), "bee": (points[::-1], points, points, points)}
    charts.over_scores(curves, {"ant": 0.5}, {"ant": 0.25}, tmp_path / "b.png")
    names = [[text.get_text() for text in figure.axes[0].get_legend().get_texts()] for figure in figures]
    assert names == [["person: 0.712"], ["ant: 0.250", "bee"]]


def test_percent_says_neither_nothing_nor_all_of_a_part() -> None:
    assert [draw.percent(share) for share in (0.0004, 0.005001, 0.5, 0.9949, 0.9999, 1.0)] == [
        *("<1%", "1%", "50%", "99%", ">99%", "100%")
    ]


@pytest.mark.parametrize(
    ("first", "is_drawn"), [("background", False), ("Background ", False), ("_background_", False)]
)
def test_the_background_is_left_as_it_is(first: str, is_drawn: bool) -> None:
    assert background_label((first, "car")) == 0
    assert not class_colors((first, "car"))[0].any()


def test_label_0_is_a_class_like_any_other(tmp_path: Path) -> None:
    names = ("sky", "road", "car")
    assert background_label(names) is None
    mask = np.zeros((120, 160), np.uint8)
    colors = class_colors(names)
    drawn = draw.overlay(PHOTO, mask, colors, background=background_label(names))
    assert (drawn != PHOTO).any(axis=2).all()
    assert len({tuple(color) for color in colors[:3].tolist()}) == 3
    # In the legend, too: the sheet of a photo that is all sky has one, that of all background has none.
    heights = {}
    for first in ("sky", "background"):
        draw.overlay_sheet([(PHOTO, mask)], (first, "road"), tmp_path / "a.png")
        with Image.open(tmp_path / "a.png") as sheet:
            pixels = np.asarray(sheet.convert("RGB")).astype(int)
        heights[first] = int((np.abs(pixels - colors[0]).sum(axis=2) < 10).sum())
    assert heights["sky"] > 100 > heights["background"]


def test_overlay_in_strips_is_the_formula() -> None:
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (3000, 700, 3), np.uint8)  # several strips
    mask = generator.integers(0, 5, (3000, 700), np.uint8)
    colors = palette(5)
    wanted = np.where((mask == 0)[..., None], image, image * (1 - 0.6) + colors[mask] * 0.6).astype(np.uint8)
    np.testing.assert_array_equal(draw.overlay(image, mask, colors), wanted)
