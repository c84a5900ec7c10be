"""The samples that all data sets yield, for any task."""

from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mnv2vision.errors import ConfigError, DataError

IGNORE_INDEX = 255
"""Mask value of pixels without a class, which losses and metrics ignore (VOC's borders)."""
NO_LABEL = -1
"""Label of images without a known class, in a batch."""


class BoxKind(IntEnum):
    """Kinds of boxes: losses ignore crowds (COCO) and difficult objects (VOC). Padding occurs in batches only."""

    PADDING = 0
    OBJECT = 1
    CROWD = 2
    DIFFICULT = 3


@dataclass(frozen=True, slots=True)
class Boxes:
    """The annotated objects of an image, possibly none.

    Attributes:
        boxes: (n, 4) float32, (x1, y1, x2, y2) in pixels.
        labels: (n,) int64, the classes of the boxes, in 0..C-1.
        kinds: (n,) uint8, see `BoxKind`.
        areas: (n,) float64, the objects' areas in pixels (COCO: of the outlines); the boxes' areas if None.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    kinds: NDArray[np.uint8]
    areas: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        parts: list[NDArray[Any]] = [self.labels, self.kinds]
        parts += [] if self.areas is None else [self.areas]
        if self.boxes.shape != (len(self.labels), 4) or any(part.shape != (len(self.labels),) for part in parts):
            shapes = ", ".join(str(part.shape) for part in (self.boxes, *parts))
            raise DataError(
                f"boxes, labels, kinds and areas must have the shapes (n, 4), (n,), (n,), (n,), not {shapes}"
            )

    @classmethod
    def of(
        cls,
        boxes: ArrayLike,
        labels: ArrayLike,
        *,
        crowd: NDArray[np.bool_] | None = None,
        difficult: NDArray[np.bool_] | None = None,
        areas: NDArray[np.float64] | None = None,
    ) -> "Boxes":
        """Boxes from arrays or lists, with flags (n,) for crowds (COCO) and difficult objects (VOC)."""
        corners, classes = np.asarray(boxes, np.float32), np.asarray(labels, np.int64)
        corners = corners.reshape(0, 4) if not corners.size else corners
        kinds = np.full(len(classes), BoxKind.OBJECT, np.uint8)
        for flags, kind in ((crowd, BoxKind.CROWD), (difficult, BoxKind.DIFFICULT)):
            if flags is not None:
                kinds[flags] = kind
        return cls(corners, classes, kinds, areas)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def crowd(self) -> NDArray[np.bool_]:
        """(n,) whether each is a crowd."""
        return np.asarray(self.kinds == BoxKind.CROWD)

    @property
    def difficult(self) -> NDArray[np.bool_]:
        """(n,) whether each is ignored by VOC's evaluation."""
        return np.asarray(self.kinds == BoxKind.DIFFICULT)

    def take(self, kept: NDArray[np.bool_], boxes: NDArray[np.float32]) -> "Boxes":
        """The `kept` objects (n,), moved to `boxes` (m, 4)."""
        return Boxes(boxes, self.labels[kept], self.kinds[kept], None if self.areas is None else self.areas[kept])


@dataclass(slots=True)
class Sample:
    """An image with its targets; targets that its data set lacks are None.

    Attributes:
        image: (H, W, 3) uint8 RGB, upright by its EXIF tag.
        image_id: The identifier in the source; evaluators drop duplicates by it and write it into results.
        path: The file, or a name for messages.
        label: The class of the image, in 0..C-1.
        boxes: The objects.
        mask: (H, W) uint8, a class per pixel, 255 = ignore.
        size: Original (H, W); of `image` by default, and kept when it is resized.
        part: Which of the data sets of a mixture it is of.
    """

    image: NDArray[np.uint8]
    image_id: int | str
    path: str
    label: int | None = None
    boxes: Boxes | None = None
    mask: NDArray[np.uint8] | None = None
    size: tuple[int, int] = (0, 0)
    part: int = 0

    def __post_init__(self) -> None:
        if self.size == (0, 0):
            self.size = (self.image.shape[0], self.image.shape[1])


class SampleSource(Protocol):
    """A data set: a sized, indexable source of samples that says which targets it offers.

    Optional attributes: `mask_names`, the classes of the mask if there are other targets too (`names_of`); `protocol`,
    the evaluation of boxes, "coco" (the default) or "voc"; `category_ids`, the data set's own class ids, for result
    files; a method `path`, the file of the image at an index.

    Attributes:
        names: Class names by label; by mask value if the mask is the only target.
        targets: The targets that samples may have: "label", "boxes", "mask".
    """

    names: tuple[str, ...]
    targets: frozenset[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


def names_of(source: SampleSource, target: str) -> tuple[str, ...]:
    """The class names of a target of a data set."""
    names: tuple[str, ...] = getattr(source, "mask_names", source.names) if target == "mask" else source.names
    return names


def check_targets(wanted: Collection[str], offered: Collection[str]) -> frozenset[str]:
    """The requested targets, as a set.

    Raises:
        ConfigError: If there are none, or the data set lacks one.
    """
    if not wanted or isinstance(wanted, str) or not set(wanted) <= set(offered):
        raise ConfigError(f"targets={wanted!r} is unknown; valid: one or more of {', '.join(sorted(offered))}")
    return frozenset(wanted)
