"""Faults of masks."""

from collections.abc import Iterator, Sequence

from mnv2vision.data.check.finding import Finding, Picture
from mnv2vision.data.check.records import Record


def find(records: Sequence[Record], names: Sequence[str]) -> Iterator[Finding]:
    """Masks that cannot be read or have values that are none, and those with nothing in them.

    Args:
        records: Of a split's images.
        names: Of the classes by value.
    """
    background = frozenset({0}) if names[:1] == ("background",) else frozenset()
    for record in records:
        pictures = (Picture(record.path),)
        if record.kind == "mask":
            yield Finding("mask", record.split, record.path, record.problem, pictures)
        elif record.values is not None and record.values <= background:
            yield Finding("empty mask", record.split, record.path, "no class but background or void", pictures)
