"""Masks of PASCAL VOC, of SBD's extra annotations, and of data sets of VOC's layout."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat

from mnv2vision.data.decoding import decode_image
from mnv2vision.data.folder_index import few
from mnv2vision.data.masks import Colors, check_colors, check_labels, read_mask
from mnv2vision.data.sample import IGNORE_INDEX, Sample
from mnv2vision.data.voc import VOC_NAMES, image_path, read_list, split_folders
from mnv2vision.errors import DataError

MASK_NAMES = ("background", *VOC_NAMES)
_FOLDERS = ("SegmentationClassAug", "SegmentationClass")


class VocMasks:
    """Images with masks of a split listed in `ImageSets/Segmentation`.

    The split "trainaug" is the usual one of 10,582 images: from a list of that name with masks in
    `SegmentationClassAug/`, or, where `sbd` is given, all of SBD and VOC's train that is not in VOC's val, with VOC's
    own mask where there is one.

    Attributes:
        names: Class names by label; the first is the background.
        targets: The mask.
    """

    targets: frozenset[str] = frozenset({"mask"})

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str,
        *,
        year: int = 2012,
        classes: Sequence[str] | None = None,
        void: int = IGNORE_INDEX,
        colors: Colors | None = None,
        sbd: str | os.PathLike[str] | None = None,
    ) -> None:
        """Read the lists.

        Args:
            root: The folder of `VOC<year>/`, or one that holds `JPEGImages/` itself.
            split: A list, or several with their years: "2007/trainval+2012/trainval".
            year: Of splits that do not say one.
            classes: Class names by mask value, the background's among them; VOC's 21 by default.
            void: Mask value of pixels that do not count.
            colors: For masks in colours, RGB of each class, and of void after them.
            sbd: SBD's `dataset` folder (`img/`, `cls/`, `train.txt`, `val.txt`), for the split "trainaug".

        Raises:
            DataError: Naming the list, image or mask that is missing.
        """
        self.names = tuple(classes) if classes is not None else MASK_NAMES
        if not 0 < len(self.names) < IGNORE_INDEX or len(set(self.names)) < len(self.names):
            raise DataError(f"{root}: `classes` must name 1 to {IGNORE_INDEX - 1} classes, none twice")
        if colors is not None:
            check_colors(colors, len(self.names))
        self._void, self._colors = void, colors
        self._files: list[tuple[str, Path, Path]] = []
        for folder, name in split_folders(root, split, year):
            listed = (folder / "ImageSets" / "Segmentation" / f"{name}.txt").is_file()
            if name == "trainaug" and sbd is not None and not listed:
                self._add_sbd(folder, Path(sbd))
                continue
            for image_id in read_list(folder, "Segmentation", name):
                self._files.append(
                    (image_id, image_path(folder / "JPEGImages", image_id), _mask_path(folder, image_id))
                )

        ids = Counter(image_id for image_id, _, _ in self._files)
        if twice := sorted(image_id for image_id, count in ids.items() if count > 1):
            raise DataError(f"{root}: the split {split} lists images twice: {few(twice)}")

    def _add_sbd(self, folder: Path, sbd: Path) -> None:
        lists = [sbd / f"{name}.txt" for name in ("train", "val")]
        if missing := [path for path in lists if not path.is_file()]:
            raise DataError(f"{missing[0]}: no such list; dataset.sbd is SBD's folder with img/, cls/ and lists")
        extra = {line.strip() for path in lists for line in path.read_text().splitlines() if line.strip()}
        own = set(read_list(folder, "Segmentation", "train"))
        held_out = set(read_list(folder, "Segmentation", "val"))
        for image_id in sorted((extra | own) - held_out):
            if image_id in own:
                files = image_path(folder / "JPEGImages", image_id), _mask_path(folder, image_id)
            else:
                files = image_path(sbd / "img", image_id), sbd / "cls" / f"{image_id}.mat"
            self._files.append((image_id, *files))

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Sample:
        image_id, path, mask_path = self._files[range(len(self))[index]]
        image = decode_image(path)
        size = (image.shape[0], image.shape[1])
        if mask_path.suffix == ".mat":
            mask = _read_sbd(mask_path, size, len(self.names))
        else:
            mask = read_mask(mask_path, size, len(self.names), void=self._void, colors=self._colors)
        return Sample(image, image_id=image_id, path=str(path), mask=mask)


def _mask_path(folder: Path, image_id: str) -> Path:
    for name in _FOLDERS:
        path = folder / name / f"{image_id}.png"
        if path.is_file():
            return path
    raise DataError(f"{folder / _FOLDERS[1] / image_id}.png: there is no such mask")


def _read_sbd(path: Path, size: tuple[int, int], num_classes: int) -> NDArray[np.uint8]:
    try:
        mask = np.asarray(loadmat(path)["GTcls"]["Segmentation"][0, 0], np.uint8)
    except Exception as error:  # SciPy's reader raises of many kinds
        raise DataError(f"{path}: holds no GTcls.Segmentation ({type(error).__name__}: {error})") from error
    if mask.shape != size:
        raise DataError(f"{path}: is {mask.shape[1]}x{mask.shape[0]}, but its image is {size[1]}x{size[0]}")
    return check_labels(mask, num_classes, IGNORE_INDEX, str(path))
