"""What samples are like, whatever file they come from."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

CheckSamples = Callable[[Any, tuple[int, int]], None]


def _check_samples(data: Any, size: tuple[int, int]) -> None:
    height, width = size
    for i in range(len(data)):
        sample = data[i]
        if sample.mask is not None:
            assert sample.mask.shape == size
            assert set(np.unique(sample.mask).tolist()) <= {*range(len(data.names)), 255}
        else:
            assert (sample.boxes.boxes[:, 2:] > sample.boxes.boxes[:, :2]).all()
            assert (sample.boxes.boxes >= 0).all()
            assert (sample.boxes.boxes <= (width, height, width, height)).all()
            assert (sample.boxes.areas > 0).all()
            assert ((sample.boxes.labels >= 0) & (sample.boxes.labels < len(data.names))).all()


@pytest.fixture
def check_samples() -> CheckSamples:
    """Reads all samples of a data set whose images have a size (height, width): targets are within it."""
    return _check_samples
