"""PASCAL VOC, SBD's extra annotations, and data sets in VOC's layout: boxes in XML files, masks, lists by split."""

import logging
import os
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnv2vision.common.text import few
from mnv2vision.data.decoding import upright
from mnv2vision.data.formats.index_cache import Arrays
from mnv2vision.data.formats.masks import Colors
from mnv2vision.data.formats.orientation import (
    Orientation,
    check_orientation,
    read_photo,
    stored_size,
    tell_of_turned,
    turn_boxes,
)
from mnv2vision.data.formats.voc_boxes import VocBoxes, places
from mnv2vision.data.formats.voc_lists import photo_path, photos, read_list, split_folders
from mnv2vision.data.formats.voc_masks import VocMasks, list_masks
from mnv2vision.data.formats.voc_unlisted import split_folder, unlisted
from mnv2vision.data.sample import IGNORE_INDEX, Boxes, Sample, check_targets
from mnv2vision.errors import DataError

log = logging.getLogger(__name__)


class _Listing(NamedTuple):
    """What a split consists of: image folders, ids, paths and XML files; masks and objects' places where wanted."""

    folders: list[Path]
    ids: list[str]
    paths: list[str]
    annotations: list[str]
    masks: list[Path]
    parts: list[tuple[Arrays, NDArray[np.int64]]]


def _listed(
    root: Path, split: str | None, year: int | None, targets: Collection[str], sbd: str | os.PathLike[str] | None
) -> _Listing:
    """See `Voc`."""
    found = _Listing([root], [], [], [], [], [])
    if "mask" not in targets and (own := unlisted(root, split)):
        parts = [places(own.annotations, own.ids, required=True)]
        return found._replace(ids=own.ids, paths=own.paths, annotations=_xml(own.annotations, own.ids), parts=parts)
    for folder, name in split_folders(root, split, year):
        found.folders.append(folder)
        if "mask" in targets:
            images = list_masks(folder, name, None if sbd is None else Path(sbd))
            ids, paths = [image[0] for image in images], [image[1] for image in images]
            found.masks.extend(image[2] for image in images)
        else:
            assert name is not None  # for which all are found without lists
            files = photos(folder)
            ids = read_list(folder, "Main", name, files)
        if "boxes" in targets:
            found.parts.append(places(folder / "Annotations", ids, required="mask" not in targets))
        if "mask" not in targets:
            paths = [photo_path(files, image_id) for image_id in ids]
        found.ids.extend(ids)
        found.paths.extend(paths)
        found.annotations.extend(_xml(folder / "Annotations", ids))
    return found


def _xml(folder: Path, ids: Sequence[str]) -> list[str]:
    return [f"{folder / image_id}.xml" for image_id in ids]


