"""How sure a difference of two models' metrics is that were measured on the same images."""

import numpy as np
from numpy.typing import NDArray

from mnv2vision.contracts import Evaluator

RESAMPLES = 200
CONFIDENCE = 0.95


def resampled(evaluator: Evaluator, seed: int) -> dict[str, NDArray[np.float64]]:
    """Metrics of `RESAMPLES` draws of as many images as there are, with replacement; NaN where one is not defined.

    Equal for two evaluators of the same images: the i-th draw of one is that of the other.

    Args:
        evaluator: After `compute`.
        seed: Of the draws.
    """
    generator, images = np.random.default_rng(seed), evaluator.images
    draws = (generator.integers(0, images, images) for _ in range(RESAMPLES))
    rows = [evaluator.resampled(np.bincount(draw, minlength=images)) for draw in draws]
    # COCO says -1 where nothing could be measured.
    return {name: np.array([np.nan if row[name] == -1 else row[name] for row in rows]) for name in rows[0]}


def interval(model: NDArray[np.float64], file: NDArray[np.float64]) -> tuple[float, float]:
    """The interval in which `CONFIDENCE` of the differences lie, file less model; NaN where there are none.

    Args:
        model: (RESAMPLES,) values of a metric.
        file: (RESAMPLES,) likewise, of the same draws.
    """
    known = (file - model)[np.isfinite(file - model)]
    if not known.size:
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
