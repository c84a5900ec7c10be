"""Letters of all scripts: which fonts have them, and what is drawn where none has."""

import logging
from collections.abc import Sequence
from functools import cache

from PIL import ImageFont

from mnv2vision.errors import ConfigError

# Matplotlib, which lists the fonts, takes longer to import than a photo to predict: only for letters beyond ASCII.

log = logging.getLogger(__name__)

_given: list[str] = []


def use_font(path: str) -> None:
    """Look in a font first for letters beyond ASCII, in all pictures from now on.

    Args:
        path: A file that FreeType reads: .ttf, .otf, .ttc.

    Raises:
        ConfigError: If it cannot be read.
    """
    from matplotlib import font_manager

    try:
        font_manager.fontManager.addfont(path)
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"font={path}: cannot be read as a font; give a .ttf, .otf or .ttc file") from error
    _given[:] = [path]
    for function in (_font_files, _font_file):
        function.cache_clear()


def legible(names: Sequence[str]) -> list[str]:
    """Names that installed fonts can draw; others become "class 3" (by label), with one warning."""
    shown = [name if is_drawable(name) else f"class {label}" for label, name in enumerate(names)]
    if shown != list(names):
        _tell_of_fonts()
    return shown


def with_known_letters(text: str) -> str:
    """The text, with letters that no installed font has replaced by question marks."""
    if is_drawable(text):
        return text
    _tell_of_fonts()
    return "".join(letter if is_drawable(letter) else "?" for letter in text)


@cache
def _tell_of_fonts() -> None:
    log.warning(
        "no installed font has the letters of some class names; they are drawn as numbers"
        " (install the Noto fonts, or give predict one with font=)"
    )


def is_drawable(text: str) -> bool:
    """Whether a font has all letters of a text."""
    return text.isascii() or _font_file(text) is not None


@cache
def _font_file(text: str) -> str | None:
    """A font with all letters of the text: the given one, Matplotlib's, or one of the system's; None without any."""
    wanted = {ord(letter) for letter in text if letter.isprintable() and not letter.isspace()}
    return next((path for path in _font_files() if wanted <= _letters(path)), None)


@cache
def _font_files() -> tuple[str, ...]:
    from matplotlib import font_manager

    default = _default()
    # The "last resort" font has a box for every letter.
    others = {entry.fname for entry in font_manager.fontManager.ttflist if "LastResort" not in entry.fname}
    return *_given, default, *sorted(others - {default, *_given})


def _default() -> str:
    from matplotlib import font_manager

    return str(font_manager.findfont("DejaVu Sans"))


@cache
def _letters(path: str) -> frozenset[int]:
    from matplotlib import ft2font

    try:
        return frozenset(ft2font.FT2Font(path).get_charmap())
    except (OSError, RuntimeError):  # removed since Matplotlib listed it, or damaged
        return frozenset()


def font(text: str, size: int) -> ImageFont.FreeTypeFont:
    """A font of so many pixels that has the letters of a text that is drawable."""
    path = None if text.isascii() else _font_file(text)
    if path is not None:
        return ImageFont.truetype(path, size)
    default = ImageFont.load_default(size)
    assert isinstance(default, ImageFont.FreeTypeFont)  # which it is for a size
    return default


def families(texts: Sequence[str]) -> list[str]:
    """Font families for Matplotlib, which takes each letter from the first family that has it."""
    from matplotlib import font_manager

    files = dict.fromkeys([_default(), *filter(None, map(_font_file, texts))])
    return [font_manager.FontProperties(fname=file).get_name() for file in files]
