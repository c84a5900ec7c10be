"""Data of the user's own, for training and evaluation from Python: a folder, or any object that yields samples."""

import logging
import os
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from mnv2vision.data.sample import IGNORE_INDEX, Sample, SampleSource, names_of
from mnv2vision.errors import ConfigError, DataError

log = logging.getLogger(__name__)

_LOOKED_AT = 100  # samples, for the target
HELD_OUT = 10
"""A data set without a validation part gives one sample of so many to it."""


@runtime_checkable
class OwnData(Protocol):
    """A data set: a sized, indexable source of samples with class names."""

    @property
    def names(self) -> Sequence[str]:
        """Class names, indexed by label."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


Data = str | os.PathLike[str] | OwnData | tuple[OwnData, OwnData]
"""A folder, a data set, or one for training and one for validation."""


class OwnSource:
    """A data set of the user's, or some of its samples, as training and evaluation take them."""

    def __init__(
        self, data: OwnData, targets: Sequence[str], indices: Sequence[int] | None = None, *, unique: bool = False
    ) -> None:
        """Look at the first samples for what there is.

        Args:
            data: The data set.
            targets: What is wanted of the samples, some of which may lack it.
            indices: Of the samples to take; all by default.
            unique: Whether each sample needs an image_id of its own, as in evaluation, which counts an id once.

        Raises:
            DataError: For a data set that is empty or yields something else.
        """
        self.data = data
        self._seen: dict[int | str, int] | None = {} if unique else None
        self.indices = range(len(data)) if indices is None else indices
        self.names = tuple(data.names)
        if not self.indices:
            raise DataError("data: the data set is empty")
        found: set[str] = set()
        for index in range(min(len(self), _LOOKED_AT)):
            sample = self[index]
            found |= {name for name in ("label", "boxes", "mask") if getattr(sample, name) is not None}
            if found.issuperset(targets) and not unique:
                break
        self.targets = frozenset(found)

    def __getattr__(self, name: str) -> object:
        """What else the data set says of itself, such as `category_ids`."""
        if name == "data":  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.data, name)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        number = self.indices[index]
        sample = self.data[number]
        if not isinstance(sample, Sample):
            raise DataError(f"data[{number}] is a {type(sample).__name__}, not an mnv2vision.Sample")
        # As far as one process reads both: to look at all samples before the run would take as long as a validation.
        if self._seen is not None and (other := self._seen.setdefault(sample.image_id, number)) != number:
            raise DataError(
                f"data[{other}] and data[{number}] have the same image_id, {sample.image_id!r}:"
                " in evaluation, each sample needs its own"
            )
        image = sample.image
        if not (isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3):
            described = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise DataError(f"{sample.path}: an image is an (H, W, 3) uint8 RGB array, not {described}")
        if sample.mask is not None:
            mask, known = sample.mask, len(names_of(self, "mask"))
            wrong = mask[(mask >= known) & (mask != IGNORE_INDEX)]
            if mask.dtype != np.uint8 or wrong.size:
                found = f"the value {wrong[0]}" if wrong.size else mask.dtype
                raise DataError(f"{sample.path}: a mask is uint8 with {known} labels and 255, but it has {found}")
        labels = [] if sample.boxes is None else sample.boxes.labels.tolist()
        labels += [] if sample.label is None else [sample.label]
        if wrong := [label for label in labels if not 0 <= label < len(self.names)]:
            raise DataError(f"{sample.path}: label {wrong[0]}, but there are {len(self.names)} names")
        return sample


def own_parts(data: object, *targets: str) -> tuple[SampleSource, SampleSource]:
    """Training and validation samples of a data set of the user's.

    Args:
        data: One data set, of which a tenth is held out, or one for each part.
        targets: What the heads need of samples: "label", "boxes", "mask"; of several, each by some sample.

    Raises:
        ConfigError: For something else, or samples without the target.
    """
    if isinstance(data, tuple) and len(data) != 2:
        raise ConfigError(f"data: a tuple of {len(data)}; it must be two, (train, val)")
    parts: list[OwnData] = []
    for part in data if isinstance(data, tuple) else (data,):
        if not isinstance(part, OwnData):
            raise ConfigError(
                f"data: {type(part).__name__} is not a folder, a data set with __len__, __getitem__ and names,"
                " or a tuple (train, val)"
            )
        parts.append(part)
    if len(parts) == 2:
        train, val = OwnSource(parts[0], targets), OwnSource(parts[1], targets, unique=True)
    else:
        (only,) = parts
        # At random, as data often come in an order; the same ones each time.
        order = np.random.default_rng(0).permutation(len(only))
        count = -(-len(only) // HELD_OUT)
        held_out, rest = (sorted(part.tolist()) for part in (order[:count], order[count:]))
        if not rest:
            raise ConfigError(f"data: too few samples ({len(only)}) to hold some out: give a pair, (train, val)")
        train, val = OwnSource(only, targets, rest), OwnSource(only, targets, held_out, unique=True)
        log.info("%d of %d samples, drawn at random, are held out for validation", len(val), len(only))
    for source in (train, val):
        if missing := [target for target in targets if target not in source.targets]:
            there = ", ".join(sorted(source.targets)) or "no target"
            raise ConfigError(f"data: the samples have {there}, but the task needs {missing[0]}")
    return train, val
