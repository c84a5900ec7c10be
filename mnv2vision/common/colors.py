"""Class colours."""

import numpy as np
from numpy.typing import NDArray


def palette(count: int) -> NDArray[np.uint8]:
    """(count, 3) RGB, PASCAL VOC's colour map: the bits of a label, spread over the channels."""
    labels = np.arange(count)
    channels = []
    for channel in range(3):
        bits = [((labels >> (3 * i + channel)) & 1) << (7 - i) for i in range(8)]
        channels.append(np.sum(bits, axis=0))
    return np.stack(channels, axis=1).astype(np.uint8)
