"""Pages that open anywhere: one file, with its style and pictures inside."""

import base64
import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from mnv2vision.common.tables import Row

_LARGE = 150_000
"""Bytes from which on a picture is put in as JPEG."""


class Section(NamedTuple):
    """A part of a page; `body` is HTML."""

    title: str
    body: Markup


def text(line: str) -> Markup:
    """A paragraph."""
    return Markup('<p class="note">{}</p>').format(line)


def listed(lines: Sequence[str]) -> Markup:
    """A list, an entry a line."""
    return Markup("<ul>{}</ul>").format(_each("<li>{}</li>", lines))


def table(rows: Sequence[Row]) -> Markup:
    """Rows of one kind below their fields' names; nothing without rows."""
    if not rows:
        return Markup()
    head = _each("<th>{}</th>", list(rows[0]._asdict()))
    body = _each("<tr>{}</tr>", [_each("<td>{}</td>", list(map(_cell, row._asdict().values()))) for row in rows])
    return Markup('<div class="scroll"><table><tr>{}</tr>{}</table></div>').format(head, body)


def _each(element: str, contents: Sequence[str]) -> Markup:
    return Markup("").join(Markup(element).format(content) for content in contents)


def _cell(value: object) -> str:
    if value is None or value != value:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def picture(path: Path) -> Markup:
    """A picture of a file, inside the page; nothing where there is no such file."""
    if not path.is_file():
        return Markup()
    data, kind = path.read_bytes(), "png"
    if len(data) > _LARGE:  # of photos
        buffer = io.BytesIO()
        with Image.open(io.BytesIO(data)) as image:
            image.convert("RGB").save(buffer, "JPEG", quality=82)
        data, kind = buffer.getvalue(), "jpeg"
    source = base64.b64encode(data).decode()
    return Markup('<p><img alt="{}" src="data:image/{};base64,{}"></p>').format(path.stem, kind, source)


def page(title: str, sections: Sequence[Section]) -> str:
    """A page of the sections that are not empty."""
    return render("common/page.html", title=title, sections=sections)


def render(template: str, **values: object) -> str:
    """A template of this package, in which all values but `Markup` are text; others extend `common/page.html`."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    loader = PackageLoader("mnv2vision", "")
    return Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
