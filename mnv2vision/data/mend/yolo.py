"""Mending YOLO's label files and lists of images, line by line; others stay as they were written."""

import os
import re
from pathlib import Path

import numpy as np

from mnv2vision.data.formats.voc_lists import read_text
from mnv2vision.data.formats.yolo import Yolo, nominal
from mnv2vision.data.formats.yolo_index import BOX, corners, numbers
from mnv2vision.data.formats.yolo_layout import Description, describe, find
from mnv2vision.data.mend.boxes import CLIPPED, mend, told
from mnv2vision.data.mend.plan import Change, Edits, Plan
from mnv2vision.errors import DataError


def edit(plan: Plan) -> Edits:
    """New label files and lists of images; data.yaml, if it names the folder of the original."""
    edits = Edits()
    for split, source in plan.sources.items():
        assert isinstance(source, Yolo)
        for index, _ in plan.kept(split):
            for file in source.annotation_files(index):
                text, changes = _mend_labels(file, split, merge="boxes" in source.targets)
                if changes:
                    edits.texts[os.path.abspath(file)] = text
                    edits.changes += changes
    description = describe(Path(str(plan.dataset["root"])))
    for entry in {entry for entries in description.splits.values() for entry in entries}:
        place = find(description, entry, description.base)
        if place is not None and place.suffix == ".txt" and place.is_file():
            edits.texts[os.path.abspath(place)] = _mend_list(place, description, plan)
    text = read_text(description.file)
    # The copy has another folder: data.yaml's own, where `path` was that.
    if re.search(r"^path:\s*['\"]?/", text, re.M) and description.base.resolve() == Path(plan.top).resolve():
        edits.texts[os.path.abspath(description.file)] = re.sub(r"^path:.*$", "path: .", text, flags=re.M)
    return edits


def _mend_labels(file: str, split: str, *, merge: bool) -> tuple[str, list[Change]]:
    """The text of a label file, mended; lines that cannot be read stay."""
    lines = read_text(Path(file)).splitlines()
    rows: dict[int, list[float]] = {}
    repeated, seen = set[int](), set[tuple[float, ...]]()
    for place, line in enumerate(lines):
        try:
            values = numbers(line.split(), file) if line.split() else []
        except DataError:
            continue
        if tuple(values) in seen:
            repeated.add(place)
        elif values:
            rows[place] = values
            seen.add(tuple(values))
    boxes, sizes = nominal(np.array([corners(values) for values in rows.values()], np.float64).reshape(-1, 4))
    mended = mend(boxes, sizes, [values[0] for values in rows.values()], merge=merge)
    kinds = dict(zip(rows, mended.kinds, strict=True)) | dict.fromkeys(repeated, "box copied")
    for place, box in zip(rows, mended.boxes / sizes[:, [1, 0, 1, 0]], strict=True):
        if kinds[place] != CLIPPED:
            continue
        if len(rows[place]) != BOX:  # a polygon that is clipped has other points
            kinds[place] = ""
            continue
        x1, y1, x2, y2 = box.tolist()
        lines[place] = f"{int(rows[place][0])} {(x1 + x2) / 2:.8f} {(y1 + y2) / 2:.8f} {x2 - x1:.8f} {y2 - y1:.8f}"
    left_out = {place for place, kind in kinds.items() if kind not in ("", CLIPPED)}
    changes = [
        Change(kind, split, file, f"line {place + 1} {told(kind)}") for place, kind in sorted(kinds.items()) if kind
    ]
    return "".join(f"{line}\n" for place, line in enumerate(lines) if place not in left_out), changes


def _mend_list(place: Path, description: Description, plan: Plan) -> str:
    """A list without the images that are left out; whole paths, which are the original's, become those below it."""
    lines = []
    for line in filter(None, map(str.strip, read_text(place).splitlines())):
        image = find(description, line.replace("\\", "/"), place.parent)
        if image is not None and os.path.abspath(image) in plan.dropped:
            continue
        whole = image is not None and os.path.isabs(line)
        lines.append(f"./{os.path.relpath(str(image), place.parent)}" if whole else line)
    return "".join(f"{line}\n" for line in lines)
