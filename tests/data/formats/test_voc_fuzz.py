"""Annotation files, lists and masks with mistakes at random: read, or refused in one line, and never at a gigabyte."""

import io
import logging
import random
import re
import resource
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from mnv2vision.data.formats.voc import Voc
from mnv2vision.errors import DataError

pytestmark = pytest.mark.slow

CheckSamples = Callable[[Any, tuple[int, int]], None]
WIDTH, HEIGHT = 50, 40
CASES = 1200  # of each kind
MOST_MEMORY = 500 * 1024  # KiB more than before
OBJECT = (
    "<object><name>{}</name><difficult>{}</difficult>"
    "<bndbox><xmin>{}</xmin><ymin>3</ymin><xmax>30</xmax><ymax>33.5</ymax></bndbox>"
    "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>\n"
)
SIZE = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>\n"
XML = "<?xml version='1.0' encoding='utf-8'?>\n<annotation>\n" + SIZE
XML += OBJECT.format("cat", 0, 2) + OBJECT.format("dög", 1, 4) + "</annotation>"
BOMB = "<!DOCTYPE a [<!ENTITY a '" + "ha" * 50 + "'>"
BOMB += "".join(f"<!ENTITY {b} '{f'&{a};' * 20}'>" for a, b in zip("abcdefg", "bcdefgh", strict=True))
BOMB += "]>\n<annotation><object><name>&h;</name></object></annotation>"
OUTSIDE = (
    "<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>\n<annotation><object><name>&x;</name></object></annotation>"
)
TOKENS = [
    *("<", ">", "</", "/>", "&", "&#0;", "&#55296;", "&amp;", "<![CDATA[", "]]>", "<!--", "<object>", "</object>"),
    *("<a>" * 5000, "9" * 5000, "-1", "0", "nan", "inf", "1e999", "1_0", "\0", "\ufeff", "ä" * 300, " ", "\n"),
    *("<name>", "\U0001f4a9", "<object/>", "<object><name>x</name></object>", "<size/>", "<bndbox>", "<xmin>1</xmin>"),
    *("'gb2312'", "'utf-16'"),
]  # fmt: skip
VALUES = [
    *("", " ", "0", "1", "-1", "2", "0.5", "50", "51", "1e9", "1e308", "1e999", "-1e999", "nan", "inf", "0x10"),
    *("1_0", "1,5", "٣", "9" * 5000, "true", "Unspecified", "cat", "Cat", " cat "),
    *("a" * 5000, "\ufeff", "<![CDATA[1]]>", "&lt;", "&#10;"),
]  # fmt: skip
LINES = [
    *("a", "b", "a 1", "b  -1", '"a"', "'b'", "a.jpg", "JPEGImages/a.jpg", "..", "../a", "/etc/passwd", "a/../../b"),
    *(".", "", " ", "\t", '"', "a\tb", "\\", "..\\a", "C:\\a", "n" * 255, "n" * 256, "ä" * 200, "x/" * 3000, "a\0"),
    *("\ufeffa", "a\x85b", "a\u2028b", "1", "-1", "0", "*", "[ab]", "a b c", "\U0001f4a9", "nul", "a/"),
    *("/a", "./a", "a//b"),
]  # fmt: skip


def mutated_text(chance: random.Random, text: str) -> bytes:
    for _ in range(chance.choice([1, 1, 1, 2, 5])):
        start = chance.randrange(len(text) + 1)
        end = min(len(text), start + chance.choice([0, 0, 1, 4, 40]))
        kind = chance.randrange(5)
        if kind == 0:
            text = text[:start]
        elif kind == 1:
            text = text[:start] + text[end:] + text[start:end]
        else:
            text = text[:start] + chance.choice(TOKENS) + text[end:]
    encoding = chance.choice(["utf-8"] * 8 + ["utf-16", "utf-16-le", "latin-1", "utf-8-sig"])
    return (
        mutated_bytes(chance, text.encode(encoding, "replace"))
        if chance.random() < 0.3
        else text.encode(encoding, "replace")
    )


