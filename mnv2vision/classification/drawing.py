"""A photo's class, for people and tables."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mnv2vision.common import fonts
from mnv2vision.common.colors import Color
from mnv2vision.predictions.base import Described, Prediction
from mnv2vision.predictions.classification import Classification


def describe(
    photo: NDArray[np.uint8], prediction: Prediction, top: int, scale: float, colors: Mapping[str, Color]
) -> Described:
    """The best classes below the photo; see `inference.kinds.Describe`."""
    assert isinstance(prediction, Classification)
    legible = dict(zip(prediction.names, fonts.legible(prediction.names), strict=True))
    best = prediction.top(top)
    return Described(
        picture=photo,
        lines=tuple(f"{score:6.1%}  {legible[name]}" for name, score in best),
        columns=("rank", "name", "score"),
        rows=[[rank, name, f"{score:.6f}"] for rank, (name, score) in enumerate(best, 1)],
        key="classes",
        entries=[{"name": name, "score": score} for name, score in best],
        most_lines=min(top, len(prediction.names)),
    )
