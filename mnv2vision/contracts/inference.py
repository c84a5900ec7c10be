"""How to look at a photo: as a whole, at several scales, or through windows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mnv2vision.errors import ConfigError


@dataclass(frozen=True)
class InferenceOptions:
    """How to look at an image.

    Attributes:
        scales: Of the network's input; the mean of the passes' probabilities decides. 0.5 to 1.75 with flips is the
            paper's "MF". Of segmentation.
        flip: Look at the mirror image as well. Of segmentation.
        window: Look through windows of the network's input size at the photo in its own resolution, for photos much
            larger than that (a detector: at the whole photo as well); otherwise the whole photo is resized.
        overlap: Of neighbouring windows, as a share of their side.
    """

    scales: Sequence[float] = (1.0,)
    flip: bool = False
    window: bool = False
    overlap: float = 1 / 3

    def __post_init__(self) -> None:
        if not self.scales or not all(0 < scale <= 4 for scale in self.scales):
            raise ConfigError(f"inference.scales={list(self.scales)} must be factors above 0 and at most 4")
        if not 0 <= self.overlap < 1:
            raise ConfigError(f"inference.overlap={self.overlap} must be at least 0 and below 1")


def window_starts(length: int, window: int, overlap: float) -> Iterator[int]:
    """Where windows begin along a side of `length` pixels, which is at least a window's; the last one ends with it."""
    step = max(1, round(window * (1 - overlap)))
    yield from range(0, length - window, step)
    yield length - window
