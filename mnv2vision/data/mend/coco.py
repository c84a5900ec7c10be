"""Mending COCO's annotation files: entries are left out or clipped, all else stays as it was written."""

import json
import os

import numpy as np

from mnv2vision.data.formats import faults
from mnv2vision.data.formats.coco import Coco
from mnv2vision.data.formats.coco_json import id_of
from mnv2vision.data.formats.coco_objects import Images, Objects, read_categories
from mnv2vision.data.mend.boxes import CLIPPED, mend, plain, told
from mnv2vision.data.mend.plan import Change, Edits, Plan


def edit(plan: Plan) -> Edits:
    """New annotation files of the splits."""
    edits = Edits()
    for split, source in plan.sources.items():
        assert isinstance(source, Coco)
        path, before = source.annotation_file, len(edits.changes)
        content = json.loads(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
        gone = {id_of(content["images"][index], "id", str(path)) for index in plan.gone[split]}
        edits.changes += _mend_objects(plan, split, source, content)
        if not gone and len(edits.changes) == before:
            continue
        for section, key in (("images", "id"), ("annotations", "image_id")):
            content[section] = [item for item in content[section] if id_of(item, key, str(path)) not in gone]
        edits.texts[os.path.abspath(path)] = json.dumps(content)
    return edits


def _mend_objects(plan: Plan, split: str, source: Coco, content: dict[str, list[dict[str, object]]]) -> list[Change]:
    """Mend the annotations of a parsed file, by what their reader makes of them."""
    where = str(source.annotation_file)
    images = Images(where)
    for item in content["images"]:
        images.add(item)
    categories = read_categories(content["categories"], where)
    objects = Objects(images, {number: place for place, (number, _) in enumerate(categories)})
    taken: list[dict[str, object]] = []
    with faults.collected():  # what belongs to no image or class stays
        for item in content["annotations"]:
            objects.add(item)
            taken += [item] * (len(objects) - len(taken))
    corners = objects.corners()
    of_image = np.array([images.place[id_of(item, "image_id", where)] for item in taken], np.int64)
    order = np.argsort(of_image, kind="stable")
    changes, left_out = list[Change](), set[int]()
    for index, record in plan.kept(split):
        own = order[slice(*np.searchsorted(of_image[order], [index, index + 1]))]
        items = [taken[place] for place in own]
        sizes = np.tile(np.array(images.sizes[index], np.float64), (len(own), 1))
        classes = [None if item.get("iscrowd") in (1, "1") else id_of(item, "category_id", where) for item in items]
        mended = mend(corners[own], sizes, classes, merge="boxes" in source.targets)
        for item, kind, box in zip(items, mended.kinds, mended.boxes.tolist(), strict=True):
            if kind == CLIPPED:
                _clip(item, box)
            elif kind:
                left_out.add(id(item))
            if kind:
                changes.append(Change(kind, split, record.path, f"annotation {item.get('id')} {told(kind)}"))
    content["annotations"] = [item for item in content["annotations"] if id(item) not in left_out]
    return changes


def _clip(item: dict[str, object], box: list[float]) -> None:
    """Give an annotation this box; its area, too, where it was that of the box."""
    x1, y1, x2, y2 = box
    before, area = item.get("bbox"), item.get("area")
    item["bbox"] = [plain(side) for side in (x1, y1, x2 - x1, y2 - y1)]
    if isinstance(before, list) and isinstance(area, int | float) and np.isclose(area, float(before[2]) * before[3]):
        item["area"] = plain((x2 - x1) * (y2 - y1))
