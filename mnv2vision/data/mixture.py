"""Several data sets as one, for heads that learn from different ones: every batch has images of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mnv2vision.data.sample import IGNORE_INDEX, Boxes, Sample, SampleSource
from mnv2vision.errors import ConfigError, DataError


class Mixture:
    """Samples of several data sets, one behind the other, each with the number of its own.

    Attributes:
        sources: The data sets.
        names: Of the parts.
        shares: Of a batch, by part.
        targets: That any of them has.
    """

    def __init__(self, sources: Mapping[str, SampleSource], shares: Sequence[float] | None = None) -> None:
        """Put them together.

        Args:
            sources: By the parts' names.
            shares: Of a training batch; only their ratios count. As many of each by default.
        """
        self.names, self.sources = tuple(sources), tuple(sources.values())
        self.shares = tuple(shares or [1.0] * len(self.sources))
        self.targets = frozenset[str]().union(*(source.targets for source in self.sources))
        self._ends = np.cumsum([len(source) for source in self.sources])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Sample:
        part = self.part(index)
        return replace(self.sources[part][index - self.indices(part).start], part=part)

    def part(self, index: int) -> int:
        """The number of a sample's data set."""
        return int(np.searchsorted(self._ends, index, side="right"))

    def indices(self, part: int) -> range:
        """Those of a data set's samples."""
        end = int(self._ends[part])
        return range(end - len(self.sources[part]), end)


@dataclass(frozen=True)
class Labels:
    """A head's labels of a data set's own, by target; None where they are the same, or not wanted.

    Attributes:
        label: Of images.
        boxes: Of objects.
        mask: Of pixels.
    """

    label: Sequence[int] | None = None
    boxes: Sequence[int] | None = None
    mask: Sequence[int] | None = None


class Relabelled:
    """A data set whose labels are mapped to a model's classes.

    Attributes:
        names: The model's classes.
    """

    def __init__(self, source: SampleSource, labels: Labels, names: tuple[str, ...]) -> None:
        self.source, self.names, self.targets = source, names, source.targets
        self._label, self._boxes = labels.label, None if labels.boxes is None else np.array(labels.boxes, np.int64)
        self._mask: NDArray[np.uint8] | None = None
        if labels.mask is not None:
            self._mask = np.full(256, IGNORE_INDEX, np.uint8)
            self._mask[: len(labels.mask)] = labels.mask

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        sample = self.source[index]
        if self._label is not None and sample.label is not None:
            sample = replace(sample, label=self._label[sample.label])
        if self._boxes is not None and sample.boxes is not None:
            old = sample.boxes
            sample = replace(sample, boxes=Boxes(old.boxes, self._boxes[old.labels], old.kinds, old.areas))
        if self._mask is not None and sample.mask is not None:
            sample = replace(sample, mask=self._mask[sample.mask])
        return sample


def counts_per_batch(shares: Sequence[float], batch_size: int, names: Sequence[str]) -> list[int]:
    """How many images of each part a batch has: by their shares, rounded, at least one each.

    Raises:
        ConfigError: If a batch has fewer images than there are parts.
    """
    if batch_size < len(shares):
        raise ConfigError(
            f"loader.batch_size={batch_size}: each batch has images of all {len(shares)} data sets"
            f" ({', '.join(names)}); give {len(shares)} or more"
        )
    wanted = np.array(shares, float) / sum(shares) * batch_size
    counts = np.maximum(1, np.floor(wanted)).astype(int)
    while counts.sum() != batch_size:
        missing = wanted - counts
        if counts.sum() < batch_size:
            counts[missing.argmax()] += 1
        else:
            counts[np.where(counts > 1, missing, np.inf).argmin()] -= 1
    return [int(count) for count in counts]


def unite(names: Mapping[str, Sequence[str]], what: str) -> tuple[str, ...]:
    """The classes of several data sets, by name, in order of their first mention.

    Args:
        names: By data set.
        what: Whose classes they are, for messages.

    Raises:
        DataError: For a data set that has a name twice, or two data sets whose names differ by case alone.
    """
    united: dict[str, str] = {}
    for part, own in names.items():
        if twice := [name for name in own if list(own).count(name) > 1]:
            raise DataError(f"{what}: {part} has two classes named {twice[0]}")
        for name in own:
            united.setdefault(name, part)
    by_case: dict[str, str] = {}
    for name, part in united.items():
        if (other := by_case.setdefault(name.strip().casefold(), name)) != name:
            raise DataError(
                f"{what}: {united[other]} has a class {other!r}, {part} has {name!r}: if they are one, name them alike"
            )
    return tuple(united)
