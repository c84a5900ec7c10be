"""`loss.class_weights=auto`: weights of the classes of masks by how rare they are."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mnv2vision.common.progress import told
from mnv2vision.common.text import few
from mnv2vision.contracts import HeadSettings
from mnv2vision.data.sample import SampleSource
from mnv2vision.errors import DataError

log = logging.getLogger(__name__)

AUTO = "auto"
_MOST_MASKS = 1000
"""That are counted, an even choice of them where there are more."""


def with_class_weights(
    settings: Mapping[str, HeadSettings], source: SampleSource, names: Mapping[str, Sequence[str]], on_error: str
) -> dict[str, HeadSettings]:
    """The settings of each head with numbers in the place of `class_weights=auto`.

    Args:
        settings: By head.
        source: What the run learns from, with the model's labels.
        names: The model's classes of each head.
        on_error: "raise", or what else a run does where a file cannot be read; then it is not counted.

    Raises:
        DataError: If the run would stop at a file that cannot be read, or no mask has a pixel that counts.
    """
    found = dict(settings)
    for name, own in settings.items():
        if own.loss.get("class_weights") == AUTO:
            pixels, present, masks = _count(source, len(names[name]), on_error)
            if not pixels.any():
                raise DataError(f"loss.class_weights={AUTO}: the masks have no pixel that counts")
            weights = median_frequency(pixels, present)
            words = ", ".join(f"{label} {weight:.2f}" for label, weight in zip(names[name], weights, strict=True))
            log.info("loss.class_weights by %d of %d masks: %s", masks, len(source), words)
            if missing := [label for label, count in zip(names[name], pixels, strict=True) if not count]:
                log.warning("loss.class_weights: no pixel is of %s: weight 1", few(missing))
            found[name] = replace(own, loss={**own.loss, "class_weights": weights})
    return found


def median_frequency(pixels: NDArray[np.int64], present: NDArray[np.int64]) -> tuple[float, ...]:
    """Weights of classes: the median of their frequencies over each one's; 1 for a class that does not occur.

    Source: Eigen and Fergus, arXiv 1411.4734; a class's frequency is its share of the pixels of images that have it.

    Args:
        pixels: (C,) of each class, in all images.
        present: (C,) pixels of all classes, in the images that have the class.
    """
    frequency = pixels[pixels > 0] / present[pixels > 0]
    weights = np.ones(len(pixels))
    weights[pixels > 0] = np.median(frequency) / frequency
    return tuple(weights.tolist())


def _count(source: SampleSource, classes: int, on_error: str) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Of each class the pixels, and those of the images that have it; and the number of masks."""
    pixels, present, masks = np.zeros(classes, np.int64), np.zeros(classes, np.int64), 0
    chosen = np.linspace(0, len(source) - 1, min(len(source), _MOST_MASKS)).astype(int).tolist()
    for index in told(chosen, len(chosen), "masks counted"):
        try:
            mask = source[index].mask
        except DataError:
            if on_error == "raise":
                raise
            continue
        if mask is not None:
            counts = np.bincount(mask.ravel(), minlength=256)[:classes]
            pixels += counts
            present[counts > 0] += counts.sum()
            masks += 1
    return pixels, present, masks
