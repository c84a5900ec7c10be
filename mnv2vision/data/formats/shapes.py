"""Synthetic shapes for all three tasks: a data set without files, for demos, tests and a first training run."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2vision.data.sample import Boxes, Sample, check_targets
from mnv2vision.errors import ConfigError

Float = NDArray[np.float32]
Image = NDArray[np.uint8]

_SPLITS = {"train": 0, "val": 1}
_MAX_OBJECTS = 3
_TRIES = 5
_MIN_VISIBLE = 0.25  # of the shape's area: with less it would be hard to recognise
_MIN_VISIBLE_PIXELS = 12
_DOMINANCE = 1.5  # of the labelling object over all of another class
_SUPERSAMPLING = 4
_CANDIDATES = 4  # colours to choose from
_CONTRAST = 180.0  # to the background, summed over the channels
_HUE_SPREAD = 0.15  # in sixths of the circle: classes prefer a hue, as real objects do
_TEXTURES = ("gradient", "gradient", "noise", "stripes", "checker")
_WAVE = np.clip(np.abs(np.arange(256) - 128) * 10 - 512, 0, 255).astype(np.uint8)


def _polygon(corners: int, radii: tuple[float, ...] = (1.0,)) -> Float:
    """Corners on a circle, cycling through the radii."""
    angles = np.arange(corners) * (2 * np.pi / corners)
    radius = np.resize(radii, corners)
    return np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1).astype(np.float32)


_ARM = 0.34  # half the width of the cross's arms
_QUARTER = np.array([(1, _ARM), (_ARM, _ARM), (_ARM, 1)], np.float32)
_CROSS = np.concatenate([_QUARTER, _QUARTER[::-1] * (-1, 1), -_QUARTER, _QUARTER[::-1] * (1, -1)]).astype(np.float32)
_OUTLINES: dict[str, tuple[Float, ...]] = {  # roughly within the unit circle; a second contour is a hole
    "circle": (_polygon(48) * 0.92,),
    "square": (_polygon(4) * 1.1,),
    "triangle": (_polygon(3) * 1.15,),
    "star": (_polygon(10, (1.15, 0.48)),),
    "ring": (_polygon(48), _polygon(48) * 0.55),
    "cross": (_CROSS,),
}


@dataclass(slots=True)
class _Object:
    label: int
    depth: float  # higher is nearer
    area: int  # pixels of the whole shape, also those outside the image
    rows: slice
    columns: slice
    alpha: Float  # (h, w) coverage 0..1 within rows and columns
    solid: NDArray[np.bool_]  # (h, w) the pixels that count as the shape: covered by half or more


class Shapes:
    """One to three overlapping shapes on a textured background, with label, boxes and mask.

    A sample is a function of (seed, split, index) alone. One object is clearly the largest, and its class is the
    label: its visible area is at least 1.5 times that of any other class. A box covers the whole shape within the
    image, hidden parts included; at least a quarter of every shape is visible. Colour is only a hint at the class, so
    that training makes progress within minutes but still has to learn the shapes.

    Attributes:
        names: The classes of labels and boxes; `mask_names` if the mask is the only target.
        mask_names: "background", then the classes of labels and boxes.
        targets: The requested targets.
        protocol: The evaluation of the boxes.
    """

    names: tuple[str, ...] = tuple(_OUTLINES)
    mask_names: tuple[str, ...] = ("background", *_OUTLINES)
    protocol = "coco"

    def __init__(
        self,
        split: Literal["train", "val"],
        size: int = 2000,
        image_size: int = 160,
        seed: int = 0,
        targets: Collection[str] = ("label", "boxes", "mask"),
    ) -> None:
        """Choose the samples.

        Args:
            split: "train" or "val"; their samples differ.
            size: Number of samples.
            image_size: Height and width in pixels.
            seed: Seed of the samples.
            targets: The targets of the samples: "label", "boxes", "mask".

        Raises:
            ConfigError: For an invalid value.
        """
        if split not in _SPLITS:
            raise ConfigError(f"the shapes have no split {split!r}; valid: {', '.join(_SPLITS)}")
        for name, value, least in (("size", size, 1), ("image_size", image_size, 48), ("seed", seed, 0)):
            if value < least:
                raise ConfigError(f"{name} of the shapes must be at least {least}, not {value}")
        self.split, self.size, self.image_size, self.seed = split, size, image_size, seed
        self.targets = check_targets(targets, ("label", "boxes", "mask"))
        if self.targets == {"mask"}:
            self.names = self.mask_names

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Sample:
        index = range(self.size)[index]
        rng = np.random.default_rng((self.seed, _SPLITS[self.split], index))
        objects, ids = _layout(rng, self.image_size)
        mask_values = np.array([0, *(thing.label + 1 for thing in objects)], np.uint8)
        shown = sorted(objects, key=lambda thing: thing.depth)
        boxes = np.array([_box(thing) for thing in shown], np.float32)
        return Sample(
            image=_render(rng, shown, self.image_size),
            image_id=index,
            path=f"shapes/{self.split}/{index}",
            label=objects[0].label if "label" in self.targets else None,
            boxes=Boxes.of(boxes, np.array([thing.label for thing in shown], np.int64))
            if "boxes" in self.targets
            else None,
            mask=mask_values[ids] if "mask" in self.targets else None,
        )


def _layout(rng: np.random.Generator, size: int) -> tuple[list[_Object], NDArray[np.intp]]:
    """Place the objects, the dominant one first; also returns which one each pixel shows (0: none).

    An object is inserted at its own depth, possibly under earlier ones. It stays only if all rules still hold.
    """
    objects: list[_Object] = []
    ids = np.zeros((size, size), np.intp)
    depths = np.zeros((size, size), np.float32)
    visible = np.zeros(_MAX_OBJECTS + 1, np.intp)
    largest = size * np.exp(rng.uniform(np.log(0.2), np.log(0.45)))
    for i in range(rng.integers(1, _MAX_OBJECTS + 1)):
        radius = largest * rng.uniform(0.45, 0.8) if i else largest
        label = int(rng.integers(len(_OUTLINES)))
        coverage = _rasterise(tuple(_OUTLINES.values())[label], radius, rng.uniform(0, 2 * np.pi))
        margin = 0.06 if i else 0.3
        for _ in range(_TRIES):
            y, x = rng.integers(int(margin * size), int((1 - margin) * size), 2)
            thing = _place(coverage, label, float(rng.uniform(0.01, 1)), int(y), int(x), size)
            window = (thing.rows, thing.columns)
            shows = thing.solid & (depths[window] < thing.depth)
            showing = visible - np.bincount(ids[window][shows], minlength=len(visible))
            showing[len(objects) + 1] = np.count_nonzero(shows)
            if _is_fair([*objects, thing], showing[1:]):
                objects.append(thing)
                visible = showing
                ids[window][shows] = len(objects)
                depths[window][shows] = thing.depth
                break
    return objects, ids


def _is_fair(objects: list[_Object], visible: NDArray[np.intp]) -> bool:
    """Whether every object is visible enough, and the first one dominates."""
    shown = visible[: len(objects)].tolist()
    if any(n < max(_MIN_VISIBLE * thing.area, _MIN_VISIBLE_PIXELS) for n, thing in zip(shown, objects, strict=True)):
        return False
    totals = [0] * len(_OUTLINES)
    for n, thing in zip(shown, objects, strict=True):
        totals[thing.label] += n
    totals[objects[0].label] = 0
    return bool(shown[0] >= _DOMINANCE * max(totals))


def _rasterise(contours: tuple[Float, ...], radius: float, angle: float) -> Float:
    """Coverage 0..1 of a shape, in a square around its centre."""
    half = int(np.ceil(1.15 * radius)) + 1
    cosine, sine = np.cos(angle) * radius, np.sin(angle) * radius
    rotation = np.array([[cosine, sine], [-sine, cosine]], np.float32)
    fraction_bits = 4
    scale = _SUPERSAMPLING * 2**fraction_bits
    points = [np.rint((contour @ rotation + half) * scale).astype(np.int32) for contour in contours]
    fine = np.zeros((2 * half * _SUPERSAMPLING,) * 2, np.uint8)
    cv2.fillPoly(fine, points, 255, shift=fraction_bits)
    coverage = cv2.resize(fine, (2 * half, 2 * half), interpolation=cv2.INTER_AREA)
    return np.asarray(coverage, np.float32) / np.float32(255)


def _place(coverage: Float, label: int, depth: float, y: int, x: int, size: int) -> _Object:
    """The object centred at (y, x), cropped to the image."""
    half = len(coverage) // 2
    rows, columns = (slice(max(centre - half, 0), min(centre + half, size)) for centre in (y, x))
    inside = (
        slice(rows.start - y + half, rows.stop - y + half),
        slice(columns.start - x + half, columns.stop - x + half),
    )
    alpha = coverage[inside]
    return _Object(label, depth, int(np.count_nonzero(coverage >= 0.5)), rows, columns, alpha, alpha >= 0.5)


def _box(thing: _Object) -> tuple[int, int, int, int]:
    rows, columns = (np.flatnonzero(thing.solid.any(axis=axis)) for axis in (1, 0))
    top, left = thing.rows.start, thing.columns.start
    return left + int(columns[0]), top + int(rows[0]), left + int(columns[-1]) + 1, top + int(rows[-1]) + 1


# ---- painting: everything in uint8, for speed ----


def _render(rng: np.random.Generator, objects: list[_Object], size: int) -> Image:
    """Paint the background, then the objects from far to near, then noise."""
    base = _colours(rng, rng.uniform(0, 6, 1), saturation=(0.05, 0.6), value=(0.15, 0.95))[0]
    image = _texture(rng, size, size, base, base + rng.uniform(-50, 50, 3))
    labels = np.repeat([thing.label for thing in objects], _CANDIDATES)
    hues = rng.normal(labels, _HUE_SPREAD)
    palette = _colours(rng, hues, saturation=(0.35, 0.95), value=(0.35, 1.0))
    shades = rng.uniform(0.55, 0.9, len(objects))
    for thing, colours, shade in zip(objects, palette.reshape(-1, _CANDIDATES, 3), shades, strict=True):
        window = image[thing.rows, thing.columns]
        behind = cv2.mean(window, thing.solid.view(np.uint8))[:3]
        contrasts = np.abs(colours - behind).sum(axis=1)
        colour = colours[np.argmax(np.minimum(contrasts, _CONTRAST))]  # the first with enough contrast, or the best
        height, width = thing.alpha.shape
        fill = _texture(rng, height, width, colour, colour * shade)
        window[:] = cv2.blendLinear(fill, window, thing.alpha, 1 - thing.alpha)
    grain = np.frombuffer(rng.bytes(image.size), np.uint8).reshape(image.shape)
    strength = 0.15 * rng.random() ** 2
    return np.asarray(cv2.addWeighted(image, 1, grain, strength, -127.5 * strength), np.uint8)


def _colours(
    rng: np.random.Generator, hues: NDArray[np.float64], *, saturation: tuple[float, float], value: tuple[float, float]
) -> NDArray[np.float64]:
    """(n, 3) RGB in 0..255 of n hues, in 0..6 around the circle."""
    s, v = rng.uniform((saturation[0], value[0]), (saturation[1], value[1]), (len(hues), 2)).T[:, :, None]
    sector = (np.array([5, 3, 1]) + hues[:, None]) % 6
    colours: NDArray[np.float64] = 255 * v * (1 - s * np.clip(np.minimum(sector, 4 - sector), 0, 1))
    return colours


def _texture(
    rng: np.random.Generator, height: int, width: int, first: NDArray[np.float64], second: NDArray[np.float64]
) -> Image:
    """Two colours mixed by a gradient, noise, stripes or a checkerboard."""
    kind = _TEXTURES[rng.integers(len(_TEXTURES))]
    if kind in ("gradient", "noise"):
        cells = 2 if kind == "gradient" else int(rng.integers(4, 32))
        mix = cv2.resize(rng.integers(0, 256, (cells, cells), np.uint8), (width, height))
    else:
        angle, period = rng.uniform(0, np.pi), rng.uniform(8, 30)
        along, across = 256 / period * np.cos(angle), 256 / period * np.sin(angle)
        mix = _waves(height, width, along, across)
        if kind == "checker":
            mix = cv2.absdiff(mix, _waves(height, width, -across, along))
    ramp = np.clip(np.linspace(first, second, 256), 0, 255).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(np.asarray(mix), ramp[:, None]), np.uint8)


def _waves(height: int, width: int, down: float, right: float) -> Image:
    """Stripes 0..255 with soft edges; the phase is in 256ths of a period and wraps around in uint8."""
    rows = (np.arange(height) * down).astype(np.int64).astype(np.uint8)
    columns = (np.arange(width) * right).astype(np.int64).astype(np.uint8)
    return np.asarray(cv2.LUT(rows[:, None] + columns, _WAVE), np.uint8)
