"""A photo's classes by pixel, for people and tables."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mnv2vision.common import draw, fonts
from mnv2vision.common.colors import Color, background_label, class_colors
from mnv2vision.predictions.base import Described, Prediction
from mnv2vision.predictions.segmentation import Segmentation

_LEGEND = 6


def describe(
    photo: NDArray[np.uint8], prediction: Prediction, top: int, scale: float, colors: Mapping[str, Color]
) -> Described:
    """The mask over the photo, with a legend; see `inference.kinds.Describe`."""
    assert isinstance(prediction, Segmentation)
    legible = dict(zip(prediction.names, fonts.legible(prediction.names), strict=True))
    shares = prediction.shares()
    by_label, background = class_colors(prediction.names, colors), background_label(prediction.names)
    labels = [prediction.names.index(name) for name, _ in shares[:_LEGEND]]
    rgb = [None if label == background else tuple(by_label[label].tolist()) for label in labels]
    return Described(
        picture=draw.overlay(photo, prediction.mask, by_label, background=background),
        lines=tuple(f"{share:6.1%}  {legible[name]}" for name, share in shares[:_LEGEND]),
        columns=("name", "share"),
        rows=[[name, f"{share:.6f}"] for name, share in shares],
        key="classes",
        entries=[{"name": name, "share": share} for name, share in shares],
        mask=prediction.mask,
        most_lines=min(_LEGEND, len(prediction.names)),
        colors=tuple(rgb),
    )
