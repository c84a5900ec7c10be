"""Masks of PASCAL VOC, SBD's extra annotations, and data sets in VOC's layout."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnv2vision.data.decoding import IMAGE_EXTENSIONS
from mnv2vision.data.formats.faults import are_wanted
from mnv2vision.data.formats.mask_names import MASK_NAMES, check_occurrence, find_names
from mnv2vision.data.formats.masks import Colors, check_colors, check_labels, read_mask
from mnv2vision.data.formats.sbd import read_sbd
from mnv2vision.data.formats.voc_lists import Files, photo_path, photos, read_list, read_text
from mnv2vision.data.sample import IGNORE_INDEX
from mnv2vision.errors import DataError

_FOLDERS = ("SegmentationClassAug", "SegmentationClass")


class VocMasks:
    """The masks of a split's images.

    Attributes:
        names: Class names by mask value, starting with the background.
    """

    def __init__(
        self,
        masks: Sequence[tuple[str, Path]],
        folders: Sequence[Path],
        *,
        split: str,
        classes: Sequence[str] | None,
        void: int,
        colors: Colors | None,
        sbd: bool,
    ) -> None:
        """Find the classes.

        Args:
            masks: Id and mask of each image.
            folders: The data set's root, then the folders of the years.
            split: For messages.
            classes: See `Voc`.
            void: See `Voc`.
            colors: See `Voc`.
            sbd: Whether SBD's masks, with VOC's classes, are used.

        Raises:
            DataError: If the classes are unknown or invalid.
        """
        self._paths = [mask for _, mask in masks]
        root = folders[0]
        pictures = [(image_id, mask) for image_id, mask in masks if mask.suffix != ".mat"]
        if classes is None and sbd:
            names: tuple[str, ...] = MASK_NAMES
        elif classes is None:
            names, found = find_names(folders, pictures, void)
            colors = found if colors is None else colors
        else:
            names = tuple(name.strip() for name in classes)
        self.names = names
        if not 0 < len(self.names) < IGNORE_INDEX or len(set(self.names)) < len(self.names):
            raise DataError(f"{root}: `classes` must be 1 to {IGNORE_INDEX - 1} distinct names")
        if colors is not None:
            check_colors(colors, len(self.names))
        self._void, self._colors = void, colors
        if self.names != MASK_NAMES:
            check_occurrence(self.names, [mask for _, mask in pictures], void, colors, f"{root}, {split}")

    def of(self, index: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """The mask of an image whose stored (height, width) is `size`."""
        path = self._paths[index]
        if path.suffix == ".mat":
            return _read_sbd(path, size, len(self.names))
        return read_mask(path, size, len(self.names), void=self._void, colors=self._colors)


def list_masks(folder: Path, split: str | None, sbd: Path | None) -> list[tuple[str, str, Path]]:
    """Id, photo and mask of each image of a split in `ImageSets/Segmentation`; for None of each that has a mask.

    Without a list "trainaug" but with `sbd`, that split is all of SBD and VOC's train except VOC's val, with VOC's own
    masks where they exist.

    Raises:
        DataError: Naming the missing list, image or mask.
    """
    files = photos(folder)
    if split is None:
        own_masks = next((folder / name for name in _FOLDERS if (folder / name).is_dir()), folder / _FOLDERS[1])
        ids = sorted(path.stem for path in own_masks.glob("*.png"))
        return [(image_id, photo_path(files, image_id), _mask_path(folder, image_id)) for image_id in ids]
    listed = os.path.isfile(folder / "ImageSets" / "Segmentation" / f"{split}.txt")  # Path's raises for long names
    if split != "trainaug" or sbd is None or listed:
        ids = read_list(folder, "Segmentation", split, files)
        return [(image_id, photo_path(files, image_id), _mask_path(folder, image_id)) for image_id in ids]
    lists = [sbd / f"{name}.txt" for name in ("train", "val")]
    if missing := [path for path in lists if not path.is_file()]:
        raise DataError(f"{missing[0]}: no such list; dataset.sbd must be SBD's folder with img/, cls/ and lists")
    extra = {line.strip() for path in lists for line in read_text(path).splitlines() if line.strip()}
    extra_files = Files(sbd / "img", IMAGE_EXTENSIONS)
    own = set(read_list(folder, "Segmentation", "train", files))
    held_out = set(read_list(folder, "Segmentation", "val", files))
    return [
        (image_id, photo_path(files, image_id), _mask_path(folder, image_id))
        if image_id in own
        else (image_id, photo_path(extra_files, image_id), sbd / "cls" / f"{image_id}.mat")
        for image_id in sorted((extra | own) - held_out)
    ]


def _mask_path(folder: Path, image_id: str) -> Path:
    for name in _FOLDERS:
        path = folder / name / f"{image_id}.png"
        if path.is_file():
            return path
    if are_wanted():  # missed when it is read
        return path
    raise DataError(f"{path}: no such mask")


def _read_sbd(path: Path, size: tuple[int, int], num_classes: int) -> NDArray[np.uint8]:
    mask = read_sbd(path)
    if mask.shape != size:
        raise DataError(f"{path}: is {mask.shape[1]}x{mask.shape[0]}, but its image is {size[1]}x{size[0]}")
    return check_labels(mask, num_classes, IGNORE_INDEX, str(path))
