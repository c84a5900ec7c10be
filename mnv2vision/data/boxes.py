"""What becomes of boxes that cannot be right: dropped or clipped, counted, and named in the log."""

import logging
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

_NAMED = 5
_SLOP = 1.0  # pixels beyond the image that are rounding, not worth a word


def clean_boxes(
    boxes: NDArray[np.float64], sizes: NDArray[np.float64], where: str, names: Sequence[str]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Clip boxes to their images, and tell which are of use.

    Dropped are boxes that are not finite, that have no area (x2 <= x1 or y2 <= y1), or that lie outside the image;
    what reaches beyond the image is clipped to it. What was done is logged, with the first boxes by name.

    Args:
        boxes: (n, 4) (x1, y1, x2, y2) in pixels.
        sizes: (n, 2) height and width of each box's image.
        where: The annotation file or folder, for the log.
        names: What names each box in the log.

    Returns:
        The clipped boxes (n, 4), and which to keep (n,).
    """
    finite = np.asarray(np.isfinite(boxes).all(axis=1))
    boxes = np.where(finite[:, None], boxes, 0.0)
    ordered = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    limits = sizes[:, [1, 0, 1, 0]]
    clipped = np.clip(boxes, 0, limits).astype(np.float32)  # in which a sliver may lose its area
    inside = (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])
    beyond = (np.abs(clipped - boxes) > _SLOP).any(axis=1) & inside
    problems = [
        ("not finite, dropped", ~finite),
        ("without area, dropped", finite & ~ordered),
        ("outside the image, dropped", finite & ordered & ~inside),
        ("reaching beyond the image, clipped", ordered & beyond),
    ]
    _report(where, names, problems)
    return clipped, finite & ordered & inside


def _report(where: str, names: Sequence[str], problems: Sequence[tuple[str, NDArray[np.bool_]]]) -> None:
    counts = Counter({kind: int(found.sum()) for kind, found in problems})
    if not counts.total():
        return
    parts = []
    for kind, found in problems:
        if counts[kind]:
            first = ", ".join(names[i] for i in np.flatnonzero(found)[:_NAMED])
            parts.append(f"{counts[kind]} {kind} ({first}{', …' if counts[kind] > _NAMED else ''})")
    log.warning("%s: of %d boxes, %s", where, len(names), "; ".join(parts))
