"""Photos with what was annotated beside what was found."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mnv2vision.common import draw
from mnv2vision.common.colors import class_colors
from mnv2vision.data.sample import Boxes
from mnv2vision.detection.errors import Judged
from mnv2vision.predictions.detection import Detection
from mnv2vision.preprocessing import Preprocessing


def cost(judged: Judged) -> tuple[int, int]:
    """How many objects of a photo were missed, and how many invented or of another class or place."""
    return int((~judged.found).sum()), int((~judged.right & judged.counts).sum())


def side_by_side(
    photo: NDArray[np.uint8],
    size: tuple[int, int],
    preprocessing: Preprocessing,
    truth: Boxes,
    found: Detection,
    names: tuple[str, ...],
) -> NDArray[np.uint8]:
    """The annotated objects on the left, and those found on the right, at the photo's own aspect.

    Args:
        photo: (H, W, 3) the network's input.
        size: Height and width of the photo that it was made of.
        preprocessing: That made it.
        truth: In the photo's pixels.
        found: In the photo's pixels, those to be drawn.
        names: Class names by label.
    """
    place = preprocessing.placement(*size)
    if preprocessing.resize == "stretch":
        width = max(1, round(photo.shape[0] * size[1] / size[0]))
        photo = np.asarray(Image.fromarray(photo).resize((width, photo.shape[0]), Image.Resampling.BICUBIC))
    elif preprocessing.resize == "letterbox":
        photo = photo[: place.height, : place.width]
    scale, offset = place.height / size[0], np.array([place.left, place.top] * 2)
    texts = [f"{names[label]} {score:.0%}" for label, score in zip(found.labels, found.scores, strict=True)]
    actual, colors = [names[label] for label in truth.labels], class_colors(names)
    pictures = [
        draw.draw_boxes(photo, truth.boxes * scale + offset, truth.labels, actual, colors),
        draw.draw_boxes(photo, found.boxes * scale + offset, found.labels, texts, colors),
    ]
    gap = np.full((pictures[0].shape[0], 6, 3), 255, np.uint8)
    return np.concatenate([pictures[0], gap, pictures[1]], axis=1)
