"""PASCAL VOC, and data sets in its layout: an XML file an image, lists of images by split."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from PIL import Image, UnidentifiedImageError

from mnv2vision.data.boxes import clean_boxes
from mnv2vision.data.coco import check_size, leads_out
from mnv2vision.data.decoding import decode_image
from mnv2vision.data.folder_index import few
from mnv2vision.data.sample import Sample
from mnv2vision.errors import DataError

VOC_NAMES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_EXTENSIONS = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")


class _Object(NamedTuple):
    name: str
    box: tuple[float, float, float, float]
    difficult: bool


class _Annotation(NamedTuple):
    size: tuple[float, float]
    objects: list[_Object]


class Voc:
    """Images with boxes of a split of VOC2007, VOC2012 or a folder of their layout.

    VOC counts pixels from 1 and includes the last one: a box from 1 to 500 covers 500 columns, and becomes 0..500 here.
    Parts of objects (heads, hands) are no objects of their own.

    Attributes:
        names: Class names by label.
        targets: The boxes.
    """

    targets: frozenset[str] = frozenset({"boxes"})

    def __init__(
        self, root: str | os.PathLike[str], split: str, *, year: int = 2012, classes: Sequence[str] | None = None
    ) -> None:
        """Read the image lists and annotations of a split.

        Args:
            root: The folder of `VOC<year>/`, or one that holds `Annotations/` itself.
            split: A list in `ImageSets/Main`, or several with their years: "2007/trainval+2012/trainval".
            year: Of splits that do not say one.
            classes: Class names in the order of their labels; objects of other classes are left out. By default VOC's
                20 where the annotations have no others, else all that the annotations hold, sorted.

        Raises:
            DataError: Naming the file, and its line, that is missing or cannot be right.
        """
        self._entries = [
            (folder, image_id)
            for folder, name in split_folders(root, split, year)
            for image_id in read_list(folder, "Main", name)
        ]
        ids = [image_id for _, image_id in self._entries]
        if len(set(ids)) < len(ids):
            twice = sorted({image_id for image_id in ids if ids.count(image_id) > 1})
            raise DataError(f"{root}: the split {split} lists images twice: {few(twice)}")
        annotations = [_read(folder / "Annotations" / f"{image_id}.xml") for folder, image_id in self._entries]
        self.names = tuple(classes) if classes is not None else self._discover(annotations)
        if len(set(self.names)) < len(self.names) or not self.names:
            raise DataError(f"{root}: `classes` must name one class or more, and none twice: {few(self.names, 20)}")
        self._paths = [image_path(folder / "JPEGImages", image_id) for folder, image_id in self._entries]
        known = {name for annotation in annotations for name in {item.name for item in annotation.objects}}
        if classes is not None and not known.intersection(classes):
            raise DataError(f"{root}: {split} has no object of {few(self.names)}; it has {few(sorted(known), 20)}")
        self._fill(annotations, f"{root}, {split}")

    def _discover(self, annotations: Sequence[_Annotation]) -> tuple[str, ...]:
        # Other splits may hold classes that this one does not; all are to number them alike.
        found = {item.name for annotation in annotations for item in annotation.objects}
        for folder in {folder for folder, _ in self._entries}:
            for path in sorted((folder / "Annotations").glob("*.xml")):
                with suppress(DataError):  # it is not of this split: whoever needs it will be told
                    found.update(item.name for item in _read(path).objects)
        return VOC_NAMES if found <= set(VOC_NAMES) else tuple(sorted(found))

    def _fill(self, annotations: Sequence[_Annotation], where: str) -> None:
        label_of = {name: label for label, name in enumerate(self.names)}
        sizes = [
            annotation.size if min(annotation.size) > 0 else _size_of(path)
            for annotation, path in zip(annotations, self._paths, strict=True)
        ]
        self._sizes = np.array(sizes, np.float64).reshape(-1, 2)
        rows = [
            (index, number, item)
            for index, annotation in enumerate(annotations)
            for number, item in enumerate(annotation.objects, 1)
            if item.name in label_of
        ]
        of_image = np.array([row[0] for row in rows], np.int64)
        boxes = np.array([row[2].box for row in rows], np.float64).reshape(-1, 4)
        boxes[:, :2] -= 1
        named = [f"object {number} of {self._entries[index][1]}.xml" for index, number, _ in rows]
        clean, kept = clean_boxes(boxes, self._sizes[of_image], where, named)
        self._boxes = clean[kept]
        self._labels = np.array([label_of[row[2].name] for row in rows], np.int64)[kept]
        self._difficult = np.array([row[2].difficult for row in rows], np.bool_)[kept]
        self._starts = np.searchsorted(of_image[kept], np.arange(len(self._entries) + 1))

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        path, image_id = self._paths[index], self._entries[index][1]
        image = decode_image(path)
        check_size(image, self._sizes[index], str(path), f"{image_id}.xml")
        own = slice(self._starts[index], self._starts[index + 1])
        boxes = self._boxes[own]
        return Sample(
            image,
            image_id=image_id,
            path=str(path),
            boxes=boxes,
            labels=self._labels[own],
            is_crowd=np.zeros(len(boxes), np.bool_),
            difficult=self._difficult[own],
            areas=((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).astype(np.float64),
        )


def split_folders(root: str | os.PathLike[str], split: str, year: int) -> Iterator[tuple[Path, str]]:
    """The VOC folders and list names that "train" or "2007/trainval+2012/trainval" stands for."""
    top = Path(root)
    if not top.is_dir():
        raise DataError(f"{top}: the data set's root folder does not exist")
    for part in split.split("+"):
        given, _, name = part.rpartition("/")
        folder = top if (top / "JPEGImages").is_dir() and not given else top / f"VOC{given or year}"
        if not folder.is_dir():
            there = sorted(path.name for path in top.iterdir() if path.is_dir())
            raise DataError(f"{folder}: there is no such folder; {top} holds {few(there) or 'none'}")
        yield folder, name


def read_list(folder: Path, kind: str, split: str) -> list[str]:
    """The image ids of a list in `ImageSets/<kind>`."""
    path = folder / "ImageSets" / kind / f"{split}.txt"
    try:
        # Lists of a single class have a second column.
        ids = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
    except FileNotFoundError as error:
        there = few(sorted(item.stem for item in path.parent.glob("*.txt")), 12)
        raise DataError(f"{path}: there is no split {split!r}; the splits there are: {there or 'none'}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    for image_id in ids:
        if leads_out(image_id):
            raise DataError(f"{path}: the image {image_id!r} leads out of the data set's folder")
    return ids


def _read(path: Path) -> _Annotation:
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise DataError(f"{path}: line {error.position[0]} is no XML ({error.msg})") from error
    except (OSError, ValueError, LookupError) as error:  # LookupError: an encoding that Python does not know
        raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error

    def number(parent: ElementTree.Element | None, name: str) -> float:
        text = parent.findtext(name) if parent is not None else None
        try:
            return float(text or "nan")
        except ValueError:
            return float("nan")

    objects = []
    for item in root.iter("object"):
        name = (item.findtext("name") or "").strip()
        if not name:
            raise DataError(f"{path}: an <object> has no <name>")
        box = item.find("bndbox")
        sides = tuple(number(box, side) for side in ("xmin", "ymin", "xmax", "ymax"))
        objects.append(_Object(name, sides, (item.findtext("difficult") or "0").strip() == "1"))  # type: ignore[arg-type]
    size = root.find("size")
    height, width = number(size, "height"), number(size, "width")
    known = 0 < height < np.inf and 0 < width < np.inf
    return _Annotation((height, width) if known else (0, 0), objects)


def image_path(folder: Path, image_id: str) -> Path:
    """The file of an image, whatever its extension."""
    for extension in _EXTENSIONS:
        path = folder / f"{image_id}{extension}"
        if path.is_file():
            return path
    raise DataError(f"{folder / image_id}: there is no image ({' '.join(_EXTENSIONS[:3])})")


def _size_of(path: Path) -> tuple[float, float]:
    """Height and width by the image's header, for annotations that do not say them."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) >= 5
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    return (width, height) if turned else (height, width)
