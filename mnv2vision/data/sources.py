"""Data sets by the names they have in configurations."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from mnv2vision.data.coco import Coco
from mnv2vision.data.coco_masks import CocoMasks
from mnv2vision.data.imagenet import ImageNet, check_same_classes
from mnv2vision.data.sample import Sample, SampleSource
from mnv2vision.data.shapes import Shapes
from mnv2vision.data.voc import Voc
from mnv2vision.data.voc_masks import VocMasks
from mnv2vision.errors import ConfigError, DataError

Part = Literal["train", "val"]


def _imagenet(config: Mapping[str, Any], part: Part, target: str) -> SampleSource:
    return ImageNet(_root(config, "train/ and val/"), config[f"{part}_split"], classes=config["classes"])


def _coco(config: Mapping[str, Any], part: Part, target: str) -> SampleSource:
    root = _root(config, "annotations/ and the image folders")
    if target == "mask":
        return CocoMasks(
            root, config[f"{part}_split"], year=config["year"], classes=config["classes"], voc=config["voc_classes"]
        )
    return Coco(root, config[f"{part}_split"], year=config["year"], classes=config["classes"])


def _voc(config: Mapping[str, Any], part: Part, target: str) -> SampleSource:
    root = _root(config, "VOC2012/, or with JPEGImages/ itself")
    if target == "mask":
        return VocMasks(
            root,
            config[f"{part}_split"],
            year=config["year"],
            classes=config["classes"],
            **{key: config[key] for key in ("void", "colors", "sbd")},
        )
    return Voc(root, config[f"{part}_split"], year=config["year"], classes=config["classes"])


def _root(config: Mapping[str, Any], content: str) -> str:
    if config["root"] is None:
        raise ConfigError(f"dataset={config['name']} needs dataset.root=<folder with {content}>")
    return str(config["root"])


def _shapes(config: Mapping[str, Any], part: Part, target: str) -> SampleSource:
    shapes = Shapes(part, size=config[f"{part}_size"], image_size=config["image_size"], seed=config["seed"])
    if target == "mask":
        shapes.names = shapes.mask_names
    return shapes


_Create = Callable[[Mapping[str, Any], Part, str], SampleSource]
_DATASETS: dict[str, tuple[_Create, tuple[str, ...]]] = {
    "coco": (_coco, ("boxes", "mask")),
    "imagenet": (_imagenet, ("label",)),
    "shapes": (_shapes, ("boxes", "label", "mask")),
    "voc": (_voc, ("boxes", "mask")),
}


def create_source(config: Mapping[str, Any], part: Part, target: str) -> SampleSource:
    """A data set's training or validation part.

    Args:
        config: The `dataset` section of a configuration.
        part: Which part.
        target: What the task needs of each sample: "label", "boxes" or "mask".

    Raises:
        ConfigError: If the data set has no such target.
        DataError: If there is nothing in it.
    """
    create, offers = _DATASETS[config["name"]]
    if target not in offers:
        others = ", ".join(name for name, (_, offered) in _DATASETS.items() if target in offered)
        raise ConfigError(
            f"dataset={config['name']} offers {', '.join(offers)}, but the task needs {target}, which {others} have"
        )
    source = create(config, part, target)
    if not len(source):
        raise DataError(f"{config['root']}: the split {config[f'{part}_split']!r} has no images")
    return source


def check_parts(train: SampleSource, val: SampleSource) -> None:
    """Raise unless training and validation have the same classes."""
    check_same_classes(train, val)


class Relabelled:
    """A data set with its labels put where a model has these classes."""

    def __init__(self, source: SampleSource, labels: Sequence[int], names: tuple[str, ...]) -> None:
        self.source = source
        self.labels = labels
        self.names = names
        self.targets = source.targets

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        sample = self.source[index]
        assert sample.label is not None
        return replace(sample, label=self.labels[sample.label])
