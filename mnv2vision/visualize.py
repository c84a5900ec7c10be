"""Pictures for people: confusion matrices, annotated photos, contact sheets."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mnv2vision.atomic import atomic_path


def _write(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=120)


def confusion_matrix(counts: NDArray[np.int64], names: Sequence[str], path: Path) -> None:
    """Draw (C, C) counts by actual and predicted class, as shares of the actual class.

    Args:
        counts: The matrix; rows are the actual classes.
        names: Of the classes; not written where there are more than forty.
        path: The PNG file.
    """
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(14.0, max(4.5, 1.8 + 0.4 * len(names)))
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, label="share of the actual class", shrink=0.8)
    axes.set(xlabel="predicted", ylabel="actual")
    if len(names) <= 40:
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), names)
    if len(names) <= 20:
        for row, column in np.argwhere(counts):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=color, fontsize=8)
    _write(figure, path)


def caption(image: NDArray[np.uint8], lines: Sequence[str]) -> Image.Image:
    """A photo (H, W, 3) with lines of text on a dark band below it."""
    height, width = image.shape[:2]
    size = max(12, min(28, width // 24))
    font = ImageFont.load_default(size)
    band = round(size * 1.4) * len(lines) + size // 2
    picture = Image.new("RGB", (width, height + band), (24, 24, 24))
    picture.paste(Image.fromarray(image))
    draw = ImageDraw.Draw(picture)
    for index, line in enumerate(lines):
        draw.text((size // 2, height + size // 4 + round(size * 1.4) * index), line, fill="white", font=font)
    return picture


def contact_sheet(images: Sequence[NDArray[np.uint8]], titles: Sequence[str], path: Path, columns: int = 6) -> None:
    """Draw images of one size, each with its title, side by side.

    Args:
        images: (H, W, 3) uint8 each.
        titles: One an image.
        path: The PNG file.
        columns: Images in a row.
    """
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(2.0 * columns, 2.25 * rows), layout="constrained")
    for index, (image, title) in enumerate(zip(images, titles, strict=True)):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.imshow(image)
        axes.set_title(title, fontsize=9, color="firebrick" if title.startswith("✗") else "black")
        axes.set_axis_off()
    _write(figure, path)


def palette(count: int) -> NDArray[np.uint8]:
    """(count, 3) RGB, as PASCAL VOC colours its masks: the bits of a label, spread over the channels."""
    labels = np.arange(count)
    channels = []
    for channel in range(3):
        bits = [((labels >> (3 * i + channel)) & 1) << (7 - i) for i in range(8)]
        channels.append(np.sum(bits, axis=0))
    return np.stack(channels, axis=1).astype(np.uint8)


_LEAST_SIDE = 320  # smaller pictures are enlarged, so that text on them can be read


def draw_boxes(
    image: NDArray[np.uint8], boxes: NDArray[np.floating], labels: NDArray[np.int64], texts: Sequence[str]
) -> NDArray[np.uint8]:
    """Draw boxes with their texts, the first on top; a small image is enlarged.

    Args:
        image: (H, W, 3) uint8.
        boxes: (n, 4) (x1, y1, x2, y2) in pixels.
        labels: (n,), for the colours.
        texts: n of them.
    """
    factor = max(1, -(-_LEAST_SIDE // max(image.shape[:2])))
    picture = Image.fromarray(image).resize(
        (image.shape[1] * factor, image.shape[0] * factor), Image.Resampling.BICUBIC
    )
    draw = ImageDraw.Draw(picture)
    size = max(11, min(24, picture.width // 32))
    font = ImageFont.load_default(size)
    colors = palette(int(labels.max(initial=0)) + 2)[1:]
    for box, label, text in reversed(list(zip((boxes * factor).tolist(), labels.tolist(), texts, strict=True))):
        color = tuple(colors[label].tolist())
        draw.rectangle(box, outline=color, width=max(2, picture.width // 200))
        left, top, right, bottom = draw.textbbox((box[0] + 2, max(0, box[1] - size - 3)), text, font=font)
        draw.rectangle((left - 2, top - 1, right + 2, bottom + 1), fill=color)
        ink = "black" if sum(c * w for c, w in zip(color, (0.3, 0.6, 0.1), strict=True)) > 130 else "white"
        draw.text((box[0] + 2, max(0, box[1] - size - 3)), text, fill=ink, font=font)
    return np.asarray(picture)


def overlay(
    image: NDArray[np.uint8], mask: NDArray[np.uint8], colors: NDArray[np.uint8], opacity: float = 0.6
) -> NDArray[np.uint8]:
    """Colour the pixels of an image (H, W, 3) by their labels (H, W); label 0, the background, stays as it is."""
    share = np.where(mask == 0, 0.0, opacity)[..., None]
    return np.asarray(image * (1 - share) + colors[mask] * share, np.uint8)


def label_image(mask: NDArray[np.uint8]) -> Image.Image:
    """A palette image of labels (H, W), in VOC's colours."""
    picture = Image.fromarray(mask)
    picture.putpalette(palette(256).tobytes())
    return picture


def overlay_sheet(
    examples: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8]]], names: Sequence[str], path: Path
) -> None:
    """Draw images with their label maps, side by side, with a legend of the labels that occur.

    Args:
        examples: Images (H, W, 3) and label maps (H, W).
        names: Class names by label.
        path: The PNG file.
    """
    colors = palette(256)
    columns = 6
    rows = -(-len(examples) // columns)
    figure = Figure(figsize=(2.0 * columns, 2.1 * rows + 0.6), layout="constrained")
    seen: set[int] = set()
    for index, (image, mask) in enumerate(examples):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.imshow(overlay(image, mask, colors))
        axes.set_axis_off()
        seen.update(np.unique(mask).tolist())
    handles = [Patch(color=colors[label] / 255, label=names[label]) for label in sorted(seen - {0})]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=min(8, len(handles)), fontsize=9)
    _write(figure, path)


def precision_recall(curves: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]], path: Path) -> None:
    """Draw precision over recall.

    Args:
        curves: Recalls and precisions in 0..1 by name.
        path: The PNG file.
    """
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name, (recall, precision) in curves.items():
        axes.plot(recall, precision, label=name, linewidth=1.5)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    if curves:
        axes.legend(loc="lower left", fontsize=9)
    else:
        axes.set_title("no objects to find")
    _write(figure, path)