def mutated_values(chance: random.Random, text: str) -> bytes:
    """Well-formed still, with other values, tags that are gone, or there twice."""
    for _ in range(chance.choice([1, 1, 2, 5, 20])):
        pattern = chance.choice([r">[^<>]*</", r">[^<>]*</", r"<(\w+)>[^<>]*</\1>", r"<(\w+)>(?:(?!<\1>).)*</\1>"])
        found = list(re.finditer(pattern, text, re.DOTALL))
        if not found:
            continue
        match = chance.choice(found)
        between = f">{chance.choice(VALUES)}</" if pattern.startswith(">") else chance.choice(["", match[0] * 2])
        text = text[: match.start()] + between + text[match.end() :]
    return text.encode()


def mutated_bytes(chance: random.Random, content: bytes) -> bytes:
    data = bytearray(content)
    for _ in range(chance.choice([1, 1, 3, 20])):
        if data:
            place = chance.randrange(len(data))
            data[place : place + chance.choice([0, 1, 1, 4])] = chance.randbytes(chance.choice([0, 1, 1, 4, 300]))
    return bytes(data[: chance.randrange(len(data) + 1)] if chance.random() < 0.15 else data)


def annotation(chance: random.Random) -> bytes:
    if chance.random() < 0.6:
        return mutated_values(chance, XML)
    return mutated_text(chance, chance.choice([XML] * 20 + [BOMB, OUTSIDE]))


def image_list(chance: random.Random) -> bytes:
    lines = [chance.choice(LINES) for _ in range(chance.choice([1, 1, 2, 5]))]
    content = (
        chance.choice(["\n", "\r\n", "\r"]).join(lines).encode(chance.choice(["utf-8"] * 6 + ["utf-16", "utf-16-be"]))
    )
    return mutated_bytes(chance, content) if chance.random() < 0.3 else content


