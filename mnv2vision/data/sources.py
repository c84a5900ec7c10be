"""Data sets by their names in configurations."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from mnv2vision.data.formats.coco import Coco
from mnv2vision.data.formats.folder import Folder
from mnv2vision.data.formats.imagenet import ImageNet
from mnv2vision.data.formats.shapes import Shapes
from mnv2vision.data.formats.voc import Voc
from mnv2vision.data.formats.yolo import Yolo
from mnv2vision.data.sample import SampleSource
from mnv2vision.data.split import IdentifiedSource, parts_of
from mnv2vision.errors import ConfigError, DataError

Part = Literal["train", "val"]


def _imagenet(config: Mapping[str, Any], split: str | None, targets: Sequence[str]) -> IdentifiedSource:
    root = _root(config, "train/ and val/")
    if split is None:
        train, val = (str(config[f"{part}_split"]) for part in ("train", "val"))
        if os.path.isdir(os.path.join(root, val)):
            raise ConfigError(f"dataset.split={config['split']}: {root} has {val}/ already: leave out dataset.split")
        split = train if os.path.isdir(os.path.join(root, train)) else ""
    return ImageNet(root, split, classes=config["classes"])


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


def _shapes(config: Mapping[str, Any], part: str | None, targets: Sequence[str]) -> SampleSource:
    assert part == "train" or part == "val"
    return Shapes(part, config[f"{part}_size"], config["image_size"], config["seed"], targets)


_Create = Callable[[Mapping[str, Any], str | None, Sequence[str]], SampleSource]
_DATASETS: dict[str, tuple[_Create, tuple[str, ...]]] = {
    "coco": (_coco, ("boxes", "mask")),
    "folder": (_folder, ()),
    "imagenet": (_imagenet, ("label",)),
    "shapes": (_shapes, ("boxes", "label", "mask")),
    "voc": (_voc, ("boxes", "mask")),
    "yolo": (_yolo, ("boxes", "mask")),
}


def offered(dataset: str) -> tuple[str, ...]:
    """The targets that a data set can have: "label", "boxes", "mask"; none for images without labels."""
    return _DATASETS[dataset][1]


def told(targets: Iterable[str]) -> str:
    """The targets that a data set has, for messages."""
    return ", ".join(targets) or "no labels (images for teachers alone)"


def _checked(config: Mapping[str, object], targets: Sequence[str]) -> _Create:
    """What makes a data set; ConfigError if it lacks one of the targets."""
    create, offers = _DATASETS[str(config["name"])]
    for target in (target for target in targets if target not in offers):
        others = ", ".join(name for name, (_, offered) in _DATASETS.items() if target in offered)
        raise ConfigError(
            f"dataset={config['name']} offers {told(offers)}, but the task needs {target}, which {others} have"
        )
    return create


def create_whole(config: Mapping[str, object], *targets: str) -> IdentifiedSource:
    """All samples of a data set without a split; see `create_source`."""
    source: Any = _checked(config, targets)(config, None, targets)  # those with the option `split` know their ids
    if not len(source):
        raise DataError(f"{config['root']}: has no images")
    whole: IdentifiedSource = source
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
    create = _checked(config, targets)
    if config.get("split") is not None:
        whole, held_out = create_whole(config, *targets), config.get("held_out")
        if held_out is None:  # nothing is measured on it
            return whole
        assert isinstance(held_out, list)
        return parts_of(whole, held_out, str(config["root"]))[part == "val"]
    source = create(config, str(config.get(f"{part}_split", part)), targets)
    if not len(source):
        raise DataError(f"{config['root']}: the split {config[f'{part}_split']!r} has no images")
    return source
