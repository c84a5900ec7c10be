"""What is predicted of a photo, drawn on it and tabulated: of one head or of several."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mnv2vision.common import draw
from mnv2vision.common.colors import background_label, read_colors
from mnv2vision.inference.engine import PredictingHead, Prediction
from mnv2vision.inference.kinds import PREDICTIONS
from mnv2vision.predictions.base import Answers, Described

_ORDER = ("segmentation", "detection", "classification")
"""Of drawing: what covers the photo lies below."""


class Describer:
    """Draws and tabulates the predictions of a model."""

    def __init__(self, heads: Mapping[str, PredictingHead], top: int, colors: Sequence[str] = ()) -> None:
        """Set it up.

        Args:
            heads: Of the model.
            top: How many classes are told at most.
            colors: Of some classes, see `read_colors`.

        Raises:
            ConfigError: For colours that are none, or of classes that are not drawn.
        """
        drawn = {name for head in heads.values() if head.task != "classification" for name in _in_color(head.names)}
        self._colors = read_colors(colors, sorted(drawn))
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
            told[name] = describe(canvas, predictions[name], self._top, canvas.shape[0] / photo.shape[0], self._colors)
            canvas = told[name].picture
        lines = [line for name in self._heads for line in told[name].lines]
        swatches = [color for name in self._heads for color in told[name].colors or [None] * len(told[name].lines)]
        if steady:
            missing = sum(one.most_lines for one in told.values()) - len(lines)
            lines, swatches = lines + [""] * missing, swatches + [None] * missing
        picture = draw.caption(canvas, lines, swatches) if lines else Image.fromarray(canvas)
        return picture, {name: told[name] for name in self._heads}


def _in_color(names: Sequence[str]) -> Sequence[str]:
    return names[1:] if background_label(names) == 0 else names
