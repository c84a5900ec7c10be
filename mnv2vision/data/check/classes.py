"""Classes that have no objects, or are in one split only, and names that differ by their case."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mnv2vision.data.check.finding import Finding
from mnv2vision.data.check.records import Record
from mnv2vision.data.formats.imagenet import check_same_classes
from mnv2vision.errors import DataError

Names = Mapping[str, Sequence[str]]
"""Class names by split."""


def find(names: Names, counts: Mapping[str, NDArray[np.int64]]) -> Iterator[Finding]:
    """Faults of classes.

    Args:
        names: Of those splits that could be read.
        counts: See `count`; of each of these splits.
    """
    known = list(dict.fromkeys(name for own in names.values() for name in own))
    both = ", ".join(names)
    alike: dict[str, list[str]] = defaultdict(list)
    for name in known:
        alike["".join(name.casefold().split())].append(name)
    for spelled in alike.values():
        if len(spelled) > 1:
            yield Finding("class names alike", both, "", f"{' and '.join(map(repr, spelled))} differ by case or spaces")
    same = True
    try:
        if len(names) == 2:
            check_same_classes(*names.values())
    except DataError as error:
        yield Finding("different classes", both, "", str(error))
        same = False
    of_split = {split: dict(zip(own, counts[split].tolist(), strict=True)) for split, own in names.items()}
    for name in known:
        own = {split: examples[name] for split, examples in of_split.items() if name in examples}
        having = [split for split, count in own.items() if count]
        if not having:
            yield Finding("class without objects", ", ".join(own), "", f"{name} has no examples")
        elif same and len(having) < len(names):
            other = next(split for split in names if split not in having)
            what = f"{name}: {own[having[0]]} in {having[0]}, none in {other}"
            yield Finding("class in one split", having[0], "", what)


def count(records: Sequence[Record], classes: int) -> NDArray[np.int64]:
    """Examples of each class: images of it, objects of it, or masks that have it.

    Args:
        records: Of a split.
        classes: How many there are.

    Returns:
        (C,).
    """
    counts = np.zeros(classes, np.int64)
    for record in records:
        if record.label is not None:
            counts[record.label] += 1
        if record.boxes is not None:
            counts += np.bincount(record.boxes.labels, minlength=classes)
        if record.values is not None:
            counts[list(record.values)] += 1
    return counts
