"""COCO and data sets in its layout: one JSON file of instances, one folder of images."""

import json
import logging
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mnv2vision.common.colors import VOC_NAMES
from mnv2vision.common.text import few
from mnv2vision.data.decoding import upright
from mnv2vision.data.formats.classes import select_classes, split_names, tell_of_absent
from mnv2vision.data.formats.coco_index import coco_index, facts
from mnv2vision.data.formats.coco_masks import check_outlines, paint_mask
from mnv2vision.data.formats.coco_unlisted import PLACES, ROBOFLOWS, split_of, unlisted_photos
from mnv2vision.data.formats.faults import Fault, are_wanted, note
from mnv2vision.data.formats.names import texts
from mnv2vision.data.formats.orientation import (
    Orientation,
    check_orientation,
    read_photo,
    stored_size,
    tell_of_turned,
    turn_boxes,
)
from mnv2vision.data.sample import Boxes, Sample, check_targets
from mnv2vision.errors import DataError

log = logging.getLogger(__name__)


_OF_VOC = {  # VOC's names where COCO has others
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}


class Coco:
    """Images with boxes, masks or both. Labels are consecutive; `category_ids` maps them to the file's ids.

    The annotation file is `annotations/instances_<split><year>.json` (or without the year, or `<split>.json`, or
    Roboflow's `<split>/_annotations.coco.json`), the images are in `<split><year>/`, `<split>/`, `images/…` or beside
    the annotation file; `val` may be called `valid`. Images without objects are kept. Boxes, areas and outlines may be
    missing if they can be derived, and `iscrowd` is optional. The file is read once and indexed in the cache folder.
    Masks are painted from the outlines, see `paint_mask`.

    Attributes:
        names: Category names by label; `mask_names` if the mask is the only target.
        mask_names: "background", then the categories; empty without masks.
        category_ids: The file's category ids by box label.
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
        year: int | None = 2017,
        classes: Sequence[str] | None = None,
        voc: bool = False,
        orientation: Orientation = "upright",
    ) -> None:
        """Read the annotation file.

        Args:
            root: The folder with `annotations/` and the image folders.
            split: "train", "val" or another; None for the only annotation file.
            targets: What to read: "boxes", "mask" or both.
            year: The year in file names; optional there.
            classes: Names of the categories to keep, in label order (in masks from 1 on); by default all, sorted by id.
                In masks, all others are background.
            voc: Use VOC's classes, by VOC's names, which DeepLab is pre-trained on.
            orientation: What annotations of photos with an EXIF orientation refer to.

        Raises:
            DataError: Naming the file and the invalid key, annotation or image; also if no object is left.
        """
        if voc and classes is not None:
            raise DataError("dataset.voc_classes and dataset.classes cannot be combined")
        check_orientation(orientation)
        self.targets = check_targets(targets, ("boxes", "mask"))
        folder = Path(root)
        if not os.path.isdir(folder):  # Path.is_dir raises for long names
            raise DataError(f"{folder}: the data set's root folder does not exist")
        self.annotation_file, self.image_folder = _find(folder, split, year)
        where = str(self.annotation_file)
        # Arrays, not lists of objects: workers share them, and reference counts would copy them.
        self.index = coco_index(self.annotation_file)
        known = facts(self.index)
        for message in known.messages:
            log.warning("%s: %s", where, message)
        wanted = [_OF_VOC.get(name, name) for name in VOC_NAMES] if voc else classes
        places = select_classes([name for _, name in known.categories], wanted, where)
        self.category_ids = tuple(known.categories[place][0] for place in places)
        self.names = tuple(known.categories[place][1] for place in places)
        self._labels = np.full(len(known.categories), -1, np.int64)  # by the category's place
        self._labels[places] = np.arange(len(places))
        kept = self._labels[self.index["categories"]] >= 0
        self.objects = np.flatnonzero(kept).astype(np.int32)
        self._starts = np.searchsorted(self.objects, self.index["starts"])
        self._other_folders = (folder, self.annotation_file.parent)
        if len(self):
            self._check_objects(where)
            self._check_first_name(where)
        if are_wanted():
            self._note_unlisted(folder)
        self._orientation = orientation
        tell_of_turned(self.path, len(self), where, orientation)
        if "mask" in self.targets:
            check_outlines(self.index, self.objects, self.names, _ObjectNames(self), where)
        self.names = VOC_NAMES if voc else self.names
        self.mask_names = ("background", *self.names) if "mask" in self.targets else ()
        if "boxes" not in self.targets:
            self.names = self.mask_names

    def _check_objects(self, where: str) -> None:
        """Mistakes that metrics would hide: no objects at all, or of a class."""
        crowd = self.index["crowd"][self.objects]
        if not len(crowd):
            raise DataError(f"{where}: its {len(self)} images have no objects of class {few(self.names)}")
        if crowd.all():
            raise DataError(
                f"{where}: all {len(crowd)} objects are marked iscrowd, so training and evaluation would ignore them"
            )
        labels = self._labels[self.index["categories"][self.objects[~crowd]]]
        tell_of_absent(labels, self.names, where)

    def _check_first_name(self, where: str) -> None:
        name = texts(self.index, "files")[0]
        found = self.path(0)
        if found != os.path.join(self.image_folder, name) and os.path.exists(found):
            log.warning("%s: reading the file name %r as %s, and others likewise", where, name, found)

    def _note_unlisted(self, root: Path) -> None:
        paths = [self.path(index) for index in range(len(self))]
        for photo in unlisted_photos(root, self.annotation_file, paths):
            note(Fault("unlabelled image", "no annotation file lists it", photo))

    def __len__(self) -> int:
        return len(self.index["sizes"])

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        path = self.path(index)
        image, turned = read_photo(path, self.index["sizes"][index], str(self.annotation_file), self._orientation)
        own = self.objects[self._starts[index] : self._starts[index + 1]]
        boxes = Boxes.of(
            self.index["boxes"][own],
            self._labels[self.index["categories"][own]],
            crowd=self.index["crowd"][own],
            areas=self.index["areas"][own],
        )
        sample = Sample(image, image_id=self.image_id(index), path=path)
        if "mask" in self.targets:
            mask = paint_mask(self.index, self.index["outlines"][own], boxes, stored_size(sample.size, turned))
            sample.mask = upright(mask, turned)
        if "boxes" in self.targets:
            sample.boxes = replace(boxes, boxes=turn_boxes(boxes.boxes, image.shape, turned))
        return sample

    def image_id(self, index: int) -> int | str:
        """The id of an image, as the file has it."""
        own: int | str = json.loads(texts(self.index, "ids")[index])
        return own

    def path(self, index: int) -> str:
        """An image's path: its name as it is or with Windows separators, in the image folder or another one."""
        name = texts(self.index, "files")[index]
        names = dict.fromkeys([name, name.replace("\\", "/")])
        paths = [os.path.join(folder, item) for folder in (self.image_folder, *self._other_folders) for item in names]
        return next((path for path in paths if os.path.exists(path)), paths[0])


