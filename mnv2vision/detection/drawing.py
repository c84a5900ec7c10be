"""A photo's objects, for people and tables."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mnv2vision.common import draw, fonts
from mnv2vision.common.colors import Color, class_colors
from mnv2vision.predictions.base import Described, Prediction
from mnv2vision.predictions.detection import Detection


def describe(
    photo: NDArray[np.uint8], prediction: Prediction, top: int, scale: float, colors: Mapping[str, Color]
) -> Described:
    """Boxes on the photo; see `inference.kinds.Describe`."""
    assert isinstance(prediction, Detection)
    legible = dict(zip(prediction.names, fonts.legible(prediction.names), strict=True))
    names = [prediction.names[label] for label in prediction.labels]
    scores, boxes = prediction.scores.tolist(), prediction.boxes.tolist()
    numbers = [str(track or "") for track in prediction.tracks] if prediction.tracks is not None else [""] * len(names)
    texts = [
        " ".join(filter(None, (legible[name], number, f"{score:.0%}")))
        for name, number, score in zip(names, numbers, scores, strict=True)
    ]
    found = list(zip(names, scores, boxes, strict=True))
    rows: list[list[object]] = [[name, f"{score:.6f}", *(f"{x:.1f}" for x in box)] for name, score, box in found]
    columns: tuple[str, ...] = ("name", "score", "x1", "y1", "x2", "y2")
    if prediction.tracks is not None:
        columns += ("track",)
        rows = [[*row, number] for row, number in zip(rows, numbers, strict=True)]
    return Described(
        picture=draw.draw_boxes(
            photo, prediction.boxes * scale, prediction.labels, texts, class_colors(prediction.names, colors)
        ),
        lines=(),
        columns=columns,
        rows=rows,
        key="objects",
        entries=[{"name": name, "score": score, "box": box} for name, score, box in found],
    )
