"""Which object of a frame is which of the frames before, by `trackers` (extra `tracks`)."""

from collections import Counter
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2vision.errors import ConfigError
from mnv2vision.predictions.detection import Detection

_MEMORY = 30  # frames at 30 a second, a second in all, after which an object that is not seen has gone


@dataclass
class _Track:
    """An object over the frames of a video.

    Attributes:
        first: Seconds at which it got its number, on the second frame that it is found on.
        last: Seconds at which it was last seen.
        names: On how many frames it was taken for which class.
    """

    first: float
    last: float
    names: Counter[str] = field(default_factory=Counter)

    @property
    def name(self) -> str:
        """The class that it was taken for most often."""
        return self.names.most_common(1)[0][0]


class Tracker:
    """Numbers the objects of a video.

    A Kalman filter says where an object will be, and boxes are assigned by overlap: ByteTrack (Zhang et al., ECCV 2022)
    as the package `trackers` has it, without its second look at weak boxes, which the predictor's threshold leaves out.
    """

    def __init__(self, rate: float) -> None:
        """Start with nothing.

        Args:
            rate: Frames a second that it will see.

        Raises:
            ConfigError: Without `trackers`.
        """
        trackers, supervision = import_trackers()
        self._boxes = supervision.Detections
        self._tracker = trackers.ByteTrackTracker(
            # At a frame a second or less it would forget at once what is not on the very next one.
            lost_track_buffer=_MEMORY,
            frame_rate=max(rate, 1.0),
            track_activation_threshold=0.0,
            high_conf_det_threshold=0.0,
        )
        self._tracks: dict[int, _Track] = {}
        self._numbers: dict[int, int] = {}

    def __call__(self, objects: Detection, seconds: float) -> Detection:
        """The objects of the next frame with their numbers.

        Args:
            objects: What is found on it.
            seconds: Its time in the video.
        """
        places: dict[str, NDArray[Any] | list[Any]] = {"place": np.arange(len(objects))}
        boxes = self._boxes(
            xyxy=objects.boxes.astype(np.float64), confidence=objects.scores.astype(np.float64), data=places
        )
        numbers = np.zeros(len(objects), np.int64)
        seen = self._tracker.update(boxes)
        if len(seen):
            pairs = zip(seen.tracker_id.astype(int).tolist(), seen.data["place"].tolist(), strict=True)
            for identity, place in sorted(pairs):
                if identity >= 0:  # by their own numbers, as the package counts all videos' and heads' together
                    numbers[place] = self._numbers.setdefault(identity, len(self._numbers) + 1)
        for number, label in zip(numbers.tolist(), objects.labels.tolist(), strict=True):
            if number:
                track = self._tracks.setdefault(number, _Track(seconds, seconds))
                track.last = seconds
                track.names[objects.names[label]] += 1
        return replace(objects, tracks=numbers)

    def rows(self) -> list[tuple[int, str, int, str, str]]:
        """Of each object its number, class, frames that it was found on, and the seconds of the first and last."""
        return [
            (number, track.name, track.names.total(), f"{track.first:.3f}", f"{track.last:.3f}")
            for number, track in self._tracks.items()
        ]

    def summary(self) -> str:
        """How many objects of each class there were in all: "12 car, 3 person"."""
        counts = Counter(track.name for track in self._tracks.values())
        return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "no objects"


def import_trackers() -> tuple[ModuleType, ModuleType]:
    """The packages `trackers` and `supervision`; ConfigError without them."""
    try:
        import supervision
        import trackers
    except ImportError as error:
        raise ConfigError("tracks=true needs trackers: pip install mnv2vision[tracks]") from error
    return trackers, supervision
