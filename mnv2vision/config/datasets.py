"""What `dataset=` chooses from."""

from dataclasses import dataclass
from typing import Annotated

from mnv2vision.config.annotations import Byte, Count, Held, Name, Seed, UserText, UserTexts
from mnv2vision.config.kinds import Many, Word, whole
from mnv2vision.config.options import option


@dataclass(frozen=True)
class Shapes:
    """Built in, procedural, without files: six kinds of shapes on textured backgrounds."""

    name: Name = option("shapes", "set by dataset=")
    train_size: Count = option(3000, "training images")
    val_size: Count = option(500, "validation images")
    image_size: Annotated[int, whole(48, 4096)] = option(128, "side of the images")
    seed: Seed = option(0, "of the images")


_SPLIT = "share of the images to hold out for validation, where there is no split; kept in the run's split.json"


@dataclass(frozen=True)
class ImageNet:
    """ImageNet, or any folder of the layout <root>/<split>/<class>/<images>."""

    name: Name = option("imagenet", "set by dataset=")
    root: UserText | None = option(None, "the data set's folder")
    train_split: UserText = option("train", "folder below root")
    val_split: UserText = option("val", "folder below root")
    split: Held | None = option(None, _SPLIT)
    classes: UserTexts | None = option(None, "a list restricts the data set to these classes, in this order")


@dataclass(frozen=True)
class Folder:
    """Images without labels: any folder of photos and those below it, for teachers alone."""

    name: Name = option("folder", "set by dataset=")
    root: UserText | None = option(None, "the folder")


_PROTOCOL = "coco | voc: whose evaluation of boxes; null: the data set's own"
_ORIENTATION = "of photos that their EXIF turns: annotations for the upright photo, or for the stored pixels"


@dataclass(frozen=True)
class Voc:
    """PASCAL VOC, or a data set of its layout: <root>/VOC<year>/ with Annotations/, JPEGImages/ and ImageSets/."""

    name: Name = option("voc", "set by dataset=")
    root: UserText | None = option(None, "the data set's folder")
    year: Annotated[int, whole(0, 9999)] | None = option(2012, "of the folder VOC<year>")
    train_split: UserText = option("train", "a list of ImageSets; several: 2007/trainval+2012/trainval")
    val_split: UserText = option("val", "likewise")
    split: Held | None = option(None, _SPLIT)
    classes: UserTexts | None = option(
        None, "class names of your own; for masks by value, the background first; null: the data set's"
    )
    void: Byte = option(255, "masks: the value of pixels that do not count")
    colors: Annotated[tuple[tuple[int, ...], ...], Many(Many(whole(0, 255), 3, 3), least=1)] | None = option(
        None, "masks in colours: [r,g,b] of each class, and of void after them"
    )
    sbd: UserText | None = option(None, "SBD's folder with img/, cls/ and lists, for train_split=trainaug")
    orientation: Name = option("upright", _ORIENTATION)
    protocol: Annotated[str, Word(("coco", "voc"))] | None = option(None, _PROTOCOL)


@dataclass(frozen=True)
class Coco:
    """COCO, or a data set of its layout: <root>/annotations/instances_<split><year>.json and <root>/<split><year>/."""

    name: Name = option("coco", "set by dataset=")
    root: UserText | None = option(None, "the data set's folder")
    year: Annotated[int, whole(0, 9999)] | None = option(2017, "null: file names without a year")
    train_split: UserText = option("train", "in the names of annotation files and image folders")
    val_split: UserText = option("val", "likewise")
    split: Held | None = option(None, _SPLIT)
    classes: UserTexts | None = option(None, "a list restricts the data set to these categories, in this order")
    voc_classes: bool = option(False, "masks: VOC's 21 classes instead of COCO's own")
    orientation: Name = option("upright", _ORIENTATION)
    protocol: Annotated[str, Word(("coco", "voc"))] | None = option(None, _PROTOCOL)


@dataclass(frozen=True)
class Yolo:
    """YOLO's layout, ultralytics' or Roboflow's: data.yaml, images, and a label file for each."""

    name: Name = option("yolo", "set by dataset=")
    root: UserText | None = option(None, "the folder with data.yaml, or that file")
    train_split: UserText = option("train", "a key of data.yaml")
    val_split: UserText = option("val", "likewise; also where it is called valid")
    split: Held | None = option(None, _SPLIT)
    classes: UserTexts | None = option(None, "a list restricts the data set to these classes, in this order")
    orientation: Name = option("upright", _ORIENTATION)
    protocol: Annotated[str, Word(("coco", "voc"))] | None = option(None, _PROTOCOL)


@dataclass(frozen=True)
class Own:
    """A data set given in Python (see `mnv2vision.train`)."""

    name: Name = option("own", "a data set given in Python")


DATASETS: dict[str, type] = {
    "coco": Coco,
    "folder": Folder,
    "imagenet": ImageNet,
    "shapes": Shapes,
    "voc": Voc,
    "yolo": Yolo,
    "own": Own,
}
