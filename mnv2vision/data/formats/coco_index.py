"""A COCO annotation file as arrays: read once, then memory-mapped from the cache folder."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnv2vision.data.formats.coco_json import SECTIONS, CocoFile
from mnv2vision.data.formats.coco_objects import Images, Objects, packed, read_categories
from mnv2vision.data.formats.index_cache import Arrays, cached_arrays

_LAYOUT = "coco 1"  # increase it when the arrays or their content change


class Facts(NamedTuple):
    """The rest of an annotation file.

    Attributes:
        categories: (id, name), sorted by id.
        messages: What was dropped, clipped or derived.
    """

    categories: list[tuple[int, str]]
    messages: list[str]


def coco_index(file: Path) -> Arrays:
    """An annotation file's images, categories and objects as arrays.

    Any one of an object's box, area and outline is enough; missing ones are derived.

    Returns:
        For n objects, sorted by image: `boxes` (n, 4) float32 (x1, y1, x2, y2) within the image, `areas` (n,), `crowd`
        (n,), `categories` (n,) indices of the sorted category ids, `outlines` (n,) indices in the `outline_*` arrays of
        `coco_outlines.Outlines`, and `names` for messages. For m images: `sizes` (m, 2) height and width, `starts`
        (m + 1,) of their objects, and the texts `files` and `ids` (as JSON). `facts` is `Facts` as JSON.
        A text has a second array, `<name>_ends`.

    Raises:
        DataError: Naming the file and the invalid key, annotation or image.
    """
    return cached_arrays(_LAYOUT, [file], lambda: _read(file))


def facts(arrays: Arrays) -> Facts:
    """The categories and messages."""
    return Facts(**json.loads(arrays["facts"].tobytes()))


def _read(path: Path) -> dict[str, NDArray[Any]]:
    where = str(path)
    file = CocoFile(path)
    sections = [file.take(section) for section in SECTIONS]
    categories = read_categories(list(sections[2]), where)
    images = Images(where)
    for item in sections[0]:
        images.add(item)
    objects = Objects(images, {number: place for place, (number, _) in enumerate(categories)})
    for item in sections[1]:
        objects.add(item)
    arrays = objects.arrays()
    report = {"categories": categories, "messages": objects.messages}
    return {
        **arrays,
        **packed("files", images.files, where),
        **packed("ids", images.ids, where),
        "sizes": np.array(images.sizes, np.int64).reshape(-1, 2),
        "facts": np.frombuffer(json.dumps(report).encode(), np.uint8),
    }
