"""The categories, images and objects of a COCO annotation file, checked and collected in arrays."""

import json
import math
from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2vision.data.formats.boxes import Names, check_boxes, check_pixels, counted
from mnv2vision.data.formats.coco_json import Id, id_of, shown, value_of
from mnv2vision.data.formats.coco_outlines import NONE, Outlines
from mnv2vision.data.formats.faults import refuse
from mnv2vision.data.formats.names import FileNames, leads_out
from mnv2vision.errors import DataError

_LARGEST = 2**31  # pixels of a side
_CROWD = {0: False, 1: True, "0": False, "1": True, None: False}


def packed(name: str, values: list[str], where: str) -> dict[str, NDArray[Any]]:
    """A sequence of texts as two arrays; DataError for invalid Unicode."""
    try:
        names = FileNames.of(values)
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: {shown(error.object)} is not valid Unicode") from error
    return {name: names.text, f"{name}_ends": names.ends}


def read_categories(items: list[dict[str, object]], where: str) -> list[tuple[int, str]]:
    """Ids and names, sorted by id; DataError if they are not unique."""
    found: dict[int, str] = {}
    for item in items:
        number = id_of(item, "id", where)
        if not isinstance(number, int):
            raise DataError(f"{where}: a category's id must be a whole number, not {shown(number)}")
        if number in found:
            raise DataError(f"{where}: several categories have the id {number}")
        name = value_of(item, "name", where)
        if not isinstance(name, str | int | float) or not str(name).strip("\ufeff \t\r\n"):
            raise DataError(f"{where}: category {number} has the invalid name {shown(name)}")
        found[number] = str(name).strip("\ufeff \t\r\n")
    by_name: dict[str, int] = {}
    for number, name in found.items():
        if name in by_name:
            raise DataError(
                f"{where}: categories {by_name[name]} and {number} are both named {name}: rename one, or change its"
                " objects' category_id"
            )
        by_name[name] = number
    return sorted(found.items())


