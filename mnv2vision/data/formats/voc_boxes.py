"""The boxes of data sets in VOC's layout: one XML file per image."""

import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mnv2vision.common.colors import VOC_NAMES
from mnv2vision.common.text import few
from mnv2vision.data.decoding import peek_orientation
from mnv2vision.data.formats.boxes import Names, check_boxes, check_pixels, counted
from mnv2vision.data.formats.faults import are_wanted, refuse
from mnv2vision.data.formats.index_cache import Arrays
from mnv2vision.data.formats.names import texts
from mnv2vision.data.formats.orientation import Orientation
from mnv2vision.data.formats.voc_index import ODD, voc_index
from mnv2vision.data.sample import Boxes
from mnv2vision.errors import DataError

log = logging.getLogger(__name__)

VOCS_ID = re.compile(r"\d{4}_\d{6}|\d{6}")
"""Ids of the original VOC images."""


class VocBoxes:
    """The objects of a split's images, checked and labelled.

    VOC counts pixels from 1 and includes the last one: a box from 1 to 500 covers 500 columns, and becomes 0..500 here.
    Parts of objects (heads, hands) are ignored.

    Attributes:
        names: Class names by label.
        sizes: (n, 2) annotated height and width of each image.
        annotated: (n,) bool, whether an image has an annotation.
    """

    def __init__(
        self,
        parts: Sequence[tuple[Arrays, NDArray[np.int64]]],
        ids: Sequence[str],
        paths: Sequence[str],
        *,
        root: str,
        split: str,
        classes: Sequence[str] | None,
        orientation: Orientation,
    ) -> None:
        """Sort the objects by image.

        Args:
            parts: The result of `places` for each folder.
            ids: Image ids.
            paths: Image files.
            root: The data set's folder, for messages.
            split: For messages.
            classes: See `Voc`.
            orientation: See `Voc`.

        Raises:
            DataError: For invalid or missing annotations.
        """
        self._ids, self._paths, self._orientation = ids, paths, orientation
        # Other splits may have classes that this one lacks; all must have the same labels.
        held = sorted({name for arrays, _ in parts for name in texts(arrays, "names")})
        own_ids = not all(map(VOCS_ID.fullmatch, ids))
        if classes is None and own_ids and held and set(held) < set(VOC_NAMES):
            log.warning(
                "%s: using VOC's 20 classes; the annotations have only %d of them (dataset.classes=[%s])",
                root,
                len(held),
                ",".join(held),
            )
        if classes is not None:
            self.names = tuple(str(name).strip() for name in classes)  # may be numbers
        else:
            self.names = VOC_NAMES if set(held) <= set(VOC_NAMES) else tuple(held)
        if len(set(self.names)) < len(self.names) or not self.names:
            raise DataError(f"{root}: `classes` must be one or more distinct names, not {few(self.names, 20)}")
        self.annotated = np.concatenate([places >= 0 for _, places in parts])
        if len(ids):
            self._fill(parts, f"{root}, {split}")

    def _fill(self, parts: Sequence[tuple[Arrays, NDArray[np.int64]]], where: str) -> None:
        rows: list[_Rows] = []
        left_out: Counter[str] = Counter()
        first = 0
        for arrays, places in parts:
            names = list(texts(arrays, "names"))
            label_of = np.array([self.names.index(name) if name in self.names else -1 for name in names], np.int64)
            rows.append(_Rows.of(arrays, places, label_of, first))
            left_out.update(names[place] for place in rows[-1].left_out.tolist())
            first += len(places)
        of_image, numbers, boxes, labels, difficult = (
            np.concatenate(column) for column in zip(*(row.columns for row in rows), strict=True)
        )
        self.sizes = np.zeros((len(self._ids), 2))
        self.sizes[self.annotated] = np.concatenate([arrays["sizes"][places[places >= 0]] for arrays, places in parts])
        for index in np.flatnonzero(self.annotated & (self.sizes.min(axis=1) <= 0)).tolist():
            self.sizes[index] = _size_of(self._paths[index], self._orientation)
        self._check_names(labels, left_out, where)
        check_pixels(np.add(boxes, (1, 1, 0, 0)), self.sizes[of_image], where)
        named = _Named(self._ids, of_image, numbers)
        if odd := counted("objects have a <difficult> other than 0 or 1, read as 0", difficult == ODD, named):
            log.warning("%s: %s", where, odd)
        if (difficult == 1).all():
            raise DataError(
                f"{where}: all {len(labels)} objects are marked difficult, so training and evaluation would ignore them"
            )
        clean, kept, report = check_boxes(boxes, self.sizes[of_image], named)
        if report:
            log.warning("%s: %s", where, report)
        self._boxes = clean[kept]
        self._labels = labels[kept]
        self._difficult = difficult[kept] == 1
        self._starts = np.searchsorted(of_image[kept], np.arange(len(self._ids) + 1))

    def _check_names(self, labels: NDArray[np.int64], left_out: Counter[str], where: str) -> None:
        """Refuse mistakes that metrics would hide: class names that differ in spelling only, no objects at all."""
        found = np.bincount(labels, minlength=len(self.names))
        absent = [name for label, name in enumerate(self.names) if not found[label]]
        alike = {_plain(name): name for name in left_out}
        for name in absent:
            if other := alike.get(_plain(name)):
                raise DataError(f"{where}: no object is named {name}, but some are named {other}")
        if not len(labels):
            has = f"; it has {few(sorted(left_out), 20)}" if left_out else ": its annotations have no <object>"
            raise DataError(f"{where} has no objects of class {few(self.names)}{has}")
        if absent and self.names != VOC_NAMES:
            log.warning("%s: %d of %d classes have no objects: %s", where, len(absent), len(self.names), few(absent))

    def of(self, index: int) -> Boxes | None:
        """The objects of an image, as annotated; None if it has no annotation."""
        if not self.annotated[index]:
            return None
        own = slice(self._starts[index], self._starts[index + 1])
        return Boxes.of(self._boxes[own], self._labels[own], difficult=self._difficult[own])


