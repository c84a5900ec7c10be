"""Predictions for files: annotated pictures, videos and tables."""

import csv
import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mnv2vision.common import draw
from mnv2vision.common.atomic import atomic_path, write_text
from mnv2vision.common.fonts import use_font
from mnv2vision.common.progress import told
from mnv2vision.common.threads import ahead
from mnv2vision.data.decoding import decode_image
from mnv2vision.errors import ConfigError, DataError
from mnv2vision.inference.describe import Describer
from mnv2vision.inference.inputs import annotated, find_files, names_below, video_names
from mnv2vision.inference.labels import Found, Layout, check_layout, write_counts, write_labels
from mnv2vision.inference.predict_video import detectors, objects_by_head, predict_video, write_frames
from mnv2vision.inference.predictor import Predictor
from mnv2vision.inference.tracks import import_trackers
from mnv2vision.predictions.base import Described
from mnv2vision.predictions.detection import check_threshold

if TYPE_CHECKING:
    from mnv2vision.contracts import InferenceOptions

log = logging.getLogger(__name__)

_NONE = np.empty((0, 0, 3), np.uint8)
_MANY = 100  # photos, from which on an export pays
_BATCH_BYTES = 2**27  # of decoded photos, beside which there are their pictures


def predict_files(
    *,
    checkpoint: str,
    images: str | Sequence[str],
    output: str,
    top: int,
    threshold: float | str,
    max_detections: int | None,
    inference: Mapping[str, object],
    batch_size: int,
    device: str | None,
    runtime: str,
    output_format: Layout | None = None,
    every: int = 1,
    frames: bool = False,
    tracks: bool = False,
    colors: Sequence[str] = (),
    font: str | None = None,
) -> None:
    """Write annotated pictures and videos, and tables of what is on them.

    Of photos together `predictions.csv`, `predictions.json` and, of objects, `counts.csv`; of each video see
    `predict_video`.

    Args:
        checkpoint: A model file, or the folder of an exported model.
        images: Files, folders or patterns; addresses of streams; numbers of cameras.
        output: The folder to write to.
        top: Classes to write per image (classification).
        threshold: From which score on objects are written (detection); "auto": as the model recommends for each class.
        max_detections: How many objects are found on a photo at most (detection); None: as the model says.
        inference: Arguments of `InferenceOptions`.
        batch_size: Images at a time.
        device: Where to run; None for the GPU if there is one.
        runtime: See `Predictor`.
        output_format: Labels to write of photos, too, see `labels.write_labels`; of several detectors, below the
            head's name.
        every: Of videos, only each so manieth frame.
        frames: Make photos of videos' frames, in `frames/`, and predict for these.
        tracks: Number objects over the frames of a video.
        colors: Of some classes, see `read_colors`.
        font: A file, see `use_font`.

    Raises:
        ConfigError: For colours or a font that cannot be, or an output folder where pictures would replace the photos.
        DataError: At the end, with how many of the files could not be read, and why; the others have their results.
    """
    if top < 1:
        raise ConfigError(f"top={top} must be at least 1")
    check_threshold(threshold)
    if font is not None:
        use_font(font)
    photos, videos = find_files(images)
    _check_videos(videos, output_format, frames, tracks)
    options = _inference(inference)
    predictor = Predictor(
        checkpoint,
        device=device,
        batch_size=batch_size,
        score_threshold=threshold,
        max_detections=max_detections,
        inference=options,
        runtime=runtime,
    )
    for asked, given in ((output_format is not None, f"output_format={output_format}"), (tracks, "tracks=true")):
        if asked and not detectors(predictor):
            raise ConfigError(f"{given}: is for detection, and {checkpoint} does not detect")
    if runtime == "auto" and options is None and predictor.is_torch_on_cpu and (videos or len(photos) > _MANY):
        log.info(
            "runtime: torch on the CPU; runtime=onnxruntime or openvino exports the model once, keeps it, and is"
            " mostly faster (pip install 'mnv2vision[onnx]')"
        )
    folder, unreadable = Path(output), list[DataError]()
    describe = Describer(predictor.heads, top, colors)
    annotated(names_below(photos), folder, ".jpg")  # refused before videos take their time
    done = 0
    if frames:
        photos += _write_frames(videos, folder / "frames", batch_size, every, unreadable)
    else:
        done = _predict_videos(videos, folder, predictor, describe, every, tracks, unreadable)
    if photos:
        done += _predict_photos(photos, folder, predictor, describe, output_format, unreadable)
    for remark in predictor.remarks():
        log.warning(remark)
    if unreadable:
        raise _of_all(unreadable, done, folder)


def _check_videos(videos: Sequence[str], output_format: Layout | None, frames: bool, tracks: bool) -> None:
    """Refuse what cannot be done with videos, or without any, before the model is loaded."""
    if output_format is not None and videos and not frames:
        raise ConfigError(f"output_format={output_format}: labels are of photos; frames=true makes photos of a video")
    if tracks:
        if frames or not videos:
            raise ConfigError("tracks=true numbers objects over the frames of a video, and none is predicted for")
        import_trackers()


def _of_all(unreadable: Sequence[DataError], done: int, folder: Path) -> DataError:
    """One error for all files that could not be read, and what became of the others."""
    more = f" (and {len(unreadable) - 1} more)" if len(unreadable) > 1 else ""
    others = f"; the results of the other {done} are in {folder}" if done else ""
    return DataError(f"{unreadable[0]}{more}{others}")