class Images:
    """The images of a file by id."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.files: list[str] = []
        self.ids: list[str] = []
        self.sizes: list[tuple[int, int]] = []
        self.place: dict[Id, int] = {}

    def add(self, item: Mapping[str, object]) -> None:
        """Add an entry; DataError for one that cannot be right."""
        number = id_of(item, "id", self.where)
        if number in self.place:
            raise DataError(f"{self.where}: several images have the id {shown(number)}")
        self.place[number] = len(self.files)
        own = item["id"]  # as written, for result files
        self.ids.append(json.dumps(own if isinstance(own, str) else number))
        self.files.append(_inside(str(value_of(item, "file_name", self.where)), self.where))
        sides = [value_of(item, name, self.where) for name in ("height", "width")]
        known = [int(side) for side in sides if isinstance(side, int | float) and 1 <= side < _LARGEST]
        if len(known) < 2:
            height, width = map(shown, sides)
            raise DataError(f"{self.where}: image {shown(number)} has a height of {height} and a width of {width}")
        self.sizes.append((known[0], known[1]))


class Objects:
    """The objects of a file; `arrays` sorts them by image."""

    def __init__(self, images: Images, categories: Mapping[Id, int]) -> None:
        self.messages: list[str] = []  # what was dropped, clipped or derived; set by `arrays`
        self._images = images
        self._place_of_category = categories
        self._outlines = Outlines()
        self._names: list[str] = []
        self._of_image, self._categories = array("i"), array("i")
        self._boxes, self._areas, self._crowd = array("d"), array("d"), array("b")
        self._from_outline, self._areas_derived = array("b"), array("b")

    def add(self, item: Mapping[str, object]) -> None:
        """Add an entry; DataError for one that cannot be right."""
        images, where = self._images, self._images.where
        number = item.get("id", f"number {len(self._names) + 1}")
        name = f"annotation {number if isinstance(number, str | int) else shown(number)}"
        place = images.place.get(id_of(item, "image_id", where))
        if place is None:
            error = DataError(f"{where}: {name} belongs to image {shown(item['image_id'])}, which does not exist")
            refuse("annotation of no image", error, where)
            return
        category = self._place_of_category.get(id_of(item, "category_id", where))
        if category is None:
            error = DataError(f"{where}: {name} has category {shown(item['category_id'])}, which does not exist")
            refuse("unknown class", error, images.files[place])
            return
        crowd = item.get("iscrowd")
        if not isinstance(crowd, int | float | str | None) or crowd not in _CROWD:
            raise DataError(f"{where}: {name} has iscrowd {shown(crowd)}; valid: 0, 1")
        height, width = images.sizes[place]
        self._outlines.add(item.get("segmentation"), height, width)
        box, area = _box(item.get("bbox")), _area(item.get("area"))
        no_area, derived = area is None, False
        if area is None or not _spans(box):
            box, area, derived = self._derive(box, area, height)
        self._names.append(name)
        self._of_image.append(place)
        self._categories.append(category)
        self._boxes.extend(box)
        self._areas.append(area)
        self._crowd.append(_CROWD[crowd])
        self._from_outline.append(derived)
        self._areas_derived.append(no_area)

    def _derive(self, box: list[float], area: float | None, height: int) -> tuple[list[float], float, bool]:
        """Box and area, missing ones derived from outline or box; and whether the box was derived."""
        place = len(self._names)
        derived = False
        of_outline = math.inf
        if self._outlines.kind(place) > NONE:
            around, of_outline = self._outlines.measure(place, height)
            if not _spans(box):
                x1, y1, x2, y2 = around.tolist()
                box, derived = [x1, y1, x2 - x1, y2 - y1], True
        if area is None:  # NaN: that of the clipped box, later
            area = of_outline if 0 < of_outline < box[2] * box[3] else math.nan
        return box, area, derived

    def __len__(self) -> int:
        return len(self._names)

    def corners(self) -> NDArray[np.float64]:
        """(n, 4) (x1, y1, x2, y2) as annotated or derived, in the order of adding."""
        boxes = np.array(self._boxes, np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return boxes

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The valid objects, as documented in `coco_index.coco_index`."""
        where = self._images.where
        of_image = np.frombuffer(self._of_image, np.int32)
        order = np.argsort(of_image, kind="stable").astype(np.int32)  # an image's objects stay in the file's order
        of_image = of_image[order]
        sizes = np.array(self._images.sizes, np.float64).reshape(-1, 2)
        boxes = self.corners()[order]
        check_pixels(boxes, sizes, where)
        names = _Named(self._names, self._images.files, order, of_image)
        clean, kept, report = check_boxes(boxes, sizes[of_image], names)
        far, short = np.zeros((2, len(order)), np.bool_)
        far[self._outlines.far] = True
        short[self._outlines.short] = True
        notes = [
            counted("boxes derived from outlines", np.frombuffer(self._from_outline, np.bool_)[order], names),
            counted(
                "areas derived from outline or box", np.frombuffer(self._areas_derived, np.bool_)[order] & kept, names
            ),
            counted("outlines with a polygon of fewer than three points, dropped", short[order], names),
            counted("outlines farther outside the image than its size, clipped", far[order], names),
        ]
        self.messages = [note for note in [report, *notes] if note]
        order, clean, of_image = order[kept], clean[kept], of_image[kept]
        own = (clean[:, 2] - clean[:, 0]).astype(np.float64) * (clean[:, 3] - clean[:, 1])
        areas = np.frombuffer(self._areas, np.float64)[order]
        return {
            "boxes": clean,
            "areas": np.where(np.isnan(areas), own, areas),
            "crowd": np.frombuffer(self._crowd, np.bool_)[order],
            "categories": np.frombuffer(self._categories, np.int32)[order],
            "outlines": order,
            "starts": np.searchsorted(of_image, np.arange(len(sizes) + 1)),
            **packed("names", [self._names[i] for i in order], where),
            **self._outlines.arrays(),
        }


class _Named(Names):
    """Names of objects for messages."""

    def __init__(
        self, names: list[str], files: list[str], order: NDArray[np.int32], of_image: NDArray[np.int32]
    ) -> None:
        self._names, self._files, self._order, self._of_image = names, files, order, of_image

    def __getitem__(self, index: int, /) -> str:
        return f"{self._names[self._order[index]]} of {self._files[self._of_image[index]]}"


def _box(given: object) -> list[float]:
    """(x, y, width, height); NaN if missing or invalid, which `check_boxes` reports."""
    if isinstance(given, list) and len(given) == 4:
        try:
            return array("d", given).tolist()  # checks the types
        except (TypeError, OverflowError):
            pass
    return [math.nan] * 4


def _area(given: object) -> float | None:
    """The area; None if missing. Some tools write 0 for unknown."""
    return float(given) if isinstance(given, int | float) and 0 < given < _LARGEST**2 else None


def _spans(box: list[float]) -> bool:
    return math.isfinite(sum(box)) and box[2] > 0 and box[3] > 0


def _inside(name: str, where: str) -> str:
    """An image's file name; DataError if it points outside the image folder."""
    if leads_out(name) or leads_out(name.replace("\\", "/")):
        raise DataError(f"{where}: the file name {name!r} points outside the image folder")
    return name