def mask(chance: random.Random) -> bytes:
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[3:9] = chance.choice([1, 1, 2, 3, 128, 255])
    values[9] = 255
    mode = chance.choice(["P", "P", "P", "L", "RGB", "RGBA", "1", "LA", "I;16", "CMYK"])
    picture = Image.fromarray(values)
    if mode == "P":
        colors = [chance.randbytes(768), chance.randbytes(6), bytes([0, 0, 0, 128, 0, 0] + [0] * 762)]
        picture.putpalette(chance.choice(colors))
    elif mode == "I;16":
        picture = Image.fromarray(values.astype(np.uint16))
    else:
        picture = picture.convert(mode)
    buffer = io.BytesIO()
    kinds = {"CMYK": ["TIFF", "JPEG"], "P": ["PNG", "GIF", "BMP", "TIFF"], "RGBA": ["PNG", "WEBP", "TIFF"]}
    picture.save(buffer, chance.choice(kinds.get(mode, ["PNG", "TIFF"])))
    content = buffer.getvalue()
    if content.startswith(b"\x89PNG") and chance.random() < 0.3:  # a header that is whole, and says what it likes
        size = [chance.choice([0, 1, 40, 50, 10_000, 30_000, 2**31 - 1]) for _ in range(2)]
        header = struct.pack(">2I", *size) + bytes([chance.choice([1, 8, 16]), chance.choice([0, 2, 3, 6]), 0, 0, 0])
        content = content[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + content[33:]
    return mutated_bytes(chance, content) if chance.random() < 0.8 else content


def sbd_mask(chance: random.Random) -> bytes:
    buffer = io.BytesIO()
    values = np.full((HEIGHT, WIDTH), chance.choice([0, 1, 20, 21]), np.uint8)
    savemat(buffer, {"GTcls": {"Segmentation": values}}, do_compression=chance.random() < 0.5)
    return mutated_bytes(chance, buffer.getvalue())


def prepare(root: Path) -> None:
    places = (
        "Annotations",
        "JPEGImages",
        "ImageSets/Main",
        "ImageSets/Segmentation",
        "SegmentationClass",
        "sbd/img",
        "sbd/cls",
    )
    for place in places:
        (root / place).mkdir(parents=True)
    for name in ("a", "b"):
        (root / f"Annotations/{name}.xml").write_text(XML)
        Image.new("RGB", (WIDTH, HEIGHT)).save(root / f"JPEGImages/{name}.jpg")
        background = Image.new("P", (WIDTH, HEIGHT))
        background.putpalette([0, 0, 0])
        background.save(root / f"SegmentationClass/{name}.png")
    for kind, split, names in (
        ("Main", "train", "a\nb\n"),
        ("Segmentation", "train", "a\nb\n"),
        ("Segmentation", "val", "b\n"),
    ):
        (root / f"ImageSets/{kind}/{split}.txt").write_text(names)
    Image.new("RGB", (WIDTH, HEIGHT)).save(root / "sbd/img/c.jpg")
    (root / "sbd/train.txt").write_text("c\n")
    (root / "sbd/val.txt").write_text("")


MASK = {"targets": ("mask",)}
KINDS: dict[str, tuple[str, Any, Any]] = {
    "annotation": ("Annotations/a.xml", annotation, lambda root: Voc(root, "train")),
    "list": ("ImageSets/Main/train.txt", image_list, lambda root: Voc(root, "train")),
    "list of masks": (
        "ImageSets/Segmentation/train.txt", image_list,
        lambda root: Voc(root, "train", classes=["x", "y", "z"], **MASK),
    ),
    "list of names": ("classes.txt", image_list, lambda root: Voc(root, "train", **MASK)),
    "labelmap": (
        "labelmap.txt", lambda chance: mutated_text(chance, "# label\nx:0,0,0::\ny:1,1,1::\nignored:255,255,255::\n"),
        lambda root: Voc(root, "train", **MASK),
    ),
    "mask": ("SegmentationClass/a.png", mask, lambda root: Voc(root, "train", classes=["x", "y", "z"], **MASK)),
    "mask in colours": (
        "SegmentationClass/a.png", mask,
        lambda root: Voc(root, "train", classes=["x", "y"], colors=[[0, 0, 0], [1, 1, 1], [255, 255, 255]], **MASK),
    ),
    "mask without names": ("SegmentationClass/a.png", mask, lambda root: Voc(root, "train", **MASK)),
    "mask of SBD": ("sbd/cls/c.mat", sbd_mask, lambda root: Voc(root, "trainaug", sbd=root / "sbd", **MASK)),
}  # fmt: skip


def outcome(create: Any, root: Path, check_samples: CheckSamples) -> str:
    """ "read", "refused" at once, or "refused for an image"; everything else is raised."""
    state = "refused"
    try:
        data = create(root)
        state = "refused for an image"
        check_samples(data, (HEIGHT, WIDTH))
    except DataError as error:
        message = str(error)
        named = str(root) in message or "dataset." in message
        if "\n" in message or not named or len(message) > 2000:
            raise AssertionError(f"not one line that names the file: {message!r}") from error
        return state
    return "read"


def run(kind: str, root: Path, cases: int, check_samples: CheckSamples) -> dict[str, int]:
    """How many files of a kind were read and refused."""
    place, mutate, create = KINDS[kind]
    (root / place).unlink(missing_ok=True)
    counts = {"read": 0, "refused": 0, "refused for an image": 0}
    for seed in range(cases):
        (root / place).write_bytes(mutate(random.Random(seed)))
        try:
            counts[outcome(create, root, check_samples)] += 1
        except Exception as error:
            raise AssertionError(f"{kind}, seed {seed}: {error!r}") from error
    return counts


@pytest.mark.parametrize("kind", KINDS)
def test_mistakes_at_random(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, check_samples: CheckSamples
) -> None:
    root = tmp_path / "data"
    prepare(root)
    monkeypatch.setenv("MNV2VISION_HOME", str(root / "labels"))
    (root / "labels").touch()  # no cache: what counts is the reading
    monkeypatch.setattr(logging.getLogger("mnv2vision.data"), "disabled", True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts = run(kind, root, CASES if kind == "annotation" else CASES // 4, check_samples)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + MOST_MEMORY
    assert counts["read"] > 0, counts
    assert counts["refused"] + counts["refused for an image"] > 0, counts


@pytest.mark.parametrize("text", [BOMB, OUTSIDE], ids=["bomb", "outside"])
def test_entities_are_refused(tmp_path: Path, text: str) -> None:
    prepare(tmp_path)
    (tmp_path / "Annotations/a.xml").write_text(text)
    with pytest.raises(DataError, match="is not valid XML"):
        Voc(tmp_path, "train")
