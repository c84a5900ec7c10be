"""Where the labels of boxes go, so that they do not cover each other."""

import numpy as np
from numpy.typing import NDArray

Rectangles = NDArray[np.float64]


def label_places(boxes: Rectangles, sizes: NDArray[np.float64], canvas: tuple[float, float]) -> Rectangles:
    """Rectangles (n, 4) of labels (x1, y1, x2, y2); the first labels choose first.

    A label goes above its box, else inside at the top, else below, else inside at the bottom, with the box's left edge
    or else its right one; else up or down along these edges, the nearest first: to the first of these places that lies
    on the canvas and is free. Where there is none, it covers as little of other labels as it can.

    Args:
        boxes: (n, 4) (x1, y1, x2, y2).
        sizes: (n, 2) widths and heights of the labels.
        canvas: Width and height of the picture.
    """
    placed: Rectangles = np.empty((0, 4))
    for box, size in zip(boxes, sizes, strict=True):
        left, top, right, bottom = box
        width, height = size
        room_x, room_y = max(canvas[0] - width, 0.0), max(canvas[1] - height, 0.0)
        edges = [min(max(x, 0.0), room_x) for x in (left, right - width)]
        beside = [y for y in (top - height, top, bottom, bottom - height) if 0 <= y <= room_y]
        places = np.array([(x, y, x + width, y + height) for x in edges for y in beside]).reshape(-1, 4)
        covered = _covered(places, placed)
        if not (covered == 0).any():
            # Where anything is free along an edge, there is a free place that touches a label or the canvas's edge.
            near = placed[(placed[:, 2] > min(edges)) & (placed[:, 0] < max(edges) + width)]
            along = np.array([0.0, room_y, *near[:, 3], *(near[:, 1] - height)])
            along = along[(along >= 0) & (along <= room_y)]
            along = along[np.argsort(np.abs(along - top), kind="stable")]
            more = np.array([(x, y, x + width, y + height) for y in along for x in edges])
            places, covered = np.vstack([places, more]), np.append(covered, _covered(more, near))
        placed = np.vstack([placed, places[covered.argmin()]])  # of equal ones the first
    return placed


def _covered(places: Rectangles, others: Rectangles) -> NDArray[np.float64]:
    """(m,) the areas of places (m, 4) that others (n, 4) cover."""
    low = np.maximum(places[:, None, :2], others[None, :, :2])
    high = np.minimum(places[:, None, 2:], others[None, :, 2:])
    return np.asarray(np.clip(high - low, 0, None).prod(2).sum(1))
