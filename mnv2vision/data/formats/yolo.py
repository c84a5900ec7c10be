"""YOLO's data sets: data.yaml, images, and beside them a label file each, with boxes or polygons."""

import json
import logging
import os
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnv2vision.common.text import few
from mnv2vision.data.decoding import upright
from mnv2vision.data.formats.boxes import Names, check_boxes, counted
from mnv2vision.data.formats.classes import select_classes, tell_of_absent
from mnv2vision.data.formats.coco_masks import check_outlines, paint_mask
from mnv2vision.data.formats.coco_outlines import NONE, POLYGONS, Outlines
from mnv2vision.data.formats.faults import Fault, are_wanted, note
from mnv2vision.data.formats.index_cache import Arrays
from mnv2vision.data.formats.names import FileNames, texts
from mnv2vision.data.formats.orientation import (
    Orientation,
    check_orientation,
    read_photo,
    stored_size,
    tell_of_turned,
    turn_boxes,
)
from mnv2vision.data.formats.yolo_index import yolo_index
from mnv2vision.data.formats.yolo_layout import describe, label_files, list_images
from mnv2vision.data.sample import Boxes, Sample, check_targets
from mnv2vision.errors import DataError

log = logging.getLogger(__name__)

_NOMINAL = 1000.0
"""Side of an image on which boxes are checked: what reaches less than a thousandth outside is put down to rounding."""
_THINNEST = 1e-6
"""Share of the image's side, the last of the usual six decimals."""
_WHOLE = 0.01
"""Pixels: corners as close to whole ones are, as far as six decimals can tell."""


