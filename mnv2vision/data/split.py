"""A data set without a split, divided: by seed, alike for each class, and with near-duplicates on one side."""

import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np

from mnv2vision.common.progress import told
from mnv2vision.common.text import few
from mnv2vision.common.threads import usable_cores
from mnv2vision.data.batch import OnError
from mnv2vision.data.duplicates import Fingerprint, fingerprint, group_alike
from mnv2vision.data.sample import IGNORE_INDEX, Sample, SampleSource, names_of
from mnv2vision.errors import DataError

log = logging.getLogger(__name__)

Id = int | str
_Class = tuple[str, int]
_NOTHING: _Class = ("nothing", 0)


class IdentifiedSource(SampleSource, Protocol):
    """A data set that knows the ids of its samples without reading them."""

    def image_id(self, index: int) -> Id:
        """That of a sample."""
        ...


class Subset:
    """Some samples of a data set."""

    def __init__(self, source: SampleSource, indices: Sequence[int]) -> None:
        self.source, self.indices = source, np.array(indices, np.int64)
        self.names, self.targets = source.names, source.targets

    def __getattr__(self, name: str) -> object:
        """What else the data set says of itself, such as `category_ids`."""
        if name == "source":  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.source, name)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.source[int(self.indices[index])]


def parts_of(source: IdentifiedSource, held_out: Collection[Id], where: str) -> tuple[Subset, Subset]:
    """The training and validation samples.

    Args:
        source: All samples.
        held_out: Ids of those for validation.
        where: The data set, for messages.

    Raises:
        DataError: If nothing is left for one of them.
    """
    wanted = set(held_out)
    ids = [source.image_id(index) for index in range(len(source))]
    if gone := wanted - set(ids):
        lost = few(sorted(map(str, gone)))
        log.warning("%s: %d of %d images that were held out are gone: %s", where, len(gone), len(wanted), lost)
    val = [index for index, name in enumerate(ids) if name in wanted]
    train = [index for index, name in enumerate(ids) if name not in wanted]
    if not val or not train:
        raise DataError(f"{where}: of {len(ids)} images, {len(val)} are held out for validation: give other data")
    return Subset(source, train), Subset(source, val)


def hold_out(source: IdentifiedSource, share: float, seed: int, where: str, on_error: OnError = "raise") -> list[Id]:
    """Choose samples for validation, all of which are read once.

    Classes are divided one by one, the rarest first, each group of near-duplicates (`group_alike`) to the side where
    the class lacks most (Sechidis et al., "On the Stratification of Multi-label Data", 2011).

    Args:
        source: The data set.
        share: Of its images that are held out, above 0 and below 1.
        seed: Of the order in which groups are considered.
        where: The data set, for messages.
        on_error: Of files that cannot be read; with "skip", they are for training, which names them.

    Returns:
        The ids of the samples to hold out, in the data set's order.

    Raises:
        DataError: For an image that cannot be read, or data that cannot be divided.
    """
    log.info("%s: reading %d images, to divide them (dataset.split=%s)", where, len(source), share)
    with ThreadPoolExecutor(usable_cores()) as threads:
        looked = threads.map(lambda index: _look(source, index, on_error), range(len(source)))
        seen = list(told(looked, len(source), f"images of {where}"))
    looks = {index: look for index, look in enumerate(seen) if look is not None}
    if len(looks) < len(seen):
        log.warning("%s: %d images cannot be read, and are not held out", where, len(seen) - len(looks))
    readable = list(looks)
    found = group_alike([look.fingerprint for look in looks.values()])
    groups = [[readable[place] for place in group] for group in found]
    chosen = sorted(index for group in _choose(groups, looks, share, seed) for index in group)
    if not 0 < len(chosen) < len(looks):
        alike = f", in {len(groups)} groups of near-duplicates," if len(groups) < len(looks) else ""
        raise DataError(f"{where}: {len(looks)} images{alike} are too few for dataset.split={share}")
    several = [len(group) for group in groups if len(group) > 1]
    log.info(
        "%s: %d of %d images are held out for validation (seed %d); %d near-duplicates, in %d groups, stay together",
        *(where, len(chosen), len(source), seed, sum(several), len(several)),
    )
    held = set(chosen)
    sides = {"validation": [looks[index] for index in held], "training": [looks[i] for i in looks if i not in held]}
    for side, own in sides.items():
        there = {name for look in own for name in look.classes}
        for target in sorted(source.targets):
            absent = [name for label, name in enumerate(names_of(source, target)) if (target, label) not in there]
            if absent:
                log.warning("%s: no image for %s has %s", where, side, few(absent))
    return [source.image_id(index) for index in chosen]


class _Look(NamedTuple):
    fingerprint: Fingerprint
    classes: frozenset[_Class]


def _look(source: SampleSource, index: int, on_error: OnError) -> _Look | None:
    """What counts of a sample; None if it cannot be read."""
    try:
        sample = source[index]
    except DataError:
        if on_error == "raise":
            raise
        return None
    found: set[_Class] = set() if sample.label is None else {("label", sample.label)}
    if sample.boxes is not None:
        found |= {("boxes", label) for label in sample.boxes.labels.tolist()}
    if sample.mask is not None:
        found |= {("mask", value) for value in np.unique(sample.mask).tolist() if value != IGNORE_INDEX}
    return _Look(fingerprint(sample.image), frozenset(found or {_NOTHING}))


def _choose(groups: Sequence[list[int]], looks: Mapping[int, _Look], share: float, seed: int) -> list[list[int]]:
    """The groups for validation."""
    counts = [Counter(name for index in group for name in looks[index].classes) for group in groups]
    totals: Counter[_Class] = Counter()
    of_class: dict[_Class, list[int]] = defaultdict(list)
    for number in np.random.default_rng(seed).permutation(len(groups)).tolist():
        totals.update(counts[number])
        for name in counts[number]:
            of_class[name].append(number)
    # What the two sides lack, of each class and in all.
    lacking = {name: [total * (1 - share), total * share] for name, total in totals.items()}
    room = [len(looks) * (1 - share), len(looks) * share]
    chosen: dict[int, int] = {}
    for name in sorted(totals, key=lambda name: (totals[name], name)):
        for number in sorted(of_class[name], key=lambda number: -len(groups[number])):  # large ones fit nowhere later
            if number in chosen:
                continue
            lacks = lacking[name]
            side = int((lacks[1], room[1]) > (lacks[0], room[0]))
            chosen[number] = side
            room[side] -= len(groups[number])
            for other, count in counts[number].items():
                lacking[other][side] -= count
    return [groups[number] for number, side in chosen.items() if side]