def _write_frames(
    videos: Sequence[str], folder: Path, batch_size: int, every: int, unreadable: list[DataError]
) -> list[Path]:
    """Make photos of videos' frames, each in a folder of its own."""
    photos: list[Path] = []
    for video, name in video_names(videos).items():
        try:
            photos += write_frames(video, folder / name, batch_size, every)
        except DataError as error:
            unreadable.append(error)
    return photos


def _predict_videos(
    videos: Sequence[str],
    folder: Path,
    predictor: Predictor,
    describe: Describer,
    every: int,
    tracks: bool,
    unreadable: list[DataError],
) -> int:
    """Write what is on videos; the number of them that could be read."""
    names, done = video_names(videos), 0
    for video, copy in annotated(names, folder, ".mp4").items():
        try:
            predict_video(video, folder / names[video], copy, predictor, describe, every, tracks)
            done += 1
        except DataError as error:
            unreadable.append(error)
    return done


def _predict_photos(
    paths: Sequence[Path],
    folder: Path,
    predictor: Predictor,
    describe: Describer,
    output_format: Layout | None,
    unreadable: list[DataError],
) -> int:
    """Write what is on photos; the number of them that could be read."""
    detecting, names = detectors(predictor), names_below(paths)
    if output_format is not None:
        check_layout(output_format, names.values())
    pictures = annotated(names, folder, ".jpg")
    records: dict[Path, dict[str, Described]] = {}
    found: dict[str, dict[Path, Found]] = {name: {} for name in detecting}
    predicted = (
        (*pair, prediction)
        for photos in ahead(_batches(paths, predictor.batch_size, unreadable))
        for pair, prediction in zip(photos.items(), predictor.predict_batch(list(photos.values())), strict=True)
    )
    for path, photo, prediction in told(predicted, len(paths), "photos"):
        picture, described = describe(photo, prediction)
        for head, objects in objects_by_head(prediction, detecting).items():
            found[head][path] = Found(photo.shape[0], photo.shape[1], objects)
        with atomic_path(pictures[path]) as temporary:
            picture.save(temporary, format="JPEG", quality=92)
        _write_masks(described, folder / names[path])
        # The tables need neither picture nor mask, of which there may be many.
        records[path] = {head: one._replace(picture=_NONE, mask=None) for head, one in described.items()}
    if not records:
        return 0
    write_tables(records, folder)
    for head, classes in detecting.items():
        several = len(detecting) > 1
        counts = {str(path): objects for path, objects in found[head].items()}
        write_counts(counts, classes, folder / (f"counts_{head}.csv" if several else "counts.csv"))
        if output_format is not None:
            below = {names[path]: objects for path, objects in found[head].items()}
            write_labels(output_format, below, classes, folder / head if several else folder)
    log.info("%d image%s -> %s", len(records), "s" * (len(records) != 1), folder)
    return len(records)


def _write_masks(described: Mapping[str, Described], photo: Path) -> None:
    """Write a photo's masks beside its picture, with the head's name if there are several."""
    masks = {head: one.mask for head, one in described.items() if one.mask is not None}
    for head, mask in masks.items():
        which = f".{head}" if len(masks) > 1 else ""
        with atomic_path(photo.with_name(f"{photo.name}{which}.mask.png")) as temporary:
            draw.label_image(mask).save(temporary, format="PNG")


def _inference(options: Mapping[str, Any]) -> "InferenceOptions | None":
    """How to look at a photo; None for the default, once as a whole, which exported models can do too."""
    if not (options["flip"] or options["window"]) and list(options["scales"]) == [1]:
        return None
    from mnv2vision.contracts import InferenceOptions

    return InferenceOptions(**options)


def _batches(
    paths: Sequence[Path], batch_size: int, unreadable: list[DataError]
) -> Iterator[dict[Path, NDArray[np.uint8]]]:
    """Photos by path, so many at a time, fewer where they are large; errors of the others go to `unreadable`."""
    photos: dict[Path, NDArray[np.uint8]] = {}
    for path in paths:
        try:
            photos[path] = decode_image(path)
        except DataError as error:
            unreadable.append(error)
        if len(photos) == batch_size or sum(photo.nbytes for photo in photos.values()) > _BATCH_BYTES:
            yield photos
            photos = {}
    if photos:
        yield photos


def write_tables(records: Mapping[Path, Mapping[str, Described]], folder: Path) -> None:
    """Write `predictions.json` and `predictions.csv`; of several heads `predictions_<head>.csv` each.

    Args:
        records: What is told of each photo, by head.
        folder: To write to.
    """
    data: list[dict[str, object]] = []
    for path, of_photo in records.items():
        by_head: dict[str, dict[str, object]] = {head: {one.key: one.entries} for head, one in of_photo.items()}
        data.append({"image": str(path), **(by_head if len(of_photo) > 1 else next(iter(by_head.values())))})
    write_text(folder / "predictions.json", json.dumps(data, indent=1) + "\n")
    first = next(iter(records.values()))
    for head, one in first.items():
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["image", *one.columns])
        for path, of_photo in records.items():
            name = str(path).encode("utf-8", "backslashreplace").decode()  # bytes that are no UTF-8, as in the JSON
            writer.writerows([name, *row] for row in of_photo[head].rows)
        write_text(folder / (f"predictions_{head}.csv" if len(first) > 1 else "predictions.csv"), table.getvalue())
