"""Near-duplicates among images: the same photo resized, recompressed or a little brighter, or a video's next frame."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

NEAR = 3
"""Bits of a hash in which near-duplicates may differ: then one of its four parts is equal, which finds them fast."""
_PARTS = 4
SHADES = 10
"""Mean difference of the thumbnails' values, of 255, up to which images are near-duplicates."""


class Fingerprint(NamedTuple):
    """What images are compared by: 200 bytes of each.

    Attributes:
        bits: (8,) uint8, the difference hash: whether each of 8 x 9 grey values is darker than its right neighbour.
        thumbnail: (192,) uint8, the image as 8 x 8 pixels.
    """

    bits: NDArray[np.uint8]
    thumbnail: NDArray[np.uint8]


def fingerprint(image: NDArray[np.uint8]) -> Fingerprint:
    """The fingerprint of an image (H, W, 3); the hash is Neal Krawetz's ("Kind of Like That", 2013)."""
    grey = cv2.cvtColor(cv2.resize(image, (9, 8), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    thumbnail = cv2.resize(image, (8, 8), interpolation=cv2.INTER_AREA).ravel()
    return Fingerprint(np.packbits(grey[:, 1:] > grey[:, :-1]), thumbnail.astype(np.uint8))


def group_alike(fingerprints: Sequence[Fingerprint]) -> list[list[int]]:
    """The indices of all images, near-duplicates together, also by way of others; in order of the first of each."""
    if not fingerprints:
        return []
    # Each once: thousands of equal ones, such as blank images, would be compared with one another.
    rows = np.array([np.concatenate(item) for item in fingerprints], np.uint8)
    distinct, places = np.unique(rows, axis=0, return_inverse=True)
    bits, thumbnails = np.ascontiguousarray(distinct[:, :8]), distinct[:, 8:].astype(np.int16)
    parts = bits.view(np.uint16)
    groups = np.arange(len(bits))
    for part in range(parts.shape[1]):
        order = np.argsort(parts[:, part], kind="stable")
        values, place = parts[order, part], np.arange(len(order))
        for apart in range(1, len(order)):  # images with an equal part are neighbours in this order
            place = place[place + apart < len(order)]
            place = place[values[place] == values[place + apart]]
            if not len(place):
                break
            pairs = np.stack([order[place], order[place + apart]], axis=1)
            pairs = pairs[groups[pairs[:, 0]] != groups[pairs[:, 1]]]
            one, other = pairs.T
            pairs = pairs[(parts[one, :part] != parts[other, :part]).all(axis=1)]  # else it was looked at before
            one, other = pairs.T
            pairs = pairs[np.unpackbits(bits[one] ^ bits[other], axis=1).sum(axis=1) <= NEAR]
            one, other = pairs.T
            pairs = pairs[np.abs(thumbnails[one] - thumbnails[other]).mean(axis=1) <= SHADES]
            if len(pairs):
                links = coo_array((np.ones(len(pairs)), groups[pairs.T]), (len(bits), len(bits)))
                groups = connected_components(links, directed=False)[1][groups]
    groups = groups[places.ravel()]
    order = np.argsort(groups, kind="stable")
    return sorted(item.tolist() for item in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1))
