"""A folder of the user's: its layout and task, where nobody tells."""

import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from mnv2vision.config.datasets import DATASETS
from mnv2vision.config.options import values
from mnv2vision.data.decoding import IMAGE_EXTENSIONS
from mnv2vision.data.sources import has_split, offered
from mnv2vision.errors import ConfigError
from mnv2vision.models.tasks import TASKS

log = logging.getLogger(__name__)

SHARE = 0.2
"""Of the images of a folder without a split, held out for validation."""
_NO_CLASSES = re.compile("train|val|valid|validation|test|images|jpegimages|labels|masks|annotations|voc[0-9]+", re.I)
"""Names of folders that are no classes."""


class _Layout(NamedTuple):
    told: str
    fits: Callable[[Path], bool]


def folder_values(
    folder: str | os.PathLike[str], task: str | None = None, given: Mapping[str, object] | None = None
) -> dict[str, object]:
    """The keys for a folder, by its layout; the log says what it was taken for.

    Args:
        folder: Class folders, or of COCO's, VOC's or YOLO's layout.
        task: What it is for; None to guess it, and have it among the keys.
        given: Keys that are given beside the folder, which are right.

    Raises:
        ConfigError: For a folder that does not exist, or has none of these layouts, or several.
        DataError: For one that cannot be read.
    """
    root, told = Path(folder), dict(given or {})
    if not root.is_dir():
        raise ConfigError(f"data={root}: no such folder")
    dataset = str(told.get("dataset") or _dataset(root, task))
    found: dict[str, object] = {"dataset": dataset, "dataset.root": str(root)}
    if dataset not in _LAYOUTS:
        return found
    guess, why = task or _task(root, dataset), _LAYOUTS[dataset].told
    if task is None:
        found = {"task": guess, **found}
    if guess in TASKS and "dataset.split" not in told:
        own = {key.removeprefix("dataset."): value for key, value in told.items() if key.startswith("dataset.")}
        section = {**values(DATASETS[dataset]()), **own, "name": dataset, "root": root}
        if not has_split(section, "val", TASKS[guess].target):
            found["dataset.split"] = SHARE
            why += ", none for validation"
    log.info("%s: taken for %s; the same as %s", root, why, " ".join(f"{key}={item}" for key, item in found.items()))
    return found


def _dataset(root: Path, task: str | None) -> str:
    """What has a folder's layout, and the annotations that the task needs."""
    wanted = {TASKS[task].target} if task in TASKS else set[str]()
    able = [name for name in _LAYOUTS if wanted.issubset(offered(name))]
    if len(able) == 1:
        return able[0]
    fitting = [name for name in able if _LAYOUTS[name].fits(root)]
    if not fitting:
        raise ConfigError(f"{root}: found no {', no '.join(_LAYOUTS[name].told for name in able)}")
    if len(fitting) > 1:
        seen = " and ".join(_LAYOUTS[name].told for name in fitting)
        raise ConfigError(f"{root}: has {seen}: say which, such as dataset={fitting[0]}")
    return fitting[0]


def _task(root: Path, dataset: str) -> str:
    if dataset == "imagenet":
        return "classification"
    tops = [root, *root.glob("VOC[0-9]*")] if dataset == "voc" else []
    masks, boxes = (any((top / name).is_dir() for top in tops) for name in ("SegmentationClass", "Annotations"))
    return "segmentation" if masks and not boxes else "detection"


def _has_classes(root: Path) -> bool:
    top = root / "train" if (root / "train").is_dir() else root
    folders = [path for path in top.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return not any(_NO_CLASSES.fullmatch(path.name) for path in folders) and sum(map(_has_images, folders)) > 1


def _has_images(folder: Path) -> bool:
    return any(name.lower().endswith(IMAGE_EXTENSIONS) for _, _, names in os.walk(folder) for name in names)


def _any(*patterns: str) -> Callable[[Path], bool]:
    return lambda root: any(any(root.glob(pattern)) for pattern in patterns)


_LAYOUTS = {
    "coco": _Layout(
        "COCO's layout (annotations/*.json, */_annotations.coco.json, labels.json)",
        _any(
            "annotations/*.json",
            "*/_annotations.coco.json",
            "_annotations.coco.json",
            "instances*.json",
            "labels.json",  # as `predict output_format=coco` writes it
            "result.json",  # as Label Studio exports it
        ),
    ),
    "voc": _Layout(
        "VOC's layout (VOC<year>/, JPEGImages/, XML files)",
        _any("VOC[0-9]*/", "JPEGImages/", "*.xml", "train/*.xml", "[Aa]nnotations/*.xml", "labels/*.xml"),
    ),
    "yolo": _Layout("YOLO's layout (data.yaml, classes.txt)", _any("*.yaml", "*.yml", "classes.txt", "*/classes.txt")),
    "imagenet": _Layout("class folders (two or more with photos, in it or in train/)", _has_classes),
}
