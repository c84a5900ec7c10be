"""Annotation files with mistakes at random: read, or refused in one line, and never at a gigabyte."""

import copy
import json
import logging
import random
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mnv2vision.data.formats.coco import Coco
from mnv2vision.errors import DataError

pytestmark = pytest.mark.slow

CheckSamples = Callable[[Any, tuple[int, int]], None]
WIDTH, HEIGHT = 50, 40
CASES = 3500
MOST_MEMORY = 500 * 1024  # KiB more than before
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 0.5, 1e-30, 2**31, 2**63, 2**64, 10**40, 1e300, -1e300, float("nan"), float("inf"),
    "", "0", "1", "3", "a.png", "../a.png", "/etc/passwd", "\\", "\0", "\ud800", "ä" * 200, "n" * 5000, "NaN", "1e5",
    [], [[]], [[[]]], {}, {"a": 1}, [None], [0, 0, 0, 0], [1, 2, 3, 4], [[1, 2, 3, 4, 5, 6]], [[1, 2], [3, 4], [5, 6]],
    [[1, 2, 2**31, 4, 5, 2**31]], [[1, 2, float("nan"), 4, 5, 6]], [["1"] * 6], {"size": [HEIGHT, WIDTH]},
    {"size": [HEIGHT, WIDTH], "counts": [2**40, -(2**40)]}, {"size": [HEIGHT, WIDTH], "counts": "0" * 40},
    {"size": [2**31, 2**31], "counts": [2**62]}, {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]},
]  # fmt: skip
TOKENS = [b"[", b"]", b"{", b"}", b",", b":", b'"', b"\\", b"\xff", b"\0", b"1" * 5000, b"e999", b"-", b"NaN", b"null"]
TOKENS += [b"[" * 3000, b"\\ud800", b"\xef\xbb\xbf"]


def valid() -> dict[str, Any]:
    runs = {"size": [HEIGHT, WIDTH], "counts": [100, 30, 10, 30, HEIGHT * WIDTH - 170]}
    outlines = [[[1, 2, 11, 2, 11, 12, 1, 12]], [[5, 5, 20, 5, 9, 30], [30, 30, 40, 30, 40, 39]], runs, []]
    return {
        "images": [
            {"id": n, "file_name": f"{name}.png", "height": HEIGHT, "width": WIDTH} for n, name in ((1, "a"), (2, "b"))
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}],
        "annotations": [
            {
                "id": n,
                "image_id": 1 + n % 2,
                "category_id": 3 + n % 2 * 2,
                "bbox": [1 + n, 2, 10, 10],
                "area": 90,
                "iscrowd": int(n == 2),
                "segmentation": outline,
            }
            for n, outline in enumerate(outlines)
        ],
    }


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container in a document with every key of it."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    return [place for key in keys for place in [(value, key), *places(value[key])]]


def mutate_value(chance: random.Random, document: Any) -> None:
    container, key = chance.choice(places(document))
    kind = chance.randrange(6)
    if kind == 0:
        del container[key]
    elif kind == 1:
        container[key] = [container[key]]
    elif kind == 2:
        container[key] = str(container[key])
    elif kind == 3 and isinstance(container, list):
        container.append(copy.deepcopy(container[key]))
    elif kind == 4:
        container[key] = copy.deepcopy(chance.choice(places(document))[0])
    else:
        container[key] = copy.deepcopy(chance.choice(VALUES))


def mutate_bytes(chance: random.Random, content: bytes) -> bytes:
    start = chance.randrange(len(content))
    end = min(len(content), start + chance.choice([0, 1, 1, 4, 100]))
    between = [chance.choice(TOKENS), chance.randbytes(1), content[end : end + 50], b""]
    return content[:start] + chance.choice(between) + content[end:] if chance.random() < 0.8 else content[:start]


def mutated(seed: int) -> bytes:
    chance = random.Random(seed)
    document = valid()
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        if places(document):
            mutate_value(chance, document)
    content = json.dumps(document).encode()
    return mutate_bytes(chance, content) if chance.random() < 0.4 else content


def outcome(target: str, root: Path, check_samples: CheckSamples) -> str:
    """ "read", "refused" at once, or "refused for an image"; everything else is raised."""
    state = "refused"
    try:
        data = Coco(root, "train", targets=(target,))
        state = "refused for an image"
        check_samples(data, (HEIGHT, WIDTH))
    except DataError as error:
        message = str(error)
        if "\n" in message or str(root) not in message:
            raise AssertionError(f"not one line that names the file: {message!r}") from error
        return state
    return "read"


def prepare(root: Path) -> Path:
    for folder in ("annotations", "train"):
        (root / folder).mkdir(exist_ok=True)
    for name in "ab":
        Image.new("RGB", (WIDTH, HEIGHT)).save(root / f"train/{name}.png")
    return root / "annotations/instances_train.json"


def test_mistakes_at_random(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check_samples: CheckSamples) -> None:
    file = prepare(tmp_path)
    monkeypatch.setenv("MNV2VISION_HOME", str(file))  # no cache: what counts is the reading
    monkeypatch.setattr(logging.getLogger("mnv2vision.data"), "disabled", True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts = {"read": 0, "refused": 0, "refused for an image": 0}
    for seed in range(CASES):
        file.write_bytes(mutated(seed))
        for target in ("boxes", "mask"):
            try:
                counts[outcome(target, tmp_path, check_samples)] += 1
            except Exception as error:
                raise AssertionError(f"seed {seed}, {target}: {error!r}") from error
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + MOST_MEMORY
    assert min(counts.values()) > CASES // 200, counts  # each kind occurs, or the mutations are of no use
