"""Pictures for people: confusion matrices, annotated photos, contact sheets."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
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
