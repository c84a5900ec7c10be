"""Figures of a data set that are no faults: classes, what resizing does to photos, objects within reach of anchors."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from mnv2vision.data.check.page import Table
from mnv2vision.data.check.records import Record
from mnv2vision.data.sample import BoxKind
from mnv2vision.detection.reach import REACHED, best_overlap
from mnv2vision.preprocessing import Preprocessing

_OTHER_SIZES = (224, 320, 416, 512, 640)
_MOST_OBJECTS = 5000
"""That are compared with the anchors of each size; of more, evenly spaced ones."""
_MORE = 0.01
"""Share of the objects from which on another size is worth a word."""
_MOST_CLASSES = 100
_SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, np.inf)}
"""Areas in pixels, as COCO's evaluation has them."""


def class_table(names: Sequence[str], counts: Mapping[str, NDArray[np.int64]]) -> Table:
    """Examples of each class, by split; the most frequent ones first.

    Args:
        names: Of the classes.
        counts: (C,) by split.
    """
    total = np.sum(list(counts.values()), axis=0)
    order = np.argsort(-total, kind="stable")
    rows = [[names[label], *(f"{own[label]:,}" for own in counts.values())] for label in order.tolist()]
    some = total[total > 0]
    words = f"The most frequent class has {some.max() / some.min():.1f} times the examples of the rarest that has any."
    words = words if len(some) > 1 else ""
    if len(rows) > _MOST_CLASSES:
        words += f" {len(rows) - _MOST_CLASSES} rarer classes are left out here; check.json has them."
    return Table("Classes", ["class", *counts], rows[:_MOST_CLASSES], words.strip())


def resize_table(sizes: Sequence[tuple[int, int]], preprocessing: Preprocessing) -> Table:
    """What a model's resizing does to photos.

    Args:
        sizes: (height, width) of the photos.
        preprocessing: Of the model.
    """
    height, width = preprocessing.image_size
    shares = []
    for size in sizes:
        place = preprocessing.placement(*size)
        if preprocessing.resize == "crop":
            shares.append(min(1, height / place.height) * min(1, width / place.width))
        elif preprocessing.resize == "letterbox":
            shares.append(place.height * place.width / (height * width))
        else:
            stretched = size[1] * height / (size[0] * width)
            shares.append(min(stretched, 1 / stretched))
    half, twentieth = np.percentile(shares, [50, 5])
    title = f"What resize={preprocessing.resize} to {height} x {width} does to the photos"
    words = {
        "crop": "Half of the photos show {:.0%} of their area or less, one in twenty {:.0%} or less;"
        " preprocessing.resize=stretch or letterbox shows all of it.",
        "letterbox": "Half of the photos fill {:.0%} of the input or less, one in twenty {:.0%} or less.",
        "stretch": "A side keeps {:.0%} of its length relative to the other, or less, in half of the photos, and {:.0%}"
        " or less in one of twenty.",
    }[preprocessing.resize].format(half, twentieth)
    smaller = np.mean([min(size) < min(height, width) for size in sizes])
    return Table(title, words=f"{words} {smaller:.0%} of the photos have a side that is shorter than the input's.")


def reach_table(records: Sequence[Record], image_size: tuple[int, int]) -> Table | None:
    """How many objects an anchor reaches, at the model's size and at others.

    Args:
        records: Of all images, which are stretched to the network's input.
        image_size: (height, width) of that.

    Returns:
        None without objects.
    """
    shares = [record.shares[record.boxes.kinds == BoxKind.OBJECT] for record in records if record.boxes is not None]
    boxes = np.concatenate([np.zeros((0, 4)), *shares])
    if not len(boxes):
        return None
    count = len(boxes)
    boxes = boxes[np.linspace(0, count - 1, min(count, _MOST_OBJECTS)).astype(int)]
    areas = np.prod((boxes[:, 2:] - boxes[:, :2]) * image_size[::-1], axis=1)
    kinds = {name: (areas >= low) & (areas < high) for name, (low, high) in _SIZES.items()}
    rows, reached = [], {}
    tensor = torch.from_numpy(boxes.astype(np.float32))
    others = [(side, side) for side in _OTHER_SIZES]
    for size in sorted({image_size, *others}):
        found = best_overlap(tensor, size).numpy() >= REACHED
        reached[size] = float(found.mean())
        told = "x".join(map(str, dict.fromkeys(size)))
        parts = [f"{found[own].mean():.1%}" if own.any() else "-" for own in kinds.values()]
        rows.append([told + (" (the model's)" if size == image_size else ""), f"{reached[size]:.1%}", *parts])
    drawn = f"{len(boxes):,} of {count:,}" if len(boxes) < count else f"{count:,}"
    head = ["model.image_size", "all", *(f"{name} ({own.sum():,})" for name, own in kinds.items())]
    best = max(reached, key=lambda size: (round(reached[size] / _MORE), -size[0]))
    if reached[best] - reached[image_size] >= _MORE:
        advice = f"model.image_size={best[0]} reaches {reached[best]:.1%} instead of {reached[image_size]:.1%}."
    else:
        advice = "No other size reaches more by 1 %: anchors are shares of the input, and grow with it."
    words = (
        f"Of {drawn} objects, those that overlap an anchor by an IoU of {REACHED} or more; others are learned by their"
        f" nearest anchor alone. Small, medium and large at {' x '.join(map(str, image_size))} pixels, by COCO's limits"
        f" (32 and 96 pixels squared). {advice}"
    )
    return Table("Objects within reach of the anchors", head, rows, words)
