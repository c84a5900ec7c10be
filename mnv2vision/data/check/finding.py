"""What a look at a data set can find: the kinds of faults, their levels, and what would be right."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

Level = Literal["error", "warning"]
"""Broken, or worth a look."""


class Kind(NamedTuple):
    """A kind of finding: its level, and what would be right."""

    level: Level
    right: str


KINDS: dict[str, Kind] = {
    # The data set as a whole.
    "refused": Kind("error", "what the message says; until then nothing of this split can be looked at"),
    # Files.
    "missing file": Kind("error", "the file, or no mention of it"),
    "empty file": Kind("error", "the image; the file has no content"),
    "not an image": Kind("error", "a JPEG, PNG, WebP, BMP or GIF, whatever the file is called"),
    "image not read": Kind("warning", "a JPEG, PNG, WebP or BMP: files with its extension are not looked for"),
    "unreadable image": Kind("error", "the whole file: copy it again, or leave it out"),
    "turned by EXIF": Kind("warning", "annotations made on the upright photo, or dataset.orientation=stored"),
    "16-bit image": Kind("warning", "8 bits: the upper 8 are read, and the lower 8 lost"),
    "CMYK image": Kind("warning", "RGB: colours are converted without a profile"),
    "palette image": Kind("warning", "RGB, if it is a photo: a palette has few colours"),
    "image with alpha": Kind("warning", "no transparency: the colours stored under it are read"),
    "animated image": Kind("warning", "one picture: the first is read, the others are not"),
    "small image": Kind("warning", "more pixels: it is enlarged more than eight times for the network"),
    "long image": Kind("warning", "a part of it: a side is more than four times the other"),
    "blank image": Kind("warning", "a picture of something: it has one colour"),
    # Copies.
    "leak": Kind("error", "one of them: validation measures what training has seen"),
    "near leak": Kind("error", "both in one split: validation measures what training has seen"),
    "copy": Kind("warning", "one of them: it counts as often as it is there"),
    "near copy": Kind("warning", "a look: they show nearly the same, and each counts"),
    "copies of two classes": Kind("error", "one class: the same image has several"),
    # Classes.
    "different classes": Kind("error", "the same classes in both splits, in one order"),
    "class without objects": Kind("warning", "examples, or dataset.classes without it"),
    "class in one split": Kind("warning", "examples in both: it is not learned, or not measured"),
    "class names alike": Kind("warning", "one name, if they mean the same"),
    # Annotations.
    "annotation missing": Kind("error", "an annotation file, without objects where there are none"),
    "annotation unreadable": Kind("error", "a valid file; what has the fault is not used"),
    "annotation of no image": Kind("error", "the image it belongs to, or an entry of it; it is not used"),
    "unlabelled image": Kind("warning", "an annotation or a class, or another place: it is not used"),
    "annotation of another size": Kind("error", "the size of the photo: boxes or masks would be elsewhere"),
    "unknown class": Kind("error", "a class that is listed"),
    "no objects": Kind("warning", "a look: background alone is fine, a forgotten annotation is not"),
    "box not finite": Kind("error", "four numbers; the object is not used"),
    "box without area": Kind("error", "a right edge beyond the left, a bottom below the top; the object is not used"),
    "box outside the image": Kind("error", "a box on the image; the object is not used"),
    "box reaching beyond the image": Kind("warning", "a box that ends with the image; it is clipped"),
    "box copied": Kind("warning", "one box: the object counts twice"),
    "box of two classes": Kind("warning", "one class, unless the object is both"),
    "tiny box": Kind("warning", "a larger model.image_size, or photos cut into parts: a network sees nothing there"),
    "mask": Kind("error", "a mask of the photo's size, whose values are classes or void"),
    "empty mask": Kind("warning", "a look: nothing but background or void"),
}


@dataclass(frozen=True)
class Picture:
    """An image to show with a finding.

    Attributes:
        path: The file.
        box: What to mark, (x1, y1, x2, y2) in shares of the upright image.
    """

    path: str
    box: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Finding:
    """A fault of a data set.

    Attributes:
        kind: A key of `KINDS`.
        split: "train", "val", or "train, val".
        file: The image or annotation; empty for what is about all.
        what: Is wrong with it, in one line.
        pictures: To show.
    """

    kind: str
    split: str
    file: str
    what: str
    pictures: tuple[Picture, ...] = ()

    @property
    def level(self) -> Level:
        """How bad it is."""
        return KINDS[self.kind].level

    def as_dict(self) -> dict[str, str]:
        """For check.json."""
        own = {"kind": self.kind, "level": self.level, "split": self.split, "file": self.file, "what": self.what}
        return {**own, "right": KINDS[self.kind].right}
