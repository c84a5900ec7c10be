"""Faults of objects: those that a reader drops or clips, copies, and what is too small to be seen."""

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mnv2vision.data.check.finding import Finding, Picture
from mnv2vision.data.check.records import Record, readable
from mnv2vision.data.formats.faults import Fault
from mnv2vision.data.sample import BoxKind

_SAME = 0.9
"""Intersection over union from which on two boxes are one."""
_OF_NO_IMAGE = frozenset({"annotation of no image", "image not read", "unlabelled image"})
"""Faults of files that belong to no image of the split, though one of another folder may have their name."""
_TINY = 4.0
"""Pixels of the network's input that a side of a box must have: a quarter of a cell of its finest map."""


def of_reader(faults: Sequence[Fault], split: str, records: Sequence[Record]) -> Iterator[Finding]:
    """What a reader collected, with the image it is of.

    Args:
        faults: Of the annotations.
        split: That was read.
        records: Of the split's images.
    """
    by_stem: dict[str, list[Record]] = defaultdict(list)
    for seen in readable(records):
        by_stem[_stem(seen.path)].append(seen)
    for fault in faults:
        alike = [] if fault.kind in _OF_NO_IMAGE else by_stem.get(_stem(fault.file), [])
        record = _image_of(fault.file, alike)
        pictures: tuple[Picture, ...] = (Picture(fault.file),) if fault.kind == "unlabelled image" else ()
        if record is not None:
            turned = record.header is not None and record.header.orientation != 1  # not the box, perhaps
            pictures = (Picture(record.path, None if turned else fault.box),)
        file = fault.file if record is None else record.path
        yield Finding(fault.kind, split, file, fault.message, pictures)


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Findings with one of each file that belongs to no image, which both splits have where they share a folder."""
    others, kept = list[Finding](), dict[tuple[str, str, str], Finding]()
    for finding in findings:
        if finding.kind not in _OF_NO_IMAGE:
            others.append(finding)
            continue
        key = finding.kind, finding.file, finding.what
        first = kept.setdefault(key, finding)
        if first.split != finding.split:
            kept[key] = replace(first, split=f"{first.split}, {finding.split}")
    return [*others, *kept.values()]


def find(
    records: Sequence[Record], names: Sequence[str], image_size: tuple[int, int], faulty: Collection[str]
) -> Iterator[Finding]:
    """Objects that are there twice or too small, and images without any.

    Args:
        records: Of a split's images.
        names: Of the classes.
        faulty: Images with objects that were dropped, which may have lost all.
        image_size: (height, width) of the network's input, to which photos are stretched.
    """
    for record in records:
        if record.boxes is None:
            continue
        if not len(record.boxes):
            if record.path not in faulty:
                yield Finding("no objects", record.split, record.path, "no annotated object", (Picture(record.path),))
            continue
        kept = np.flatnonzero(record.boxes.kinds != BoxKind.CROWD)
        boxes, labels = record.shares[kept], record.boxes.labels[kept]
        for one, other in copies(boxes):
            alike = labels[one] == labels[other]
            told = names[labels[one]] if alike else f"{names[labels[one]]} and {names[labels[other]]}"
            what = f"objects {kept[one] + 1} and {kept[other] + 1}, {told}, share a box"
            yield _finding("box copied" if alike else "box of two classes", record, what, boxes[one])
        sides = (boxes[:, 2:] - boxes[:, :2]) * image_size[::-1]
        for place in np.flatnonzero(sides.min(axis=1) < _TINY).tolist():
            width, height = sides[place]
            pixels = f"{width:.1f} x {height:.1f} pixels of the network's input"
            what = f"object {kept[place] + 1}, {names[labels[place]]}: {pixels}"
            yield _finding("tiny box", record, what, boxes[place])


def _finding(kind: str, record: Record, what: str, box: NDArray[np.float64]) -> Finding:
    return Finding(kind, record.split, record.path, what, (Picture(record.path, tuple(box.tolist())),))


def copies(boxes: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Pairs of boxes (n, 4) that are one, in order."""
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    common = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    pairs = np.argwhere(np.triu(common >= _SAME * (areas[:, None] + areas[None] - common), 1))
    return [(int(one), int(other)) for one, other in pairs]


def _image_of(file: str, named_alike: Sequence[Record]) -> Record | None:
    """The image that a file belongs to, by folder where several have its name; None if that does not tell."""
    end = os.path.splitext(file)[0]
    fitting = [record for record in named_alike if os.path.splitext(record.path)[0].endswith(end)] or named_alike
    return fitting[0] if len(fitting) == 1 else None


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path.replace("\\", "/")))[0]
