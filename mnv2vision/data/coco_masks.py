"""COCO's instances as masks of classes: VOC's 21, or COCO's own with a background."""

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mnv2vision.data.coco import Coco
from mnv2vision.data.sample import IGNORE_INDEX, Sample
from mnv2vision.data.voc_masks import MASK_NAMES
from mnv2vision.errors import DataError

_OF_VOC = {  # VOC's names where COCO has others
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}


class CocoMasks:
    """Images with masks painted from their instances' outlines.

    Where instances overlap, the smaller one (by its annotated area) shows, as it is in front more often than not.
    Crowds do not count (255), but for what other instances cover of them.

    Attributes:
        names: "background", then the categories.
        targets: The mask.
    """

    targets: frozenset[str] = frozenset({"mask"})

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str,
        *,
        year: int | None = 2017,
        classes: Sequence[str] | None = None,
        voc: bool = False,
    ) -> None:
        """Read the annotation file; see `Coco`.

        Args:
            root: The folder of `annotations/` and the image folders.
            split: "train", "val" or another.
            year: Of the file names; they may also do without.
            classes: The categories to keep, by name, in the order of their labels from 1 on; others are background.
            voc: VOC's 21 classes, by VOC's names: what DeepLab is pre-trained on.
        """
        if voc and classes is not None:
            raise DataError("dataset.voc_classes and dataset.classes exclude one another")
        wanted = [_OF_VOC.get(name, name) for name in MASK_NAMES[1:]] if voc else classes
        self._coco = Coco(root, split, year=year, classes=wanted, outlines=True)
        if len(self._coco.names) > IGNORE_INDEX - 1:
            raise DataError(
                f"{self._coco.annotation_file}: {len(self._coco.names)} categories are more than a mask of 8 bits holds"
                f" ({IGNORE_INDEX - 1}); choose with dataset.classes"
            )
        self.names = MASK_NAMES if voc else ("background", *self._coco.names)

    def __len__(self) -> int:
        return len(self._coco)

    def __getitem__(self, index: int) -> Sample:
        sample = self._coco[index]
        outlines = self._coco.outlines(index)
        assert sample.areas is not None
        assert sample.labels is not None
        assert sample.is_crowd is not None
        height, width = sample.image.shape[:2]
        mask = np.zeros((height, width), np.uint8)
        # Crowds first, then from large to small.
        for i in np.lexsort((-sample.areas, ~sample.is_crowd)):
            value = IGNORE_INDEX if sample.is_crowd[i] else sample.labels[i] + 1
            mask[_paint(outlines[i], height, width, sample.path)] = value
        return Sample(sample.image, image_id=sample.image_id, path=sample.path, mask=mask)


def _paint(outline: object, height: int, width: int, path: str) -> NDArray[np.bool_]:
    """The pixels of polygons or of a run-length code, by COCO's own rules."""
    from faster_coco_eval.core import mask as rle

    try:
        if isinstance(outline, list):
            codes = rle.merge(rle.frPyObjects(outline, height, width))
        elif isinstance(outline, dict) and isinstance(outline["counts"], list):
            codes = rle.frPyObjects(outline, height, width)
        else:
            codes = outline
        pixels = np.asarray(rle.decode(codes)).astype(bool)
    except Exception as error:  # the extension raises many kinds
        raise DataError(
            f"{path}: an outline in its annotations cannot be read ({' '.join(str(error).split())})"
        ) from error
    if pixels.shape != (height, width):
        raise DataError(f"{path}: an outline in its annotations is for {pixels.shape[1]}x{pixels.shape[0]} pixels")
    return pixels
