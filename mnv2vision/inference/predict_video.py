"""Predictions for a video, a stream or a camera: an annotated video and tables, or its frames as photos."""

import csv
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from mnv2vision.common import interruption
from mnv2vision.common.atomic import atomic_path
from mnv2vision.common.progress import told
from mnv2vision.inference.describe import Describer
from mnv2vision.inference.engine import Prediction
from mnv2vision.inference.predictor import Predictor
from mnv2vision.inference.tracks import Tracker
from mnv2vision.inference.video import Frame, Video, VideoWriter, is_live
from mnv2vision.predictions.base import Answers
from mnv2vision.predictions.detection import Detection

log = logging.getLogger(__name__)

_AT = ("frame", "seconds")
_TRACK = ("track", "name", "frames", "first", "last")


class _Row(Protocol):
    def __call__(self, row: Iterable[object], /) -> object: ...


def detectors(predictor: Predictor) -> dict[str, tuple[str, ...]]:
    """Class names of the heads that detect."""
    return {name: head.names for name, head in predictor.heads.items() if head.task == "detection"}


def objects_by_head(prediction: Prediction, heads: Iterable[str]) -> dict[str, Detection]:
    """The objects that each of the heads that detect has found."""
    found: dict[str, Detection] = {}
    for head in heads:
        objects = prediction[head] if isinstance(prediction, Answers) else prediction
        assert isinstance(objects, Detection)
        found[head] = objects
    return found


def predict_video(
    source: str, base: Path, copy: Path, predictor: Predictor, describe: Describer, every: int, tracks: bool
) -> None:
    """Write the annotated video, and beside it `<video>.csv` and, of objects, `<video>.counts.csv`: a row a frame.

    Of several heads `<video>.<head>.csv` and `<video>.<head>.counts.csv`; with tracks also `<video>.tracks.csv`, a row
    an object. Ctrl-C ends a stream or a camera, with its results.

    Args:
        source: See `Video`.
        base: What the tables' names begin with.
        copy: The video to write.
        predictor: Predicts.
        describe: Draws.
        every: Only each so manieth frame.
        tracks: Number the objects over the frames.

    Raises:
        ConfigError: Without PyAV, or, with tracks, without `trackers`.
        DataError: If no frame can be read.
    """
    began, count = time.monotonic(), 0
    video = Video(source)
    classes = detectors(predictor)
    with ExitStack() as files:
        tables = _Tables(files, base, len(predictor.heads) > 1)
        writer = files.enter_context(VideoWriter(files.enter_context(atomic_path(copy))))
        predicted = (
            pair
            for batch in _until_interrupted(video, predictor.batch_size, every)
            for pair in zip(batch, predictor.predict_batch([frame.image for frame in batch]), strict=True)
        )
        trackers: dict[str, Tracker] = {}
        for frame, prediction in told(predicted, lambda: -(-video.total // every), f"frames of {source}"):
            count += 1
            if tracks and not trackers:  # now that the video has said its rate
                trackers = {head: Tracker(video.rate / every) for head in classes}
            prediction = _tracked(prediction, trackers, frame.seconds)
            picture, described = describe(frame.image, prediction, steady=True)
            writer.write(np.asarray(picture), frame.seconds)
            at = (frame.number, f"{frame.seconds:.3f}")
            for head, of_head in described.items():
                tables.write(head, "", (*_AT, *of_head.columns), ((*at, *row) for row in of_head.rows))
            for head, objects in objects_by_head(prediction, classes).items():
                counts = objects.counts()
                row = (*at, *(counts.get(name, 0) for name in classes[head]))
                tables.write(head, ".counts", (*_AT, *classes[head]), [row])
        for head, tracker in trackers.items():
            tables.write(head, ".tracks", _TRACK, tracker.rows())
            log.info("%s: objects over all frames: %s", source, tracker.summary())
    log.info("%d frames, %.1f a second -> %s", count, count / (time.monotonic() - began), copy)
    _tell_of_missing(video)


def _tracked(prediction: Prediction, trackers: Mapping[str, Tracker], seconds: float) -> Prediction:
    """A prediction whose objects have numbers, where there are trackers."""
    if not trackers:
        return prediction
    numbered = {
        head: trackers[head](objects, seconds) for head, objects in objects_by_head(prediction, trackers).items()
    }
    if isinstance(prediction, Answers):
        return Answers({**prediction, **numbered})
    (objects,) = numbered.values()
    return objects


class _Tables:
    """CSV files of a video, written as its frames come."""

    def __init__(self, files: ExitStack, base: Path, several: bool) -> None:
        self._files, self._base, self._several = files, base, several
        self._rows: dict[Path, _Row] = {}

    def write(self, head: str, kind: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        path = self._base.with_name(f"{self._base.name}{f'.{head}' if self._several else ''}{kind}.csv")
        if path not in self._rows:
            temporary = self._files.enter_context(atomic_path(path))
            file = self._files.enter_context(temporary.open("w", encoding="utf-8", newline=""))
            self._rows[path] = csv.writer(file, lineterminator="\n").writerow
            self._rows[path](columns)
        for row in rows:
            self._rows[path](row)


def write_frames(source: str, folder: Path, batch_size: int, every: int) -> list[Path]:
    """Write frames as photos, `<video>_<frame>.jpg`, which differs from those of other videos.

    Args:
        source: See `Video`.
        folder: To write to, named for the video.
        batch_size: How many are held in memory.
        every: Only each so manieth.

    Raises:
        ConfigError: Without PyAV.
        DataError: If no frame can be read.
    """
    video, photos = Video(source), list[Path]()
    frames = (frame for batch in _until_interrupted(video, batch_size, every) for frame in batch)
    for frame in told(frames, lambda: -(-video.total // every), f"frames of {source} written"):
        photos.append(folder / f"{Path(folder.name).stem}_{frame.number:06d}.jpg")
        with atomic_path(photos[-1]) as temporary:
            Image.fromarray(frame.image).save(temporary, format="JPEG", quality=95)
    log.info("%d frames -> %s", len(photos), folder)
    _tell_of_missing(video)
    return photos


def _until_interrupted(video: Video, size: int, every: int) -> Iterator[list[Frame]]:
    """Batches of frames; what is live ends at Ctrl-C, and the rest of the work goes on."""
    live = is_live(video.source)
    if live:
        interruption.hold("writing what there is")
    try:
        # What is live waits for no batch to fill.
        for number, batch in enumerate(video.batches(1 if live else size, every)):
            if live and not number:
                log.info("%s: until Ctrl-C", video.source)
            yield batch
            if live and interruption.noted():
                return
    finally:
        if live:
            interruption.release()


def _tell_of_missing(video: Video) -> None:
    """Warn of frames of a file that could not be read."""
    if video.fault or video.read < video.total:
        of, why = (f" of {video.total}" if video.total else ""), (f" ({video.fault})" if video.fault else "")
        log.warning("%s: %d%s frames could be read%s", video.source, video.read, of, why)
