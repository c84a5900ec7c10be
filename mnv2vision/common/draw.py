"""Pictures for people: confusion matrices, annotated photos, contact sheets."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mnv2vision.common import fonts
from mnv2vision.common.atomic import atomic_path
from mnv2vision.common.colors import Color, background_label, class_colors, palette
from mnv2vision.common.label_places import label_places

# Matplotlib takes longer to import than a photo to predict: only where charts are drawn.
if TYPE_CHECKING:
    from matplotlib.figure import Figure


_WITH_COUNTS = 12
"""Classes up to which the cells of a confusion matrix have counts, too."""


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of so many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def write_figure(figure: "Figure", path: Path, texts: Sequence[str] = ()) -> None:
    """Write a figure to a file, in fonts that have the letters of the texts."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    # Text looks up its font when it is drawn.
    with atomic_path(path) as temporary, matplotlib.rc_context({"font.sans-serif": fonts.families(texts)}):
        figure.savefig(temporary, format=path.suffix[1:], dpi=120)


def confusion_of_seen(counts: NDArray[np.int64], names: Sequence[str], path: Path) -> None:
    """Draw a `confusion_matrix` of the classes that occur, or were predicted, if any."""
    seen = np.flatnonzero(counts.sum(0) + counts.sum(1))
    if len(seen):
        shown = fonts.legible(names)
        confusion_matrix(counts[np.ix_(seen, seen)], [shown[label] for label in seen], path)


def confusion_matrix(
    counts: NDArray[np.int64], names: Sequence[str], path: Path, found: Sequence[str] | None = None
) -> None:
    """Draw a (C, C) confusion matrix in percent of the rows, with the counts below where there is room.

    Args:
        counts: The matrix; rows are the actual classes.
        names: Of the rows, omitted for more than forty.
        path: The PNG file.
        found: Of the columns; the same by default.
    """
    rows = fonts.legible(names)
    columns = rows if found is None else fonts.legible(found)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    cell = 0.55 if len(rows) <= _WITH_COUNTS else 0.42
    side = min(14.0, max(4.5, 1.8 + cell * len(rows)))
    figure = new_figure(side + 0.8, side)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, label="share of the row", shrink=0.8)
    axes.set(xlabel="predicted", ylabel="actual")
    if len(rows) <= 40:
        axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(rows)), rows)
    if len(rows) <= 24:
        for row, column in np.argwhere(counts):
            share, count = shares[row, column], f"\n{_short(counts[row, column])}" if len(rows) <= _WITH_COUNTS else ""
            color = "white" if share > 0.5 else "black"
            axes.text(column, row, percent(share) + count, ha="center", va="center", color=color, fontsize=8)
    write_figure(figure, path, [*rows, *columns])


def percent(share: float) -> str:
    """A share above 0 in whole percent, neither nothing nor all where it is not."""
    if share < 0.005:
        return "<1%"
    return ">99%" if 0.995 <= share < 1 else f"{share:.0%}"


def _short(count: int) -> str:
    """A number in about four characters, such as 12k: pixels are counted in millions."""
    from matplotlib.ticker import EngFormatter

    return str(count) if count < 10_000 else EngFormatter(places=0, sep="")(count)


def search(
    points: Sequence[tuple[Mapping[str, float | str], float, str]],
    keys: Sequence[str],
    logarithmic: Sequence[str],
    metric: str,
    path: Path,
) -> None:
    """Draw the trials of a search: in their order, with the best so far, and against each key.

    Args:
        points: At least one; of each trial its values by key, its result, and its state; crosses are of those not
            "complete".
        keys: A panel for each.
        logarithmic: Keys whose axis is.
        metric: The result's name; the larger the better.
        path: The PNG file.
    """
    figure = new_figure(3.6 * (1 + len(keys)), 3.4)
    results = np.array([result for _, result, _ in points])
    complete = np.array([state == "complete" for _, _, state in points], bool)
    for place, key in enumerate(["trial", *keys]):
        axes = figure.add_subplot(1, 1 + len(keys), place + 1)
        own = list(range(len(points))) if place == 0 else [values[key] for values, _, _ in points]
        is_text = any(isinstance(value, str) for value in own)
        at = np.array([sorted(set(map(str, own))).index(str(value)) if is_text else value for value in own], float)
        axes.scatter(at[~complete], results[~complete], marker="x", color="grey", label="ended early")
        axes.scatter(at[complete], results[complete], c="tab:blue", label="complete")
        if complete.any():
            best = int(np.argmax(np.where(complete, results, -np.inf)))
            axes.scatter(at[best], results[best], s=160, facecolors="none", edgecolors="firebrick", label="best")
        if place == 0:
            axes.step(at, np.maximum.accumulate(np.where(complete, results, np.nanmin(results))), where="post", lw=0.8)
            axes.set_ylabel(metric)
            axes.legend(fontsize=8)
        if is_text:
            axes.set_xticks(range(len(set(own))), sorted(set(map(str, own))))
        axes.set(xlabel=key, xscale="log" if key in logarithmic else "linear")
    write_figure(figure, path)


