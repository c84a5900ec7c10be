"""Frames of videos, streams and cameras, and videos of frames. PyAV reads and writes them (extra `video`)."""

import time
from collections.abc import Callable, Generator, Iterator
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2vision.common.threads import ahead
from mnv2vision.errors import ConfigError, DataError, Mnv2visionError

if TYPE_CHECKING:
    from av import VideoFrame

VIDEO_EXTENSIONS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")
"""Extensions of video files, in either case."""

_BATCH_BYTES = 2**27  # of frames at a time, beside which there are the next ones and the pictures
_CODECS = ("libx264", "libopenh264", "mpeg4")  # what browsers play first
_SILENCE = 10.0  # seconds after which a stream that sends nothing has ended
_CLOCK = 90_000  # written frames' times are in parts of a second


class Frame(NamedTuple):
    """A frame.

    Attributes:
        number: In the video, from 0.
        seconds: Since the first frame.
        image: (H, W, 3) uint8 RGB, upright.
    """

    number: int
    seconds: float
    image: NDArray[np.uint8]


def is_live(source: str) -> bool:
    """Whether a source is a camera's number (one digit) or an address (rtsp://…), and has no end of its own."""
    return (source.isdecimal() and len(source) == 1) or "://" in source


class Video:
    """A video file, a stream or a camera.

    Attributes:
        source: A path, an address or a camera's number.
        total: How many frames a file says that it has, once it is open; 0 if it does not say.
        rate: Frames a second, as it says once it is open; 30 if it does not say.
        read: How many frames were read.
        fault: What ended it before its end, once it has ended; empty if nothing did.
    """

    def __init__(self, source: str) -> None:
        """Set it up; nothing is opened.

        Args:
            source: See the attribute.
        """
        self.source, self.total, self.rate, self.read, self.fault = source, 0, 30.0, 0, ""

    def batches(self, size: int, every: int = 1) -> Iterator[list[Frame]]:
        """Frames, so many at a time, fewer where they are large; the next ones are decoded in a thread of their own.

        Args:
            size: Of a batch.
            every: Only each so manieth frame, from the first on.

        Raises:
            ConfigError: Without PyAV.
            DataError: If it cannot be opened, or has no frame that can be read.
        """
        frames = self._frames(every)
        try:
            yield from ahead(iter(partial(self._take, frames, size), []))
        finally:
            frames.close()
        if not self.read:
            raise DataError(f"{self.source}: has no frame that can be read ({self.fault or 'it is empty'})")

    def _take(self, frames: Iterator[Frame], size: int) -> list[Frame]:
        taken: list[Frame] = []
        try:
            for frame in islice(frames, size):
                taken.append(frame)
                if sum(frame.image.nbytes for frame in taken) > _BATCH_BYTES:
                    break
        except Mnv2visionError:
            raise
        except (OSError, ValueError) as error:
            self.fault = _reason(error)
        return taken

    def _frames(self, every: int) -> Generator[Frame]:
        first, shape = 0.0, None
        pictures = _of_camera(int(self.source)) if self.source.isdecimal() else self._of_file()
        for index, (seconds, picture) in enumerate(pictures):
            first = first if index else seconds
            self.read = index + 1
            if index % every:
                continue
            image = picture()
            if shape not in (None, image.shape):
                raise ValueError(f"frame {index} has another size than those before")
            shape = image.shape
            yield Frame(index, seconds - first, image)

    def _of_file(self) -> Iterator[tuple[float, Callable[[], NDArray[np.uint8]]]]:
        """Times of a file's or a stream's frames, and what makes upright RGB of them."""
        av = import_av()
        try:
            container = av.open(self.source, timeout=_SILENCE if is_live(self.source) else None)
        except (OSError, ValueError, av.FFmpegError) as error:
            raise DataError(f"{self.source}: cannot be opened as a video ({_reason(error)})") from error
        with container:
            if not container.streams.video:
                raise DataError(f"{self.source}: has sound, but no pictures")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            self.total, self.rate = stream.frames, float(stream.average_rate or self.rate)
            try:
                for index, frame in enumerate(container.decode(stream)):
                    seconds = index / self.rate if frame.time is None else float(frame.time)
                    yield seconds, partial(_upright, frame)
            except av.error.ExitError as error:
                raise OSError(f"it sent nothing for {_SILENCE:g} seconds") from error
            except av.FFmpegError as error:  # not all of which are OSErrors
                raise OSError(_reason(error)) from error


def _of_camera(number: int) -> Iterator[tuple[float, Callable[[], NDArray[np.uint8]]]]:
    # OpenCV's, as PyAV's wheels have no devices.
    camera = cv2.VideoCapture(number)
    try:
        if not camera.isOpened():
            raise DataError(f"camera {number} cannot be opened: is it connected, and free?")
        while camera.grab():
            yield time.monotonic(), lambda: np.asarray(cv2.cvtColor(camera.retrieve()[1], cv2.COLOR_BGR2RGB), np.uint8)
    finally:
        camera.release()


def _upright(frame: "VideoFrame") -> NDArray[np.uint8]:
    image = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    # Telephones write frames as the sensor lies, and by how many degrees to turn them, counter-clockwise.
    return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90)))


class VideoWriter:
    """Writes pictures of one size as a video; a context manager."""

    def __init__(self, path: Path) -> None:
        """Start a file.

        Args:
            path: To write to; MPEG-4 whatever its suffix.

        Raises:
            ConfigError: Without PyAV.
        """
        self._av = import_av()
        self._container = self._av.open(str(path), "w", format="mp4")
        codec = next(name for name in _CODECS if name in self._av.codecs_available)
        self._stream = self._container.add_stream(codec, rate=30)
        self._stream.pix_fmt, self._stream.codec_context.time_base = "yuv420p", Fraction(1, _CLOCK)
        self._last = -1

    def write(self, picture: NDArray[np.uint8], seconds: float) -> None:
        """Write a frame.

        Args:
            picture: (H, W, 3) RGB, of the first one's size.
            seconds: Of its showing, since the first.
        """
        height, width = picture.shape[:2]
        even = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")  # as the codec wants them
        if self._last < 0:
            self._stream.height, self._stream.width = even.shape[:2]
        frame = self._av.VideoFrame.from_ndarray(even, format="rgb24")
        self._last = max(round(seconds * _CLOCK), self._last + 1)
        frame.pts, frame.time_base = self._last, Fraction(1, _CLOCK)
        self._container.mux(self._stream.encode(frame))

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._container.mux(self._stream.encode(None))
        self._container.close()


def import_av() -> ModuleType:
    """PyAV; ConfigError without it."""
    try:
        import av
    except ImportError as error:
        raise ConfigError("videos need PyAV: pip install mnv2vision[video]") from error
    return av


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
