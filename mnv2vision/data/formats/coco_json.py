"""COCO's annotation files, entry by entry, so that a million Python objects never exist at once."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from mnv2vision.common.text import few
from mnv2vision.errors import DataError

Id = int | str
SECTIONS = ("images", "annotations", "categories")
_DECIMAL = re.compile(r"-?[1-9][0-9]{0,17}|0")
_SECTIONS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENTRIES = msgspec.json.Decoder(list[msgspec.Raw])
_ENTRY = msgspec.json.Decoder(object)
_FOREIGN_TO_MSGSPEC = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)


class CocoFile:
    """The sections of an annotation file.

    Python's parser reads what the fast one does not: NaN, Infinity, numbers too large for floats, UTF-16.
    """

    def __init__(self, path: Path) -> None:
        """Read the file; DataError if it is not a JSON object."""
        self.path = path
        try:
            content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
        sections: Any
        try:
            sections = _SECTIONS.decode(content)
        except _FOREIGN_TO_MSGSPEC:
            sections = _parse(content, str(path))
            if not isinstance(sections, dict):
                raise DataError(f"{path}: expected an object with images, annotations and categories") from None
        self._there = sorted(sections)
        # These only: raw sections keep the whole file in memory.
        self._sections = {section: sections.get(section) for section in SECTIONS}

    def take(self, section: str) -> Iterator[dict[str, object]]:
        """The entries of a section, which is then dropped."""
        entries = self._sections.pop(section)
        if isinstance(entries, msgspec.Raw):
            try:
                entries = _ENTRIES.decode(entries)
            except _FOREIGN_TO_MSGSPEC:
                entries = None
        if not isinstance(entries, list):
            problem = f"its {section!r} is not a list" if section in self._there else f"lacks the list {section!r}"
            raise DataError(f"{self.path}: {problem}; it has {few(self._there) or 'nothing'}")
        return self._decoded(section, entries)

    def _decoded(self, section: str, entries: list[Any]) -> Iterator[dict[str, object]]:
        for number, entry in enumerate(entries, 1):
            item = entry
            if isinstance(entry, msgspec.Raw):
                try:
                    item = _ENTRY.decode(entry)
                except _FOREIGN_TO_MSGSPEC:
                    item = _parse(bytes(entry), f"{self.path}: entry {number} of {section}")
            if not isinstance(item, dict):
                raise DataError(f"{self.path}: entry {number} of {section} is not an object: {shown(item)}")
            yield item


def _parse(content: bytes, where: str) -> object:
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: line {error.lineno} is not JSON ({error.msg})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not JSON in UTF-8 ({error})") from error
    except RecursionError as error:
        raise DataError(f"{where}: not COCO JSON (nested too deeply)") from error
    except ValueError as error:
        raise DataError(f"{where}: not COCO JSON (a number with thousands of digits)") from error


def shown(value: object) -> str:
    """A value as JSON, cut short, for a message."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):  # ValueError: a number with thousands of digits
        return f"<{type(value).__name__}>"
    return text if len(text) <= 120 else f"{text[:120]}…"


def value_of(item: Mapping[str, object], key: str, where: str) -> object:
    """A required value of an entry; DataError if it is missing."""
    if key not in item:
        raise DataError(f"{where}: an entry lacks {key!r}: {shown(item)}")
    return item[key]


def id_of(item: Mapping[str, object], key: str, where: str) -> Id:
    """An id; 7, 7.0 and "7" are the same, as tools mix them."""
    value = value_of(item, key, where)
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        return int(value) if _DECIMAL.fullmatch(value) else value
    if not isinstance(value, int) or isinstance(value, bool):
        raise DataError(f"{where}: {key} must be a whole number or a string, not {shown(value)}")
    return value
