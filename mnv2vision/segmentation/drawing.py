"""A photo's classes by pixel, for people and tables."""

import numpy as np
from numpy.typing import NDArray

from mnv2vision.common import draw, fonts
from mnv2vision.predictions.base import Described, Prediction
from mnv2vision.predictions.segmentation import Segmentation

_LEGEND = 6


def describe(photo: NDArray[np.uint8], prediction: Prediction, top: int, scale: float) -> Described:
    """The mask over the photo, with a legend; see `inference.kinds.Describe`."""
    assert isinstance(prediction, Segmentation)
    legible = dict(zip(prediction.names, fonts.legible(prediction.names), strict=True))
    shares = prediction.shares()
    colors, background = draw.class_colors(prediction.names), draw.background_label(prediction.names)
    return Described(
        picture=draw.overlay(photo, prediction.mask, colors, background=background),
        lines=tuple(f"{share:6.1%}  {legible[name]}" for name, share in shares[:_LEGEND]),
        columns=("name", "share"),
        rows=[[name, f"{share:.6f}"] for name, share in shares],
        key="classes",
        entries=[{"name": name, "share": share} for name, share in shares],
        mask=prediction.mask,
    )
