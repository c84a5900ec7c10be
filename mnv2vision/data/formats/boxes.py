"""Invalid boxes: dropped or clipped, counted, and named in the log."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mnv2vision.data.formats.faults import Fault, are_wanted, note
from mnv2vision.errors import DataError

_NAMED = 5
_SHARES = 1.01  # if all coordinates are below, boxes are relative to the image, with rounding
_SLOP = 1.0  # pixels outside the image that are put down to rounding


class Names(Protocol):
    """Names by index, for messages: a list, or made on demand; each is "… of <file>", of the image or annotation."""

    def __getitem__(self, index: int, /) -> str:
        """The name at an index."""
        ...


def check_boxes(
    boxes: NDArray[np.float64], sizes: NDArray[np.float64], names: Names
) -> tuple[NDArray[np.float32], NDArray[np.bool_], str]:
    """Clip boxes to their images, and drop invalid ones.

    Boxes are dropped if they are not finite, have no area (x2 <= x1 or y2 <= y1), or lie outside the image.

    Args:
        boxes: (n, 4) (x1, y1, x2, y2) in pixels.
        sizes: (n, 2) height and width of each box's image.
        names: Names of the boxes, for messages.

    Returns:
        The clipped boxes (n, 4), which to keep (n,), and a line that counts the changes and names the first boxes;
        empty if there are none.
    """
    clipped, kept, faults = judge(boxes, sizes)
    if are_wanted():
        finite = np.asarray(np.isfinite(boxes).all(axis=1))
        _note_each(faults, np.where(finite[:, None], boxes, 0.0) / sizes[:, [1, 0, 1, 0]], names)
    problems = [counted(kind, found, names) for kind, found in faults.items()]
    report = "; ".join(filter(None, problems))
    return clipped, kept, report and f"of {len(boxes)} boxes, {report}"


class Judged(NamedTuple):
    """What is wrong with boxes.

    Attributes:
        clipped: (n, 4), within their images.
        kept: (n,), whether a box is one.
        faults: (n,) by kind: what is wrong, and what is done about it.
    """

    clipped: NDArray[np.float32]
    kept: NDArray[np.bool_]
    faults: dict[str, NDArray[np.bool_]]


def judge(boxes: NDArray[np.float64], sizes: NDArray[np.float64]) -> Judged:
    """See `check_boxes`, which tells."""
    finite = np.asarray(np.isfinite(boxes).all(axis=1))
    boxes = np.where(finite[:, None], boxes, 0.0)
    ordered = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    clipped = np.clip(boxes, 0, sizes[:, [1, 0, 1, 0]]).astype(np.float32)  # where a sliver may lose its area
    inside = (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])
    beyond = (np.abs(clipped - boxes) > _SLOP).any(axis=1) & inside
    faults = {
        "not finite, dropped": ~finite,
        "without area, dropped": finite & ~ordered,
        "outside the image, dropped": finite & ordered & ~inside,
        "reaching beyond the image, clipped": ordered & beyond,
    }
    return Judged(clipped, finite & ordered & inside, faults)


def kind_of(fault: str) -> str:
    """The kind of finding that a fault of `Judged` is."""
    return f"box {fault.partition(',')[0]}"


def _note_each(faults: Mapping[str, NDArray[np.bool_]], shares: NDArray[np.float64], names: Names) -> None:
    for told, found in faults.items():
        for place in np.flatnonzero(found).tolist():
            name, box = names[place], tuple(shares[place].tolist())
            file = name.rpartition(" of ")[2]
            place_on_photo = box if any(box) else None  # 0 of one that is not finite
            note(Fault(kind_of(told), f"{name}: {told}", file, place_on_photo))


def check_pixels(boxes: NDArray[np.float64], sizes: NDArray[np.float64], where: str) -> None:
    """Raise DataError for boxes relative to the image size, as in formats other than COCO and VOC.

    Args:
        boxes: (n, 4) (x1, y1, x2, y2) as annotated.
        sizes: (m, 2) image sizes.
        where: The annotation file or folder, for the message.
    """
    spanning = boxes[np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)]
    if len(spanning) and sizes.min() > 2 and spanning.min() >= 0 and spanning.max() <= _SHARES:
        raise DataError(f"{where}: all {len(spanning)} boxes are within 0..1: relative to the image? Expected pixels")


def counted(kind: str, found: NDArray[np.bool_], names: Names) -> str:
    """The count of a kind, with the first names; empty if there are none."""
    places = np.flatnonzero(found)
    first = ", ".join(names[int(place)] for place in places[:_NAMED])
    return f"{len(places)} {kind} ({first}{', …' if len(places) > _NAMED else ''})" if len(places) else ""
