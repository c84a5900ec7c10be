"""Images that show the same: by a difference hash, and by thumbnails where the hashes agree."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

_NEAR = 3
"""Bits of a hash in which near-duplicates may differ: then one of four parts is equal, which finds them fast."""
_PARTS = 4
_SHADES = 10.0
"""Mean difference of the thumbnails' values, of 255, up to which images are near-duplicates."""
_BITS = np.array([value.bit_count() for value in range(2**16)], np.uint8)


class Look(NamedTuple):
    """What an image looks like, in 200 bytes.

    Attributes:
        hash: Of 64 bits: whether it grows lighter from each of 8 x 9 grey fields to the next in its row.
        thumbnail: (8, 8, 3) uint8 RGB.
    """

    hash: int
    thumbnail: NDArray[np.uint8]


def look_at(image: NDArray[np.uint8]) -> Look:
    """The look of an (H, W, 3) uint8 RGB image.

    Source: the difference hash is that of Neal Krawetz, "Kind of Like That", 2013.
    """
    grey = cv2.cvtColor(cv2.resize(image, (9, 8), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY).astype(np.int16)
    bits = np.packbits(grey[:, 1:] > grey[:, :-1])
    thumbnail = np.asarray(cv2.resize(image, (8, 8), interpolation=cv2.INTER_AREA), np.uint8)
    return Look(int.from_bytes(bits.tobytes(), "big"), thumbnail)


def group(looks: Sequence[Look]) -> list[list[int]]:
    """Indices of images, near-duplicates together, also by way of others; each index once, groups by their first.

    Two images are near-duplicates if their hashes differ in 3 bits of 64 at most, and their thumbnails by 10 of 255 on
    average.
    """
    if not looks:
        return []
    leader = list(range(len(looks)))

    def find(index: int) -> int:
        while leader[index] != index:
            leader[index] = leader[leader[index]]
            index = leader[index]
        return index

    # Each look once: thousands of equal ones, such as blank images, would be compared with one another.
    first: dict[bytes, int] = {}
    for index, look in enumerate(looks):
        leader[index] = first.setdefault(look.hash.to_bytes(8, "big") + look.thumbnail.tobytes(), index)
    distinct = np.array(list(first.values()))
    hashes = np.array([looks[index].hash for index in distinct], np.uint64)
    for part in range(_PARTS):
        keys = (hashes >> np.uint64(16 * part)) & np.uint64(0xFFFF)
        order = np.argsort(keys, kind="stable")
        for alike in np.split(order, np.flatnonzero(np.diff(keys[order])) + 1):
            for place, one in enumerate(alike[:-1].tolist()):
                for other in _near(looks, distinct, hashes, one, alike[place + 1 :]):
                    leader[find(int(distinct[other]))] = find(int(distinct[one]))
    groups = defaultdict(list)
    for index in range(len(looks)):
        groups[find(index)].append(index)
    return sorted(groups.values())


def _near(
    looks: Sequence[Look],
    distinct: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    one: int,
    others: NDArray[np.int64],
) -> list[int]:
    """Those of `others`, places in `distinct`, that are near-duplicates of `one`."""
    differing = hashes[others] ^ hashes[one]
    near = others[_BITS[differing.view(np.uint16).reshape(-1, 4)].sum(axis=1) <= _NEAR]
    own = looks[distinct[one]].thumbnail.astype(np.float32)
    return [other for other in near.tolist() if np.abs(looks[distinct[other]].thumbnail - own).mean() <= _SHADES]
