"""COCO, and data sets in its layout: one JSON file of instances, one folder of images."""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2vision.data.boxes import clean_boxes
from mnv2vision.data.decoding import decode_image
from mnv2vision.data.folder_index import few
from mnv2vision.data.sample import Sample
from mnv2vision.errors import DataError

_LARGEST = 2**31  # pixels of a side: what is beyond is no size


class Coco:
    """Images with boxes; categories are numbered without gaps by label, and `category_ids` leads back.

    The annotation file is `annotations/instances_<split><year>.json` (or without the year, or `<split>.json`, or
    Roboflow's `<split>/_annotations.coco.json`), the images are in `<split><year>/`, `<split>/`, `images/…` or beside
    the annotation file. Images without objects are kept. A box may lack `iscrowd` (no crowd) and `area` (the box's).

    Attributes:
        names: Category names by label.
        category_ids: The file's category ids by label.
        targets: The boxes.
    """

    targets: frozenset[str] = frozenset({"boxes"})

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str,
        *,
        year: int | None = 2017,
        classes: Sequence[str] | None = None,
        outlines: bool = False,
    ) -> None:
        """Read the annotation file.

        Args:
            root: The folder of `annotations/` and the image folders.
            split: "train", "val" or another.
            year: Of the file names; they may also do without.
            classes: The categories to keep, by name, in the order of their labels; all by default, by rising id.
            outlines: Keep the objects' outlines, too, which take much memory; see `Coco.outlines`.

        Raises:
            DataError: Naming the file and the key, annotation or image at fault.
        """
        folder = Path(root)
        if not folder.is_dir():
            raise DataError(f"{folder}: the data set's root folder does not exist")
        self.annotation_file, self.image_folder = _find(folder, split, "" if year is None else str(year))
        data = _read(self.annotation_file)
        images, annotations, categories = (
            _section(data, key, self.annotation_file) for key in ("images", "annotations", "categories")
        )
        where = str(self.annotation_file)
        by_id = dict(sorted((_category(item, "id", where), str(_value(item, "name", where))) for item in categories))
        if len(by_id) < len(categories):
            twice = [number for number, count in Counter(item["id"] for item in categories).items() if count > 1]
            raise DataError(f"{where}: several categories have the id {few([str(number) for number in twice])}")
        self.category_ids, self.names = _select(by_id, classes, where)

        self._ids: list[int | str] = [_id(item, "id", where) for item in images]
        index = {image_id: i for i, image_id in enumerate(self._ids)}
        if len(index) < len(images):
            raise DataError(f"{where}: {len(images) - len(index)} images have the id of another")
        self._files = [_inside(str(_value(item, "file_name", where)), where) for item in images]
        self._sizes = np.array([_size(item, where) for item in images], np.float64).reshape(-1, 2)
        self._keeps_outlines = outlines
        self._fill(annotations, index, by_id, where)

    def _fill(
        self, annotations: Sequence[Mapping[str, Any]], index: Mapping[Any, int], known: Mapping[Any, str], where: str
    ) -> None:
        label_of = {number: label for label, number in enumerate(self.category_ids)}
        rows = []
        for item in annotations:
            image_id, category = _id(item, "image_id", where), _category(item, "category_id", where)
            if image_id not in index:
                raise DataError(f"{where}: annotation {item.get('id')} is of image {image_id}, which is not there")
            if category not in known:
                raise DataError(f"{where}: annotation {item.get('id')} has category {category}, which has no name")
            if category in label_of:
                rows.append((index[image_id], label_of[category], item))
        rows.sort(key=lambda row: row[0])  # stable: an image's boxes stay in the file's order
        of_image = np.array([row[0] for row in rows], np.int64)
        boxes = np.array([_box(row[2]) for row in rows], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        named = [f"annotation {row[2].get('id')} of {self._files[row[0]]}" for row in rows]
        clean, kept = clean_boxes(boxes, self._sizes[of_image], where, named)
        boxes = clean.astype(np.float64)
        own = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        given = [row[2].get("area") for row in rows]
        areas = np.array([_area(a, b) for a, b in zip(given, own.tolist(), strict=True)], np.float64)
        # Arrays, not lists of objects: reading processes share them, and counting references would copy them.
        self._boxes, self._areas = clean[kept], areas[kept]
        self._labels = np.array([row[1] for row in rows], np.int64)[kept]
        self._crowd = np.array([bool(row[2].get("iscrowd", 0)) for row in rows], np.bool_)[kept]
        self._starts = np.searchsorted(of_image[kept], np.arange(len(self._ids) + 1))
        if self._keeps_outlines:
            self._outlines = [row[2].get("segmentation", []) for row, keep in zip(rows, kept, strict=True) if keep]

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        path = os.path.join(self.image_folder, self._files[index])
        image = decode_image(path)
        check_size(image, self._sizes[index], path, str(self.annotation_file))
        own = slice(self._starts[index], self._starts[index + 1])
        return Sample(
            image,
            image_id=self._ids[index],
            path=path,
            boxes=self._boxes[own],
            labels=self._labels[own],
            is_crowd=self._crowd[own],
            difficult=np.zeros(own.stop - own.start, np.bool_),
            areas=self._areas[own],
        )

    def outlines(self, index: int) -> list[Any]:
        """The annotated outlines of an image's objects: polygons, or run-length codes."""
        return self._outlines[self._starts[index] : self._starts[index + 1]]


def check_size(image: NDArray[np.uint8], size: NDArray[np.float64], path: str, annotations: str) -> None:
    """DataError unless an image has the (height, width) that its annotations are for."""
    height, width = (int(side) for side in size)
    if image.shape[:2] != (height, width):
        raise DataError(
            f"{path}: is {image.shape[1]}x{image.shape[0]} pixels (upright), but {annotations} says {width}x{height}:"
            " its boxes would be wrong"
        )


def _find(root: Path, split: str, year: str) -> tuple[Path, Path]:
    names = [f"{split}{year}", split] if year else [split]
    candidates = [
        *(root / "annotations" / f"instances_{name}.json" for name in names),
        *(root / "annotations" / f"{name}.json" for name in names),
        *(root / name / "_annotations.coco.json" for name in names),
    ]
    file = next((path for path in candidates if path.is_file()), None)
    if file is None:
        there = sorted(path.name for path in (root / "annotations").glob("*.json"))
        found = f"; annotations/ holds {few(there)}" if there else ""
        raise DataError(f"{candidates[0]}: there is no such file for the split {split!r}{found}")
    folders = [*(root / name for name in names), *(root / "images" / name for name in names), root / "images"]
    return file, next((folder for folder in folders if folder.is_dir()), file.parent)


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: line {error.lineno} is no JSON ({error.msg})") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if not isinstance(data, dict):
        raise DataError(f"{path}: expected an object with images, annotations and categories")
    return data


def _section(data: Mapping[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    if not isinstance(data.get(key), list):
        raise DataError(f"{path}: lacks the list {key!r}; it has {few(sorted(data)) or 'nothing'}")
    return list(data[key])


def _value(item: Mapping[str, Any], key: str, where: str) -> Any:
    if not isinstance(item, dict) or key not in item:
        raise DataError(f"{where}: an entry lacks {key!r}: {json.dumps(item)[:120]}")
    return item[key]


def _id(item: Mapping[str, Any], key: str, where: str) -> int | str:
    value = _value(item, key, where)
    if not isinstance(value, int | str):
        raise DataError(f"{where}: {key} is a number or a word, not {value!r}")
    return value


def _category(item: Mapping[str, Any], key: str, where: str) -> int:
    value = _value(item, key, where)
    if not isinstance(value, int):
        raise DataError(f"{where}: the {key} of a category is a whole number, not {value!r}")
    return value


def _size(item: Mapping[str, Any], where: str) -> tuple[int, int]:
    height, width = _value(item, "height", where), _value(item, "width", where)
    if not all(isinstance(side, int | float) and 0 < side < _LARGEST for side in (height, width)):
        raise DataError(f"{where}: image {item['id']} has a height of {height!r} and a width of {width!r}")
    return int(height), int(width)


def _area(given: Any, of_box: float) -> float:
    return float(given) if isinstance(given, int | float) and 0 <= given < _LARGEST**2 else of_box


def _box(item: Mapping[str, Any]) -> list[float]:
    box = item.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(side, int | float) for side in box):
        return [np.nan] * 4  # counted and named with the boxes that are not finite
    return box


def leads_out(name: str) -> bool:
    """Whether a relative file name leaves its folder."""
    return os.path.isabs(name) or os.path.normpath(name).split(os.sep)[0] == os.pardir


def _inside(name: str, where: str) -> str:
    """An image's file name, which must not lead out of the image folder."""
    if leads_out(name):
        raise DataError(f"{where}: the file name {name!r} leads out of the image folder")
    return name


def _select(
    by_id: Mapping[Any, str], classes: Sequence[str] | None, where: str
) -> tuple[tuple[Any, ...], tuple[str, ...]]:
    if classes is None:
        return tuple(by_id), tuple(by_id.values())
    ids = {name: number for number, name in by_id.items()}
    unknown = [name for name in classes if name not in ids]
    if unknown or not classes or len(set(classes)) < len(classes):
        problem = f"no category {few(unknown)}" if unknown else "`classes` must name one category or more, none twice"
        raise DataError(f"{where}: {problem}; the categories are: {few(sorted(ids), 20)}")
    return tuple(ids[name] for name in classes), tuple(classes)
