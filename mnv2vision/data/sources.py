"""Data sets by their names in configurations."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mnv2vision.data.formats.coco import Coco, find_coco_split
from mnv2vision.data.formats.folder import Folder
from mnv2vision.data.formats.imagenet import ImageNet, find_imagenet_split
from mnv2vision.data.formats.shapes import Shapes
from mnv2vision.data.formats.voc import Voc, has_voc_split
from mnv2vision.data.formats.yolo import Yolo
from mnv2vision.data.formats.yolo_layout import describe, has_yolo_split
from mnv2vision.data.sample import SampleSource
from mnv2vision.data.split import IdentifiedSource, parts_of
from mnv2vision.errors import ConfigError, DataError

Part = Literal["train", "val"]


def _imagenet(config: Mapping[str, Any], split: str | None, targets: Sequence[str]) -> IdentifiedSource:
    return ImageNet(_root(config, "train/ and val/"), split or "", classes=config["classes"])


def _folder(config: Mapping[str, Any], split: str | None, targets: Sequence[str]) -> SampleSource:
    return Folder(_root(config, "photos"))


def _coco(config: Mapping[str, Any], split: str | None, targets: Sequence[str]) -> IdentifiedSource:
    root = _root(config, "annotations/ and image folders")
    voc = config["voc_classes"] and "mask" in targets
    return Coco(root, split, targets=targets, voc=voc, **_annotation_options(config))


def _voc(config: Mapping[str, Any], split: str | None, targets: Sequence[str]) -> IdentifiedSource:
    root = _root(config, "VOC2012/, or JPEGImages/")
    masks = {key: config[key] for key in ("void", "colors", "sbd")}
    return Voc(root, split, targets=targets, **_annotation_options(config), **masks)


def _annotation_options(config: Mapping[str, Any]) -> dict[str, Any]:
    # Older runs, whose configuration lacks the key, can be resumed.
    return {"year": config["year"], "classes": config["classes"], "orientation": config.get("orientation", "upright")}


def _yolo(config: Mapping[str, Any], split: str | None, targets: Sequence[str]) -> IdentifiedSource:
    root = _root(config, "data.yaml")
    options = {key: config[key] for key in ("classes", "orientation")}
    return Yolo(root, split, targets=targets, **options)


def _root(config: Mapping[str, Any], content: str) -> str:
    if config["root"] is None:
        raise ConfigError(f"dataset={config['name']} needs dataset.root=<folder with {content}>")
    return str(config["root"])


def _shapes(config: Mapping[str, Any], split: str | None, targets: Sequence[str]) -> SampleSource:
    part: Part = "train" if split == "train" else "val"
    return Shapes(part, config[f"{part}_size"], config["image_size"], config["seed"], targets)


class _Format(NamedTuple):
    create: Callable[[Mapping[str, Any], str | None, Sequence[str]], SampleSource]
    offers: tuple[str, ...]
    has_split: Callable[[Mapping[str, Any], str, Sequence[str]], bool] | None = None
    """Of those that can be without one."""


def _has_imagenet(config: Mapping[str, Any], split: str, targets: Sequence[str]) -> bool:
    return find_imagenet_split(config["root"], split) is not None


def _has_coco(config: Mapping[str, Any], split: str, targets: Sequence[str]) -> bool:
    return find_coco_split(config["root"], split, config["year"]) is not None


def _has_voc(config: Mapping[str, Any], split: str, targets: Sequence[str]) -> bool:
    return has_voc_split(config["root"], split, targets)


def _has_yolo(config: Mapping[str, Any], split: str, targets: Sequence[str]) -> bool:
    return has_yolo_split(describe(Path(config["root"])), split)


_FORMATS = {
    "coco": _Format(_coco, ("boxes", "mask"), _has_coco),
    "folder": _Format(_folder, ()),
    "imagenet": _Format(_imagenet, ("label",), _has_imagenet),
    "shapes": _Format(_shapes, ("boxes", "label", "mask")),
    "voc": _Format(_voc, ("boxes", "mask"), _has_voc),
    "yolo": _Format(_yolo, ("boxes", "mask"), _has_yolo),
}


def has_split(config: Mapping[str, object], part: Part, *targets: str) -> bool:
    """Whether the root folder of a data set has a part of its own, rather than one that `split` would make."""
    has = _FORMATS[str(config["name"])].has_split
    return has is None or (_is_there(config) and has(config, str(config[f"{part}_split"]), targets))


def _is_there(config: Mapping[str, object]) -> bool:
    return config.get("root") is not None and os.path.exists(str(config["root"]))


def offered(dataset: str) -> tuple[str, ...]:
    """The targets that a data set can have: "label", "boxes", "mask"; none for images without labels."""
    return _FORMATS[dataset].offers


def told(targets: Iterable[str]) -> str:
    """The targets that a data set has, for messages."""
    return ", ".join(targets) or "no labels (images for a teacher, beside a data set with labels)"


def _create(config: Mapping[str, object], split: str | None, targets: Sequence[str]) -> SampleSource:
    known = _FORMATS[str(config["name"])]
    for target in (target for target in targets if target not in known.offers):
        others = ", ".join(name for name, other in _FORMATS.items() if target in other.offers)
        raise ConfigError(
            f"dataset={config['name']} offers {told(known.offers)}, but the task needs {target}, which {others} have"
        )
    source = known.create(config, split, targets)
    if not len(source):
        raise DataError(f"{config['root']}: {'has' if split is None else f'the split {split!r} has'} no images")
    return source


def create_whole(config: Mapping[str, object], *targets: str) -> IdentifiedSource:
    """What `split` divides: the training part of a data set without one for validation, or all of it.

    Args:
        config: The `dataset` section of a configuration.
        targets: The targets that samples need.

    Raises:
        ConfigError: If the data set has a part for validation already, or lacks one of the targets.
        DataError: If it has no images.
    """
    if has_split(config, "val", *targets):
        raise ConfigError(
            f"dataset.split={config['split']}: {config['root']} has a split {config['val_split']!r} already:"
            " leave out dataset.split"
        )
    split = str(config["train_split"]) if has_split(config, "train", *targets) else None
    source: Any = _create(config, split, targets)
    whole: IdentifiedSource = source  # those that can be without a split know their samples' ids
    return whole


def create_source(config: Mapping[str, object], part: Part, *targets: str) -> SampleSource:
    """A data set's training or validation part.

    Args:
        config: The `dataset` section of a configuration; with `split`, also `held_out`, the ids for validation.
        part: "train" or "val".
        targets: The targets that samples need: "label", "boxes", "mask".

    Raises:
        ConfigError: If the data set lacks one of the targets.
        DataError: If it has no images.
    """
    if config.get("split") is not None:
        whole, held_out = create_whole(config, *targets), config.get("held_out")
        if held_out is None:  # nothing is measured on it
            return whole
        assert isinstance(held_out, list)
        return parts_of(whole, held_out, str(config["root"]))[part == "val"]
    try:
        return _create(config, str(config.get(f"{part}_split", part)), targets)
    except DataError as error:
        if _is_there(config) and not has_split(config, "val", *targets):
            raise DataError(f"{error}; to hold out a fifth of the images: dataset.split=0.2") from error
        raise
