"""Copies and near-copies, within a split and across splits."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from mnv2vision.common.text import few
from mnv2vision.data.check.finding import Finding, Picture
from mnv2vision.data.check.records import Record, readable
from mnv2vision.data.duplicates import group_alike

_SHOWN = 3


def find(records: Sequence[Record]) -> Iterator[Finding]:
    """Groups of the same image, and of nearly the same.

    Args:
        records: Of all images.
    """
    seen = readable(records)
    looks = [record.look for record in seen if record.look is not None]
    for indices in group_alike(looks):
        by_digest: dict[bytes, list[Record]] = defaultdict(list)
        for index in indices:
            by_digest[seen[index].digest].append(seen[index])
        for same in by_digest.values():
            if len(same) > 1:
                yield _told(same, "leak", "copy", "the same, byte for byte, as")
                if len({record.label for record in same}) > 1:
                    yield _told(same, "copies of two classes", "copies of two classes", "of another class than")
        if len(by_digest) > 1:
            yield _told([same[0] for same in by_digest.values()], "near leak", "near copy", "nearly the same as")


def _told(group: Sequence[Record], across: str, within: str, how: str) -> Finding:
    first, *others = group
    splits = sorted({record.split for record in group})
    names = few([f"{record.path} ({record.split})" for record in others], 20)
    differing = any(not annotated_alike(first, other) for other in others)
    what = f"{how} {names}{', annotated differently' if differing else ''}"
    pictures = tuple(Picture(record.path) for record in group[:_SHOWN])
    return Finding(across if len(splits) > 1 else within, ", ".join(splits), first.path, what, pictures)


def annotated_alike(one: Record, other: Record) -> bool:
    """Whether objects and masks are the same, as far as that can be told: not at different sizes."""
    if one.size != other.size or one.mask != other.mask:
        return one.size != other.size
    if one.boxes is None or other.boxes is None:
        return True
    return np.array_equal(one.boxes.boxes, other.boxes.boxes) and np.array_equal(one.boxes.labels, other.boxes.labels)
