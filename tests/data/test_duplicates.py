"""Near-duplicates are found as by comparing all with all, and nothing else is."""

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from mnv2vision.data.duplicates import Fingerprint, fingerprint, group_alike


def photo(seed: int) -> NDArray[np.uint8]:
    pixels = np.random.default_rng(seed).integers(0, 255, (7, 9, 3), np.uint8)
    return np.asarray(cv2.resize(pixels, (120, 90), interpolation=cv2.INTER_CUBIC))


def test_copies() -> None:
    first, second = photo(0), photo(1)
    jpeg = cv2.imdecode(cv2.imencode(".jpg", first, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], cv2.IMREAD_COLOR)
    brighter = np.clip(second.astype(int) + 6, 0, 255).astype(np.uint8)
    smaller = cv2.resize(first, (60, 45), interpolation=cv2.INTER_AREA)
    images = [first, second, jpeg, brighter, smaller, photo(2), np.ascontiguousarray(first[:, ::-1])]
    assert group_alike([fingerprint(np.asarray(image, np.uint8)) for image in images]) == [[0, 2, 4], [1, 3], [5], [6]]


def test_plain_pictures_of_other_colours_are_none() -> None:
    """They have no edges for a difference hash."""
    colours = [np.full((20, 30, 3), shade, np.uint8) for shade in range(0, 250, 25)]
    assert group_alike(list(map(fingerprint, [*colours, colours[3]]))) == [
        [0],
        [1],
        [2],
        [3, 10],
        *([n] for n in range(4, 10)),
    ]


def test_as_by_comparing_all() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(60):
        bits, thumbnail = rng.integers(0, 2, 64), rng.integers(0, 200, 192)
        for _ in range(5):  # in up to four bits, and by more or less than the shades
            flipped = bits.copy()
            flipped[rng.integers(0, 64, rng.integers(0, 5))] ^= 1
            shades = (thumbnail + rng.integers(0, 24, 192)).astype(np.uint8)
            found.append(Fingerprint(np.packbits(flipped.astype(bool)), shades))
    bits = np.unpackbits([item.bits for item in found], axis=1).astype(int)
    shades = np.array([item.thumbnail for item in found], int)
    near = (np.abs(bits[:, None] - bits).sum(-1) <= 3) & (np.abs(shades[:, None] - shades).mean(-1) <= 10)
    count, labels = connected_components(near)
    assert group_alike(found) == sorted(np.flatnonzero(labels == label).tolist() for label in range(count))
    assert 60 < count < 300
    assert group_alike([]) == []


def test_thousands_of_equal_images_are_one_group() -> None:
    blank = fingerprint(np.zeros((8, 8, 3), np.uint8))
    assert group_alike([blank] * 20_000) == [list(range(20_000))]
