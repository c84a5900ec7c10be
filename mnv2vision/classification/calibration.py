"""How far a classifier's probabilities can be believed: expected calibration error, and the temperature that mends it.

Source: Guo et al., On Calibration of Modern Neural Networks, arXiv 1706.04599, sections 2 and 4.2.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

BINS = 15
TEMPERATURES = (0.05, 20.0)
"""Between which a temperature is looked for; at either there is no best one."""


class Bins(NamedTuple):
    """Images by the probability of their best class, in bins of equal width.

    Attributes:
        images: (BINS,) how many.
        confidence: (BINS,) their mean probability; 0 for none.
        accuracy: (BINS,) the share that is right; 0 for none.
    """

    images: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]

    @property
    def error(self) -> float:
        """Expected calibration error: the mean difference of confidence and accuracy, 0..1; NaN without images."""
        total = self.images.sum()
        gaps = np.abs(self.confidence - self.accuracy) * self.images
        return float(gaps.sum() / total) if total else float("nan")


def calibration_bins(confidence: NDArray[np.floating], right: NDArray[np.bool_]) -> Bins:
    """Put images into bins; one at a limit goes into the upper, and 1 into the last.

    Args:
        confidence: (n,) probabilities of the best classes.
        right: (n,) whether these are right.
    """
    place = np.searchsorted(np.linspace(0, 1, BINS + 1, dtype=np.float32), confidence, side="right") - 1
    place = np.clip(place, 0, BINS - 1)
    images, sure, hits = (np.bincount(place, weights, BINS) for weights in (None, confidence, right))
    return Bins(images, sure / np.maximum(images, 1), hits / np.maximum(images, 1))


def confidences(logits: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float64]:
    """(n,) probabilities of the best classes of logits (n, C), divided by a temperature."""
    return np.asarray(1 / _sums(logits - logits.max(1, keepdims=True), temperature))


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """The temperature by which to divide logits so that the labels are likeliest; NaN without images.

    Args:
        logits: (n, C).
        labels: (n,) in 0..C-1.
    """
    if not len(labels) or not np.isfinite(logits).all():
        return float("nan")
    below = logits - logits.max(1, keepdims=True)
    own = below[np.arange(len(labels)), labels].astype(np.float64)

    def loss(exponent: float) -> float:
        temperature = float(np.exp(exponent))
        return float((np.log(_sums(below, temperature)) - own / temperature).mean())

    low, high = np.log(TEMPERATURES)
    return float(np.exp(minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-4}).x))


def _sums(below: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    """(n,) sums of the exponentials of logits (n, C) whose largest is 0."""
    return np.asarray(np.exp(below / np.float32(temperature)).sum(1, dtype=np.float64))
