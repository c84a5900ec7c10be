"""Mending VOC's XML files and lists; what is not mended stays as it was written."""

import os
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from mnv2vision.data.check.records import Record
from mnv2vision.data.formats import faults
from mnv2vision.data.formats.orientation import stored_size
from mnv2vision.data.formats.voc import Voc
from mnv2vision.data.formats.voc_index import SIDES, name_of, sides_of
from mnv2vision.data.formats.voc_lists import image_of, photo_path, photos, read_text, split_folders
from mnv2vision.data.mend.boxes import CLIPPED, mend, plain, told
from mnv2vision.data.mend.plan import Change, Edits, Plan
from mnv2vision.errors import DataError

_FROM_ONE = (1, 1, 0, 0)
"""What VOC's sides are more than those that are counted from 0."""


def edit(plan: Plan) -> Edits:
    """New XML files and lists."""
    edits = Edits()
    for split, source in plan.sources.items():
        assert isinstance(source, Voc)
        for index, record in plan.kept(split) if "boxes" in source.targets else ():
            file = source.annotation_files(index)[0]
            text, changes = _mend_objects(file, split, _annotated_size(record, plan))
            if changes:
                edits.texts[os.path.abspath(file)] = text
                edits.changes += changes
    root = Path(str(plan.dataset["root"]))
    for top in (root, *root.glob("VOC[0-9]*")):
        for path in sorted((top / "ImageSets").rglob("*.txt")):
            _mend_list(edits, path, top, plan.dropped)
    gone = {os.path.abspath(change.file) for change in plan.gone.get("train", {}).values()} - plan.dropped
    if gone:  # files that val keeps
        for folder, name in split_folders(root, str(plan.dataset["train_split"]), _year(plan)):
            kind = "Segmentation" if "mask" in plan.sources["train"].targets else "Main"
            _mend_list(edits, folder / "ImageSets" / kind / f"{name}.txt", folder, gone | plan.dropped)
    return edits


def has_lists(plan_root: Path) -> bool:
    """Whether splits are lists."""
    return any((top / "ImageSets").is_dir() for top in (plan_root, *plan_root.glob("VOC[0-9]*")))


def _year(plan: Plan) -> int | None:
    year = plan.dataset["year"]
    assert isinstance(year, int | None)
    return year


def _annotated_size(record: Record, plan: Plan) -> tuple[int, int]:
    """(height, width) that an image's boxes are of."""
    if plan.dataset["orientation"] == "stored" and record.header is not None:
        return stored_size(record.size, record.header.orientation)
    return record.size


def _mend_objects(file: str, split: str, size: tuple[int, int]) -> tuple[str, list[Change]]:
    """The text of an XML file, mended; one that cannot be read stays."""
    parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    try:
        root = ElementTree.parse(file, parser).getroot()
    except (ElementTree.ParseError, OSError, ValueError, LookupError):
        return "", []
    items = list(root.iter("object"))
    if not all(map(name_of, items)):
        return "", []
    boxes = np.array([sides_of(item) for item in items], np.float64).reshape(-1, 4) - _FROM_ONE
    sizes = np.tile(np.array(size, np.float64), (len(items), 1))
    mended = mend(boxes, sizes, [name_of(item) for item in items], merge=True)
    parents = {child: parent for parent in root.iter() for child in parent}
    changes = []
    for number, (item, kind) in enumerate(zip(items, mended.kinds, strict=True), 1):
        if kind == CLIPPED:
            _clip(item, boxes[number - 1].tolist(), mended.boxes[number - 1].tolist())
        elif kind:
            parents[item].remove(item)
        if kind:
            changes.append(Change(kind, split, file, f"object {number} {told(kind)}"))
    return ElementTree.tostring(root, encoding="unicode") + "\n", changes


def _clip(item: ElementTree.Element, before: list[float], after: list[float]) -> None:
    for side, more, was, now in zip(SIDES, _FROM_ONE, before, after, strict=True):
        element = item.find(f"bndbox/{side}")
        if was != now and element is not None:
            element.text = str(plain(now + more))


def _mend_list(edits: Edits, path: Path, top: Path, gone: frozenset[str] | set[str]) -> None:
    """A list without the photos that are left out."""
    try:
        lines = read_text(path).splitlines()
    except DataError:  # no list of images
        return
    files = photos(top)
    with faults.collected():  # where a photo that is missing would be
        kept = [
            line
            for line in lines
            if not line.strip() or os.path.abspath(photo_path(files, image_of(line.strip(), files))) not in gone
        ]
    if len(kept) < len(lines):
        edits.texts[os.path.abspath(path)] = "".join(f"{line}\n" for line in kept)