class _Rows(NamedTuple):
    """The objects of a split's images in one folder, one per row."""

    columns: tuple[NDArray[Any], ...]
    left_out: NDArray[np.int64]

    @classmethod
    def of(cls, arrays: Arrays, places: NDArray[np.int64], label_of: NDArray[np.int64], first: int) -> "_Rows":
        """Image, number in it, box, label and difficulty of each object; and the classes of the omitted ones."""
        starts = arrays["starts"]
        counts = np.where(places < 0, 0, starts[places + 1] - starts[places])
        numbers = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = np.repeat(starts[places], counts) + numbers
        of_image = np.repeat(np.arange(first, first + len(places)), counts)
        classes = arrays["classes"][rows]
        kept = label_of[classes] >= 0
        rows_kept = rows[kept]
        columns = (
            *(of_image[kept], numbers[kept] + 1),
            *(arrays["boxes"][rows_kept], label_of[classes[kept]], arrays["difficult"][rows_kept]),
        )
        return cls(columns, classes[~kept])


class _Named(Names):
    """Names of objects for messages."""

    def __init__(self, ids: Sequence[str], of_image: NDArray[np.int64], numbers: NDArray[np.int64]) -> None:
        self._ids, self._of_image, self._numbers = ids, of_image, numbers

    def __getitem__(self, index: int, /) -> str:
        return f"object {self._numbers[index]} of {self._ids[self._of_image[index]]}.xml"


def _plain(name: str) -> str:
    """A name without case, spaces, hyphens and underscores."""
    return re.sub(r"[\s_-]+", "", name.casefold())


def places(folder: Path, ids: Sequence[str], *, required: bool) -> tuple[Arrays, NDArray[np.int64]]:
    """The index of a folder's annotations, and the rows of these images in it; -1 for images without annotation.

    Raises:
        DataError: If an annotation cannot be read, or a required one is missing.
    """
    arrays = voc_index(folder)
    place_of = {name: place for place, name in enumerate(texts(arrays, "ids"))}
    errors = texts(arrays, "errors")
    for image_id in ids:
        file = f"{folder / image_id}.xml"
        if required and image_id not in place_of:
            refuse("annotation missing", DataError(f"{file}: no such annotation"), file)
        if image_id in place_of and (error := errors[place_of[image_id]]):
            refuse("annotation unreadable", DataError(f"{file}: {error}"), file)
            del place_of[image_id]
    return arrays, np.array([place_of.get(image_id, -1) for image_id in ids], np.int64)


def _size_of(path: str, orientation: Orientation) -> tuple[float, float]:
    """Height and width from the image's header, for annotations without them."""
    try:
        with Image.open(path) as image:
            width, height = image.size
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        if are_wanted():  # said when it is read
            return np.inf, np.inf
        raise DataError(f"{path}: cannot be read ({error})") from error
    turned = orientation == "upright" and peek_orientation(path) >= 5
    return (width, height) if turned else (height, width)
