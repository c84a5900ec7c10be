"""Photos with what was annotated beside what was found."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mnv2vision.common import draw
from mnv2vision.common.colors import class_colors
from mnv2vision.data.sample import Boxes, Sample
from mnv2vision.detection.errors import Judged, Verdict, join
from mnv2vision.detection.thresholds import recommended
from mnv2vision.predictions.detection import Detection
from mnv2vision.preprocessing import Preprocessing

SHOWN_SCORE = 0.3
"""From which score on detections are drawn where none is recommended."""
_KEPT = 32
_WRONG = {
    Verdict.CLASS: "{} is there",
    Verdict.PLACE: "not at its place",
    Verdict.DUPLICATE: "found twice",
    Verdict.BOTH: "of another class and place",
    Verdict.BACKGROUND: "nothing is there",
}


class Seen(NamedTuple):
    """A photo, and what was found on it.

    Attributes:
        sample: Its image is the network's input.
        found: In the photo's pixels.
    """

    sample: Sample
    found: Detection


class Mistaken(NamedTuple):
    """A photo with mistakes: objects that were missed, and detections that were invented or misplaced."""

    seen: Seen
    missed: int
    invented: int


class WorstPhotos:
    """The photos with the most mistakes.

    What is a mistake is known at the end, when scores are recommended. Until then more photos are kept than will be
    shown, ranked by the scores that those kept would recommend: of up to 63 photos all.
    """

    def __init__(self, names: Sequence[str]) -> None:
        """Prepare.

        Args:
            names: Class names by label.
        """
        self._names = names
        self._kept: list[tuple[Seen, Judged]] = []

    def offer(self, seen: Seen, judged: Judged) -> None:
        """Keep a photo if it is among the worst so far.

        Args:
            seen: The photo.
            judged: All of its detections.
        """
        self._kept.append((seen, judged))
        if len(self._kept) == 2 * _KEPT:
            least = shown_scores(recommended(join(judged for _, judged in self._kept), self._names), len(self._names))
            ranked = sorted(self._kept, key=lambda photo: -sum(cost(photo[1], least)))
            self._kept = ranked[:_KEPT]

    def items(self, least: NDArray[np.float64], count: int) -> list[Mistaken]:
        """So many that have mistakes, the worst first.

        Args:
            least: (C,) scores below which detections do not count.
            count: How many, at most.
        """
        rows = [Mistaken(seen, *cost(judged, least)) for seen, judged in self._kept]
        wrong = [row for row in rows if row.missed or row.invented]
        return sorted(wrong, key=lambda row: -(row.missed + row.invented))[:count]


def shown_scores(thresholds: Sequence[float], num_classes: int) -> NDArray[np.float64]:
    """(C,) scores from which on detections are drawn: those recommended, or `SHOWN_SCORE` where there are none."""
    return np.array(thresholds or [SHOWN_SCORE] * num_classes, np.float64)


def cost(judged: Judged, least: NDArray[np.float64]) -> tuple[int, int]:
    """How many objects of a photo were missed, and how many invented or of another class or place.

    Args:
        judged: All of its detections: none of a lower score changes whether one is right.
        least: (C,) scores below which detections do not count.
    """
    shown = judged.scores >= least[judged.labels]
    missed = len(judged.truth_labels) - int((shown & judged.right).sum())
    return missed, int((shown & ~judged.right & judged.counts).sum())


def of_scores(found: Detection, least: NDArray[np.float64]) -> Detection:
    """The detections from the least scores (C,) of their classes on."""
    return found.take(found.scores >= least[found.labels])


def most_confident(judged: Judged) -> int | None:
    """The place of a photo's wrong detection with the highest score; None without any."""
    wrong = np.flatnonzero(~judged.right & judged.counts)
    return int(wrong[0]) if len(wrong) else None


def told_of(judged: Judged, place: int, names: Sequence[str]) -> str:
    """A wrong detection in words: "raccoon 97%: dog is there"."""
    actual, target = _WRONG[Verdict(judged.verdicts[place])], judged.objects[place]
    there = names[judged.truth_labels[target]] if target >= 0 else ""
    return f"{names[judged.labels[place]]} {judged.scores[place]:.0%}: {actual.format(there)}"


def side_by_side(
    photo: NDArray[np.uint8],
    size: tuple[int, int],
    preprocessing: Preprocessing,
    truth: Boxes | None,
    found: Detection,
    names: tuple[str, ...],
) -> NDArray[np.uint8]:
    """The annotated objects on the left, and those found on the right, at the photo's own aspect.

    A photo that is not annotated is drawn once, with what was found.

    Args:
        photo: (H, W, 3) the network's input.
        size: Height and width of the photo that it was made of.
        preprocessing: That made it.
        truth: In the photo's pixels; None if it is not annotated.
        found: In the photo's pixels, those to be drawn.
        names: Class names by label.
    """
    place = preprocessing.placement(*size)
    if preprocessing.resize == "stretch":
        width = max(1, round(photo.shape[0] * size[1] / size[0]))
        photo = np.asarray(Image.fromarray(photo).resize((width, photo.shape[0]), Image.Resampling.BICUBIC))
    elif preprocessing.resize == "letterbox":
        photo = photo[: place.height, : place.width]
    scale, offset = place.height / size[0], np.array([place.left, place.top] * 2)
    texts = [f"{names[label]} {score:.0%}" for label, score in zip(found.labels, found.scores, strict=True)]
    colors = class_colors(names)
    right = draw.draw_boxes(photo, found.boxes * scale + offset, found.labels, texts, colors)
    if truth is None:
        return right
    actual = [names[label] for label in truth.labels]
    left = draw.draw_boxes(photo, truth.boxes * scale + offset, truth.labels, actual, colors)
    return np.concatenate([left, np.full((left.shape[0], 6, 3), 255, np.uint8), right], axis=1)
