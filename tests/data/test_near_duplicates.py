"""Near-duplicates: the same photo at another size or quality is found, and another photo is not."""

from itertools import combinations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mnv2vision.data.near_duplicates import Look, group, look_at

Pixels = NDArray[np.uint8]


def scene(seed: int) -> Pixels:
    cells = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(cells).resize((320, 240), Image.Resampling.BICUBIC))


def test_the_hash_is_that_of_its_definition() -> None:
    """By hand: nine grey columns that grow lighter, but for the step from the fourth to the fifth."""
    row = np.array([0, 30, 60, 90, 80, 110, 140, 170, 200], np.uint8)
    image = np.broadcast_to(row[None, :, None], (8, 9, 3)).copy()
    assert look_at(image).hash == int("11101111" * 8, 2)
    assert look_at(np.repeat(np.repeat(image, 10, 0), 10, 1)).hash == int("11101111" * 8, 2)


@pytest.mark.parametrize(
    "change",
    [
        lambda image: cv2.resize(image, (160, 120), interpolation=cv2.INTER_AREA),
        lambda image: cv2.resize(image, (640, 480)),
        lambda image: np.clip(image.astype(int) + 6, 0, 255).astype(np.uint8),
        lambda image: cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], cv2.IMREAD_COLOR),
    ],
    ids=["smaller", "larger", "lighter", "compressed"],
)
def test_changed_photos(change) -> None:  # type: ignore[no-untyped-def]
    images = [scene(0), scene(1), change(scene(0)), scene(2)]
    assert group([look_at(image) for image in images]) == [[0, 2], [1], [3]]


def test_other_colours_are_no_duplicates() -> None:
    """The hash is of grey: the thumbnails tell a red wall from a green one."""
    red, green = np.full((2, 32, 32, 3), 20, np.uint8)
    red[..., 0] = green[..., 1] = 90
    assert look_at(red).hash == look_at(green).hash
    assert group([look_at(red), look_at(green), look_at(red)]) == [[0, 2], [1]]


def test_groups_are_those_of_all_pairs() -> None:
    """Against comparing each with each: hashes of few bits, so that there are many near ones."""
    generator = np.random.default_rng(0)
    looks = []
    for _ in range(120):
        bits = sum(1 << int(place) for place in generator.choice(64, generator.integers(0, 5), replace=False))
        looks.append(Look(bits, np.full((8, 8, 3), generator.integers(0, 3) * 40, np.uint8)))
    leader = list(range(len(looks)))
    for one, other in combinations(range(len(looks)), 2):
        near = (looks[one].hash ^ looks[other].hash).bit_count() <= 3
        if near and (looks[one].thumbnail == looks[other].thumbnail).all():
            leader = [leader[one] if of == leader[other] else of for of in leader]
    expected = {frozenset(index for index, own in enumerate(leader) if own == of) for of in leader}
    found = group(looks)
    assert set(map(frozenset, found)) == expected
    assert 1 < len(found) < len(looks)
    assert [indices[0] for indices in found] == sorted(indices[0] for indices in found)


def test_thousands_of_equal_images_are_one_group() -> None:
    blank = look_at(np.zeros((8, 8, 3), np.uint8))
    assert group([blank] * 20_000) == [list(range(20_000))]
    assert group([]) == []
