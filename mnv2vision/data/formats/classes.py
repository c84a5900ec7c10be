"""The classes of a data set of objects: selected, and looked for among the objects."""

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mnv2vision.common.text import few
from mnv2vision.errors import DataError

log = logging.getLogger(__name__)


def split_names(split: str) -> tuple[str, ...]:
    """What a split may be called: "val" also "valid", as in Roboflow's exports, or "validation"."""
    return (split, "valid", "validation") if split == "val" else (split,)


def select_classes(names: Sequence[str], classes: Sequence[str] | None, where: str) -> list[int]:
    """The indices of the wanted names.

    Args:
        names: All that there are.
        classes: The wanted ones, in order; None for all.
        where: The file that has them, for messages.

    Raises:
        DataError: For a name that is unknown or given twice.
    """
    if classes is None:
        return list(range(len(names)))
    wanted = [str(name).strip() for name in classes]
    unknown = [name for name in wanted if name not in names]
    if unknown or not wanted or len(set(wanted)) < len(wanted):
        problem = f"no category {few(unknown)}" if unknown else "`classes` must be one or more distinct names"
        raise DataError(f"{where}: {problem}; the categories are: {few(sorted(names), 20)}")
    return [names.index(name) for name in wanted]


def tell_of_absent(labels: NDArray[np.int64], names: Sequence[str], where: str) -> None:
    """Warn of classes without objects.

    Args:
        labels: Of the objects.
        names: By label.
        where: The data set, for the message.
    """
    absent = np.flatnonzero(np.bincount(labels, minlength=len(names)) == 0)
    if len(absent):
        told = few([names[label] for label in absent.tolist()])
        log.warning("%s: %d of %d categories have no objects: %s", where, len(absent), len(names), told)
