"""What is predicted of a photo, drawn on it and tabulated: of one head or of several."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mnv2vision.common import draw
from mnv2vision.inference.engine import PredictingHead, Prediction
from mnv2vision.inference.kinds import PREDICTIONS
from mnv2vision.predictions.base import Answers, Described

_ORDER = ("segmentation", "detection", "classification")
"""Of drawing: what covers the photo lies below."""


class Describer:
    """Draws and tabulates the predictions of a model."""

    def __init__(self, heads: Mapping[str, PredictingHead], top: int) -> None:
        """Set it up.

        Args:
            heads: Of the model.
            top: How many classes are told at most.
        """
        self._describe = {
            name: PREDICTIONS[heads[name].task].describe()
            for name in sorted(heads, key=lambda name: _ORDER.index(heads[name].task))
        }
        self._heads, self._top = tuple(heads), top

    def __call__(
        self, photo: NDArray[np.uint8], prediction: Prediction, steady: bool = False
    ) -> tuple[Image.Image, dict[str, Described]]:
        """The photo with all that is predicted of it, and the tables of each head.

        Args:
            photo: (H, W, 3).
            prediction: Of it.
            steady: Leave room for lines that there may be, so that photos of a size have pictures of a size.
        """
        (first, *_) = self._heads
        predictions = prediction if isinstance(prediction, Answers) else {first: prediction}
        canvas, told = photo, {}
        for name, describe in self._describe.items():
            told[name] = describe(canvas, predictions[name], self._top, canvas.shape[0] / photo.shape[0])
            canvas = told[name].picture
        lines = [line for name in self._heads for line in told[name].lines]
        if steady:
            lines += [""] * (sum(one.most_lines for one in told.values()) - len(lines))
        picture = draw.caption(canvas, lines) if lines else Image.fromarray(canvas)
        return picture, {name: told[name] for name in self._heads}