class Voc:
    """Images with boxes, masks or both, of a split of VOC2007, VOC2012 or a folder in their layout.

    Images with boxes are listed in `ImageSets/Main`, or lie with their XML files in a folder of the split's name. Those
    with masks are listed in `ImageSets/Segmentation`, and may lack an XML file; they have no boxes then. The split
    "trainaug" is the usual one of 10,582 masks: from a list of that name with masks in `SegmentationClassAug/`, or from
    SBD, see `list_masks`.

    Attributes:
        names: Class names by label; `mask_names` if the mask is the only target.
        mask_names: Class names by mask value, starting with the background; empty without masks.
        targets: The requested targets.
        protocol: The evaluation of the boxes.
    """

    protocol = "voc"

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str | None,
        *,
        targets: Collection[str] = ("boxes",),
        year: int | None = 2012,
        classes: Sequence[str] | None = None,
        orientation: Orientation = "upright",
        void: int = IGNORE_INDEX,
        colors: Colors | None = None,
        sbd: str | os.PathLike[str] | None = None,
    ) -> None:
        """Read the lists and the box annotations.

        Args:
            root: The folder with `VOC<year>/`, or with `JPEGImages/` itself.
            split: A list, or several with their years: "2007/trainval+2012/trainval"; or a folder of photos with their
                XML files, where "val" may be called "valid". None: all that are annotated, without lists.
            targets: What to read: "boxes", "mask" or both.
            year: Year of splits that do not name one.
            classes: Class names in label order; objects of other classes are ignored. With masks, names by mask value,
                including the background, which boxes do not count. By default, for boxes VOC's 20 if there are no
                others, otherwise all that occur, sorted; for masks those of labelmap.txt or classes.txt, or VOC's 21
                for VOC's masks.
            orientation: What annotations of photos with an EXIF orientation refer to: "upright" or "stored".
            void: Mask value of pixels to ignore.
            colors: For colour masks, RGB of each class, optionally followed by that of void.
            sbd: SBD's `dataset` folder (`img/`, `cls/`, `train.txt`, `val.txt`), for masks of the split "trainaug".

        Raises:
            DataError: Naming the file that is missing or invalid.
        """
        check_orientation(orientation)
        self.targets = check_targets(targets, ("boxes", "mask"))
        self._orientation = orientation
        listing = _listed(Path(root), split, year, self.targets, sbd)
        folders, self._ids, self._paths, self._annotations, self._mask_paths, parts = listing
        if twice := sorted(image_id for image_id, count in Counter(self._ids).items() if count > 1):
            raise DataError(f"{root}: the split {split} lists images twice: {few(twice)}")
        split = split or "all"
        where = f"{root}, {split}"
        self._masks = self._boxes = None
        self.mask_names: tuple[str, ...] = ()
        if "mask" in self.targets:
            self._masks = VocMasks(
                list(zip(self._ids, self._mask_paths, strict=True)),
                folders,
                split=split,
                classes=classes,
                void=void,
                colors=colors,
                sbd=sbd is not None,
            )
            self.names = self.mask_names = self._masks.names
            classes = None if classes is None else classes[1:]
        if "boxes" in self.targets:
            self._boxes = VocBoxes(
                parts,
                self._ids,
                self._paths,
                root=str(root),
                split=split,
                classes=classes,
                orientation=orientation,
            )
            self.names = self._boxes.names
            if self._masks is not None and (without := int((~self._boxes.annotated).sum())):
                log.warning("%s: %d of %d images have no XML file: masks, but no boxes", where, without, len(self))
        tell_of_turned(self._paths.__getitem__, len(self), where, orientation)

    def __len__(self) -> int:
        return len(self._ids)

    def path(self, index: int) -> str:
        """The path of an image."""
        return self._paths[index]

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        path, image_id = self._paths[index], self._ids[index]
        boxes = None if self._boxes is None else self._boxes.of(index)
        size = None if self._boxes is None or boxes is None else self._boxes.sizes[index]
        image, turned = read_photo(path, size, f"{image_id}.xml", self._orientation)
        sample = Sample(image, image_id=image_id, path=path)
        if boxes is not None:
            placed = turn_boxes(boxes.boxes, image.shape, turned)
            areas = ((placed[:, 2] - placed[:, 0]) * (placed[:, 3] - placed[:, 1])).astype(np.float64)
            sample.boxes = Boxes(placed, boxes.labels, boxes.kinds, areas)
        if self._masks is not None:
            sample.mask = upright(self._masks.of(index, stored_size(sample.size, turned)), turned)
        return sample

    def annotation_files(self, index: int) -> list[str]:
        """The files that are of an image alone: XML, which may be missing, and mask."""
        return [self._annotations[index], *([str(self._mask_paths[index])] if self._mask_paths else [])]

    def image_id(self, index: int) -> str:
        """The id of an image: its file's name without the extension."""
        return self._ids[index]


def has_voc_split(root: str | os.PathLike[str], split: str, targets: Collection[str]) -> bool:
    """Whether a folder has a list of a split for these targets, or of a part of it, or a folder with its XML files."""
    kind = "Segmentation" if "mask" in targets else "Main"
    lists = [
        folder / "ImageSets" / kind / f"{part.rpartition('/')[2]}.txt"
        for folder in (Path(root), *Path(root).glob("VOC[0-9]*"))
        for part in split.split("+")
    ]
    return any(map(os.path.isfile, lists)) or (kind == "Main" and split_folder(Path(root), split) is not None)