class Yolo:
    """Images with boxes, masks or both, in ultralytics' and Roboflow's layout.

    `data.yaml` names the classes and, for each split, a folder, a list of images (.txt), or several; see `list_images`.
    An image in a folder `images` has its labels in the folder `labels` in its place, others beside them. A line is
    `class x y width height`, or `class x y x y x y …` for a polygon, in shares of the image. Images without a label
    file, or with an empty one, have no objects. Masks are painted from the polygons as from COCO's.

    Attributes:
        names: Class names by label; `mask_names` if the mask is the only target.
        mask_names: "background", then the classes; empty without masks.
        targets: The requested targets.
        protocol: The evaluation of the boxes.
    """

    protocol = "coco"

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str | None,
        *,
        targets: Collection[str] = ("boxes",),
        classes: Sequence[str] | None = None,
        orientation: Orientation = "upright",
    ) -> None:
        """Read the label files, or their cached index.

        Args:
            root: The folder with `data.yaml`, or that file.
            split: A key of data.yaml; "val" is also looked for as "valid". None for all, see `list_images`.
            targets: What to read: "boxes", "mask" or both.
            classes: Names of the classes to keep, in label order (in masks from 1 on); by default all, by id.
            orientation: What annotations of photos with an EXIF orientation refer to.

        Raises:
            DataError: Naming the file and the line that is missing or invalid; also if no object is left.
        """
        check_orientation(orientation)
        self.targets = check_targets(targets, ("boxes", "mask"))
        self._orientation = orientation
        description = describe(Path(root))
        self._root = description.file.parent
        images = list_images(description, split)
        self._files = FileNames.of(images)
        where = f"{description.file}, {split}"
        labels = label_files(images, where)
        self._index = yolo_index([path for path in labels if path], where)
        self._file_of = np.cumsum([bool(path) for path in labels]) - 1  # the one before where there is none
        self._has_labels = np.array([bool(path) for path in labels])
        self._labels_of = FileNames.of(labels)
        chosen = select_classes(description.names, classes, str(description.file))
        self.names = tuple(description.names[place] for place in chosen)
        self._fill(description.names, chosen, where)
        self.mask_names = ("background", *self.names) if "mask" in self.targets else ()
        if "boxes" not in self.targets:
            self.names = self.mask_names
        tell_of_turned(self._files.__getitem__, len(self), where, orientation)

    def _fill(self, names: Sequence[str], chosen: Sequence[int], where: str) -> None:
        """Check the objects, and keep those of the chosen classes."""
        index = self._index
        ids, boxes = index["classes"], index["boxes"]
        named = _Named(index, np.arange(len(ids)))
        none = f"is none of the ids 0 to {len(names) - 1} ({few(names)})"
        for place in np.flatnonzero(ids >= len(names)).tolist() if are_wanted() else ():
            note(Fault("unknown class", f"{named[place]}: {ids[place]} {none}", named[place].rpartition(" of ")[2]))
        if not are_wanted() and (unknown := counted("objects have a class that", ids >= len(names), named)):
            raise DataError(f"{where}: {unknown} {none}")
        label_of = np.full(len(names), -1, np.int64)
        label_of[list(chosen)] = np.arange(len(chosen))
        self._labels = np.where(ids < len(names), label_of[np.minimum(ids, len(names) - 1)], -1)
        kept = np.flatnonzero(self._labels >= 0)
        _, valid, report = check_boxes(*nominal(boxes[kept]), _Named(index, kept))
        for message in [*json.loads(index["messages"].tobytes()), *([report] if report else [])]:
            log.warning("%s: %s", where, message)
        self._objects = kept[valid]
        self._starts = np.searchsorted(self._objects, index["starts"])
        if not len(self._objects):
            raise DataError(f"{where}: its {len(self)} images have no objects of class {few(self.names)}")
        tell_of_absent(self._labels[self._objects], self.names, where)
        if "mask" in self.targets:
            kinds = np.where(np.diff(index["ends"]) > 0, POLYGONS, NONE).astype(np.int32)
            outlines = Arrays({"outline_kinds": kinds, "outlines": np.arange(len(ids))})
            check_outlines(outlines, self._objects.astype(np.int32), self.names, _Named(index, self._objects), where)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        path = self._files[index]
        image, turned = read_photo(path, None, "", self._orientation)
        size = stored_size((image.shape[0], image.shape[1]), turned)
        objects, outlines = self._objects_of(index, size)
        sample = Sample(image, image_id=self.image_id(index), path=path)
        if "mask" in self.targets:
            sample.mask = upright(paint_mask(outlines, np.arange(len(objects)), objects, size), turned)
        if "boxes" in self.targets:
            sample.boxes = replace(objects, boxes=turn_boxes(objects.boxes, image.shape, turned))
        return sample

    def image_id(self, index: int) -> str:
        """The id of an image: its path below the folder of data.yaml."""
        return os.path.relpath(self._files[index], self._root)

    def path(self, index: int) -> str:
        """The path of an image."""
        return self._files[index]

    def annotation_files(self, index: int) -> list[str]:
        """The files that are of an image alone: that of its labels, if it has one."""
        return [path] if (path := self._labels_of[index]) else []

    def _objects_of(self, index: int, size: tuple[int, int]) -> tuple[Boxes, Arrays]:
        """The objects of an image with stored (height, width), in pixels, and their outlines as `paint_mask` reads."""
        file, arrays = int(self._file_of[index]), self._index
        own = self._objects[self._starts[file] : self._starts[file + 1]] if self._has_labels[index] else np.arange(0)
        height, width = size
        corners = _whole(arrays["boxes"][own] * (width, height, width, height))
        boxes = np.clip(corners, 0, (width, height, width, height)).astype(np.float32)
        areas = ((boxes[:, 2] - boxes[:, 0]).astype(np.float64) * (boxes[:, 3] - boxes[:, 1])).astype(np.float64)
        outlines = Outlines()
        for place, row in enumerate(own):
            points = arrays["coordinates"][arrays["ends"][row] : arrays["ends"][row + 1]].reshape(-1, 2)
            polygon = _near_whole(points * (width, height))
            outlines.add([polygon.ravel().tolist()] if len(polygon) else None, height, width)
            if len(polygon) and 0 < (area := outlines.measure(place, height)[1]) < areas[place]:
                areas[place] = area
        return Boxes.of(boxes, self._labels[own], areas=areas), Arrays(outlines.arrays())


def nominal(boxes: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Boxes (n, 4) in shares as pixels of an image that all are checked on, and its (n, 2) sizes."""
    wide: NDArray[np.bool_] = np.all(boxes[:, 2:] - boxes[:, :2] >= _THINNEST, axis=1)
    spanning = wide | ~np.asarray(np.isfinite(boxes).all(axis=1))
    return np.where(spanning[:, None], boxes, 0) * _NOMINAL, np.full((len(boxes), 2), _NOMINAL)


class _Named(Names):
    """Names of objects for messages."""

    def __init__(self, index: Arrays, objects: NDArray[np.int64]) -> None:
        self._index, self._objects = index, objects

    def __getitem__(self, index: int, /) -> str:
        place = int(self._objects[index])
        file = int(np.searchsorted(self._index["starts"], place, side="right")) - 1
        return f"line {self._index['lines'][place]} of {texts(self._index, 'files')[file]}"


def _near_whole(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    rounded = np.round(pixels)
    return np.where(np.abs(pixels - rounded) < _WHOLE, rounded, pixels)


def _whole(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Boxes (n, 4) in pixels, with corners at whole ones where they are as good as there, and an area is left."""
    rounded = _near_whole(boxes)
    spanning: NDArray[np.bool_] = np.all(rounded[:, 2:] > rounded[:, :2], axis=1)
    return np.where(spanning[:, None], rounded, boxes)
