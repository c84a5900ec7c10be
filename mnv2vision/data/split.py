"""A data set without a split, divided: by seed, alike for each class, and with near-duplicates on one side."""

import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2vision.common.text import few
from mnv2vision.common.threads import usable_cores
from mnv2vision.data.sample import IGNORE_INDEX, Sample, SampleSource, names_of
from mnv2vision.errors import DataError

log = logging.getLogger(__name__)

Id = int | str
_Class = tuple[str, int]
_NEAR = 3
"""Bits of a hash in which near-duplicates may differ: then one of four parts is equal, which finds them fast."""
_PARTS = 4
_SHADES = 10.0
"""Mean difference of the thumbnails' values, of 255, up to which images are near-duplicates."""
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
        told = few(sorted(map(str, gone)))
        log.warning("%s: %d of %d images that were held out are gone: %s", where, len(gone), len(wanted), told)
    val = [index for index, name in enumerate(ids) if name in wanted]
    train = [index for index, name in enumerate(ids) if name not in wanted]
    if not val or not train:
        raise DataError(f"{where}: of {len(ids)} images, {len(val)} are held out for validation: give other data")
    return Subset(source, train), Subset(source, val)


def hold_out(source: IdentifiedSource, share: float, seed: int, where: str) -> list[Id]:
    """Choose samples for validation, all of which are read once.

    Images are near-duplicates if their difference hashes (Neal Krawetz, "Kind of Like That", 2013; of 8 x 8 bits)
    differ in 3 bits at most, and their thumbnails of 8 x 8 pixels by 10 of 255 on average. Classes are divided one by
    one, the rarest first, each image where the class lacks most (Sechidis et al., "On the Stratification of
    Multi-label Data", 2011).

    Args:
        source: The data set.
        share: Of its images that are held out, above 0 and below 1.
        seed: Of the order in which groups of near-duplicates are considered.
        where: The data set, for messages.

    Returns:
        The ids of the samples to hold out, in the data set's order.

    Raises:
        DataError: For an image that cannot be read, or data that cannot be divided.
    """
    log.info("%s: looking at %d images, to divide them", where, len(source))
    with ThreadPoolExecutor(usable_cores()) as threads:
        looks = list(threads.map(lambda index: _look(source[index]), range(len(source))))
    groups = _groups([look.hash for look in looks], np.array([look.thumbnail for look in looks], np.float32))
    chosen = sorted(index for group in _choose(groups, looks, share, seed) for index in group)
    if not 0 < len(chosen) < len(source):
        alike = f", {len(groups)} without near-duplicates," if len(groups) < len(source) else ""
        raise DataError(f"{where}: {len(source)} images{alike} are too few for dataset.split={share}")
    several = [group for group in groups if len(group) > 1]
    log.info(
        "%s: %d of %d images are held out for validation (dataset.split=%s, seed %d); %d near-duplicates, in %d groups,"
        " stay together",
        *(where, len(chosen), len(source), share, seed, sum(map(len, several)), len(several)),
    )
    held = set(chosen)
    for target in sorted(source.targets):
        sides = [
            {name for index in side for name in looks[index].classes} for side in (held, set(range(len(looks))) - held)
        ]
        for side, classes in zip(("validation", "training"), sides, strict=True):
            absent = [name for label, name in enumerate(names_of(source, target)) if (target, label) not in classes]
            if absent:
                log.warning("%s: no image for %s has %s", where, side, few(absent))
    return [source.image_id(index) for index in chosen]


class _Look(NamedTuple):
    hash: int
    thumbnail: NDArray[np.uint8]
    classes: frozenset[_Class]


def _look(sample: Sample) -> _Look:
    found: set[_Class] = set() if sample.label is None else {("label", sample.label)}
    if sample.boxes is not None:
        found |= {("boxes", label) for label in sample.boxes.labels.tolist()}
    if sample.mask is not None:
        found |= {("mask", value) for value in np.unique(sample.mask).tolist() if value != IGNORE_INDEX}
    small = cv2.resize(sample.image, (9, 8), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.int16)
    bits = np.packbits(grey[:, 1:] > grey[:, :-1])
    thumbnail = cv2.resize(sample.image, (8, 8), interpolation=cv2.INTER_AREA)
    return _Look(int.from_bytes(bits.tobytes(), "big"), thumbnail, frozenset(found or {_NOTHING}))


def _groups(hashes: Sequence[int], thumbnails: NDArray[np.float32]) -> list[list[int]]:
    """Indices of images, near-duplicates together, also by way of others."""
    leader = list(range(len(hashes)))

    def find(index: int) -> int:
        while leader[index] != index:
            leader[index] = leader[leader[index]]
            index = leader[index]
        return index

    for part in range(_PARTS):
        alike: dict[int, list[int]] = defaultdict(list)
        for index, value in enumerate(hashes):
            alike[value >> (16 * part) & 0xFFFF].append(index)
        for indices in alike.values():
            for place, index in enumerate(indices[1:], 1):
                others = [
                    other
                    for other in indices[:place]
                    if find(other) != find(index) and (hashes[other] ^ hashes[index]).bit_count() <= _NEAR
                ]
                if others:
                    apart = np.abs(thumbnails[others] - thumbnails[index]).mean(axis=(1, 2, 3))
                    for other in np.array(others)[apart <= _SHADES].tolist():
                        leader[find(other)] = find(index)
    groups = defaultdict(list)
    for index in range(len(hashes)):
        groups[find(index)].append(index)
    return list(groups.values())


def _choose(groups: Sequence[list[int]], looks: Sequence[_Look], share: float, seed: int) -> list[list[int]]:
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