class _ObjectNames:
    def __init__(self, data: Coco) -> None:
        self._data = data

    def __getitem__(self, index: int, /) -> str:
        arrays, place = self._data.index, int(self._data.objects[index])
        image = int(np.searchsorted(arrays["starts"], place, side="right")) - 1
        return f"{texts(arrays, 'names')[place]} of {texts(arrays, 'files')[image]}"


def find_coco_split(root: str | os.PathLike[str], split: str, year: int | None) -> Path | None:
    """The annotation file of a split, if there is one; that of another year, if it is the only one."""
    folder = Path(root)
    found = next(filter(os.path.isfile, _candidates(folder, _split_names(split, year))), None)
    if found is None:
        others = [path for path in (folder / "annotations").glob("*.json") if _year_of(path, split) is not None]
        found = others[0] if len(others) == 1 else None
    return found


def _split_names(split: str, year: int | None) -> list[str]:
    return [*([] if year is None else [f"{split}{year}"]), *split_names(split)]


def _candidates(root: Path, names: Sequence[str]) -> list[Path]:
    return [
        *(root / "annotations" / f"instances_{name}.json" for name in names),
        *(root / "annotations" / f"{name}.json" for name in names),
        *(root / name / ROBOFLOWS for name in names),
    ]


def _year_of(path: Path, split: str) -> int | None:
    found = re.fullmatch(rf"instances_{re.escape(split)}(\d{{4}})\.json", path.name)
    return int(found[1]) if found else None


def _find(root: Path, split: str | None, year: int | None) -> tuple[Path, Path]:
    """The annotation file and the image folder of a split, or of all images."""
    if split is None:
        return _find_only(root)
    file = find_coco_split(root, split, year)
    expected = _candidates(root, _split_names(split, year))[0]
    if file is None:
        there = sorted(path.name for path in (root / "annotations").glob("*.json"))
        found = f"; annotations/ contains {few(there)}" if there else ""
        below = sorted(path.parent.name for path in root.glob("*/annotations"))
        if below and not there:
            found = f"; {few(below)}/ has an annotations folder: is the root one level too high?"
        raise DataError(f"{expected}: no such file for the split {split!r}{found}")
    if (other := _year_of(file, split)) not in (None, year):
        log.warning("%s: no %s; using that of %d instead (dataset.year=%d)", root, expected.name, other, other)
        year = other
    names = _split_names(split, year)
    folders = [*(root / name for name in names), *(root / "images" / name for name in names), root / "images"]
    return file, next((folder for folder in folders if folder.is_dir()), file.parent)


def _find_only(root: Path) -> tuple[Path, Path]:
    files = next(filter(None, (sorted(root.glob(place)) for place in PLACES)), [])
    if len(files) != 1:
        there = few([file.name for file in files]) or "none"
        raise DataError(f"{root}: expected one annotation file there or in annotations/; found {there}")
    name = split_of(files[0])
    folders = [root / name, root / "images" / name, root / "images"]
    return files[0], next((folder for folder in folders if folder.is_dir()), files[0].parent)
