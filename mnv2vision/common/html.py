"""Pages that open anywhere: one file, with its style and pictures inside."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from mnv2vision.common.tables import Row

_LARGE = 150_000
"""Bytes from which on a picture is put in as JPEG."""
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; max-width: 1080px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin: 2em 0 .5em; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; margin: .5em 0; }
th, td { padding: .15em .7em; text-align: right; border-bottom: 1px solid #eee; }
th { color: #555; font-weight: 600; } th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; height: auto; } .scroll { max-height: 30em; overflow: auto; } .note { color: #555; }
"""


class Section(NamedTuple):
    """A part of a page; `body` is HTML."""

    title: str
    body: str


def text(line: str) -> str:
    """A paragraph."""
    return f'<p class="note">{html.escape(line)}</p>'


def listed(lines: Sequence[str]) -> str:
    """A list, an entry a line."""
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"


def table(rows: Sequence[Row]) -> str:
    """Rows of one kind below their fields' names; nothing without rows."""
    if not rows:
        return ""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in rows[0]._asdict())
    lines = ("".join(f"<td>{_cell(value)}</td>" for value in row._asdict().values()) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _cell(value: object) -> str:
    if value is None or value != value:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else html.escape(str(value))


def picture(path: Path) -> str:
    """A picture of a file, inside the page; nothing where there is no such file."""
    if not path.is_file():
        return ""
    data, kind = path.read_bytes(), "png"
    if len(data) > _LARGE:  # of photos
        buffer = io.BytesIO()
        with Image.open(io.BytesIO(data)) as image:
            image.convert("RGB").save(buffer, "JPEG", quality=82)
        data, kind = buffer.getvalue(), "jpeg"
    source = base64.b64encode(data).decode()
    return f'<p><img alt="{html.escape(path.stem)}" src="data:image/{kind};base64,{source}"></p>'


def page(title: str, sections: Sequence[Section]) -> str:
    """A page of the sections that are not empty."""
    parts = "".join(f"<h2>{html.escape(part.title)}</h2>{part.body}" for part in sections if part.body)
    name = html.escape(title)
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{name}</title><style>{_STYLE}</style>'
        f"</head><body><h1>{name}</h1>{parts}</body></html>\n"
    )