def caption(image: NDArray[np.uint8], lines: Sequence[str], colors: Sequence[Color | None] = ()) -> Image.Image:
    """A photo with lines of text on a dark band below it.

    Args:
        image: (H, W, 3) uint8.
        lines: The text.
        colors: Of a square before each line, None for a line without; no squares by default.
    """
    height, width = image.shape[:2]
    size = max(12, min(28, width // 24))
    lines = [fonts.with_known_letters(line) for line in lines]
    step, margin = round(size * 1.4), size // 2
    picture = Image.new("RGB", (width, height + step * len(lines) + margin), (24, 24, 24))
    picture.paste(Image.fromarray(image))
    draw = ImageDraw.Draw(picture)
    for index, (line, color) in enumerate(zip(lines, colors or [None] * len(lines), strict=True)):
        top = height + margin // 2 + step * index
        if color is not None:
            draw.rectangle((margin, top + size // 6, margin + size, top + size // 6 + size), fill=color)
        left = margin + (size + margin if any(colors) else 0)
        draw.text((left, top), line, fill="white", font=fonts.font(line, size))
    return picture


def contact_sheet(images: Sequence[NDArray[np.uint8]], titles: Sequence[str], path: Path, columns: int = 6) -> None:
    """Draw images in a grid, each with a title; a row is as high as its tallest image.

    Args:
        images: (H, W, 3) uint8 each, at least one.
        titles: One per image.
        path: The PNG file.
        columns: Images per row.
    """
    titles = [fonts.with_known_letters(title) for title in titles]
    shapes = [image.shape[0] / image.shape[1] for image in images]
    rows = [shapes[start : start + columns] for start in range(0, len(shapes), columns)]
    heights = [12 / columns * max(row) + 0.25 for row in rows]
    figure = new_figure(12, sum(heights))
    grid = figure.add_gridspec(len(rows), columns, height_ratios=heights)
    for index, (image, title) in enumerate(zip(images, titles, strict=True)):
        axes = figure.add_subplot(grid[divmod(index, columns)])
        axes.imshow(image)
        axes.set_title(title, fontsize=9, color="firebrick" if title.startswith("✗") else "black")
        axes.set_axis_off()
    write_figure(figure, path, titles)


def titled_sheet(items: Sequence[tuple[NDArray[np.uint8], str]], path: Path, columns: int = 6) -> None:
    """A `contact_sheet` of images with their titles; without any no file, nor one of an earlier time.

    Args:
        items: Images (H, W, 3) uint8 and titles.
        path: The PNG file.
        columns: Images per row.
    """
    path.unlink(missing_ok=True)
    if items:
        images, titles = zip(*items, strict=True)
        contact_sheet(images, titles, path, columns)


_PAD = 3  # pixels before and after a label's text
_LEAST_SIDE = 320  # smaller pictures are enlarged, so that text on them can be read


def draw_boxes(
    image: NDArray[np.uint8],
    boxes: NDArray[np.floating],
    labels: NDArray[np.int64],
    texts: Sequence[str],
    colors: NDArray[np.uint8],
) -> NDArray[np.uint8]:
    """Draw labelled boxes, the first on top, with labels that do not cover each other; small images are enlarged.

    Args:
        image: (H, W, 3) uint8.
        boxes: (n, 4) (x1, y1, x2, y2) in pixels.
        labels: (n,).
        texts: One per box.
        colors: (C, 3) RGB by label.
    """
    factor = max(1, -(-_LEAST_SIDE // max(image.shape[:2])))
    picture = Image.fromarray(image).resize(
        (image.shape[1] * factor, image.shape[0] * factor), Image.Resampling.BICUBIC
    )
    draw = ImageDraw.Draw(picture)
    size = max(11, min(24, picture.width // 32))
    texts = [text if fonts.is_drawable(text) else f"class {label}" for text, label in zip(texts, labels, strict=True)]
    shown = [tuple(colors[label].tolist()) for label in labels]
    corners = np.rint(boxes * factor).astype(np.float64)
    for box, color in reversed(list(zip(corners.tolist(), shown, strict=True))):
        draw.rectangle(box, outline=color, width=max(2, picture.width // 200))
    letters = [fonts.font(text, size) for text in texts]
    widths = [font.getlength(text) + 2 * _PAD for font, text in zip(letters, texts, strict=True)]
    heights = [sum(font.getmetrics()) + 1 for font in letters]
    places = label_places(corners, np.ceil(np.array([widths, heights], float).T), picture.size)
    for (left, top, right, bottom), color, font, text in reversed(
        list(zip(places.tolist(), shown, letters, texts, strict=True))
    ):
        draw.rectangle((left, top, right - 1, bottom - 1), fill=color)
        ink = "black" if sum(c * w for c, w in zip(color, (0.3, 0.6, 0.1), strict=True)) > 130 else "white"
        draw.text((left + _PAD, top), text, fill=ink, font=font)
    return np.asarray(picture)


def overlay(
    image: NDArray[np.uint8],
    mask: NDArray[np.uint8],
    colors: NDArray[np.uint8],
    opacity: float = 0.6,
    background: int | None = 0,
) -> NDArray[np.uint8]:
    """Colour the pixels of an image (H, W, 3) by their labels (H, W).

    Args:
        image: uint8.
        mask: Labels.
        colors: (n, 3) RGB by label.
        opacity: Of the colours, in 0..1.
        background: The label whose pixels stay unchanged; None if no label is background.
    """
    drawn = np.empty_like(image)
    rows = max(1, 2**20 // image.shape[1])
    for top in range(0, len(image), rows):  # in strips: a whole photo in floats may not fit in memory
        strip = slice(top, top + rows)
        share = np.where(mask[strip] == (-1 if background is None else background), 0.0, opacity)[..., None]
        drawn[strip] = image[strip] * (1 - share) + colors[mask[strip]] * share
    return drawn


def label_image(mask: NDArray[np.uint8]) -> Image.Image:
    """A palette image of (H, W) labels, in VOC's colours."""
    picture = Image.fromarray(mask)
    picture.putpalette(palette(256).tobytes())
    return picture


def overlay_sheet(
    examples: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8]]], names: Sequence[str], path: Path, columns: int = 6
) -> None:
    """Draw images with their label maps in a grid, with a legend of the labels that occur.

    Args:
        examples: Images (H, W, 3) and label maps (H, W).
        names: Class names by label.
        path: The PNG file.
        columns: Images per row.
    """
    from matplotlib.patches import Patch

    colors, background = class_colors(names), background_label(names)
    names = fonts.legible(names)
    rows = -(-len(examples) // columns)
    tallest = max((image.shape[0] / image.shape[1] for image, _ in examples), default=1.0)
    figure = new_figure(12.0, 12.6 / columns * tallest * rows + 0.6)
    seen: set[int] = set()
    for index, (image, mask) in enumerate(examples):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.imshow(overlay(image, mask, colors, background=background))
        axes.set_axis_off()
        seen.update(np.unique(mask).tolist())
    handles = [Patch(color=colors[label] / 255, label=names[label]) for label in sorted(seen - {background})]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=min(8, len(handles)), fontsize=9)
    write_figure(figure, path, names)


def precision_recall(curves: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64], float]], path: Path) -> None:
    """Draw precision-recall curves; the legend has their average precisions.

    Args:
        curves: Recalls, precisions and average precision in 0..1 by name.
        path: The PNG file.
    """
    curves = {fonts.with_known_letters(name): curve for name, curve in curves.items()}
    figure = new_figure(6, 4.5)
    axes = figure.add_subplot()
    for name, (recall, precision, average) in curves.items():
        axes.plot(recall, precision, label=f"{name}: {average:.3f}", linewidth=1.5)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    if curves:
        axes.legend(loc="lower left", fontsize=9, title="average precision", title_fontsize=9)
    else:
        axes.set_title("no objects")
    write_figure(figure, path, list(curves))
