"""Predictions for files: annotated pictures and a table."""

import csv
import glob
import io
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mnv2vision.common import draw
from mnv2vision.common.atomic import atomic_path, write_text
from mnv2vision.common.fonts import use_font
from mnv2vision.data.decoding import IMAGE_EXTENSIONS, decode_image
from mnv2vision.errors import ConfigError, DataError
from mnv2vision.inference.describe import Describer
from mnv2vision.inference.labels import Found, Layout, check_layout, write_counts, write_labels
from mnv2vision.inference.predictor import Predictor
from mnv2vision.predictions.base import Answers, Described
from mnv2vision.predictions.detection import Detection, check_threshold

if TYPE_CHECKING:
    from mnv2vision.contracts import InferenceOptions

log = logging.getLogger(__name__)

_NONE = np.empty((0, 0, 3), np.uint8)
_BATCH_BYTES = 2**27  # of decoded photos, beside which there are their pictures


def find_images(images: str | Sequence[str]) -> list[Path]:
    """Image files by name, folder or pattern, in order, each once.

    Raises:
        DataError: For a name, folder or pattern without any.
    """
    found: dict[Path, None] = {}
    for entry in map(str, images if isinstance(images, list | tuple) else [images]):
        path = Path(entry)
        if path.is_dir():
            files = (item for item in path.rglob("*") if item.suffix.lower() in IMAGE_EXTENSIONS)
            matches = sorted(item for item in files if item.is_file())
        else:
            names = [entry] if path.is_file() else sorted(glob.glob(entry, recursive=True))
            matches = [Path(name) for name in names if os.path.isfile(name)]
        if not matches:
            raise DataError(f"images={entry}: no such file, and no images ({' '.join(IMAGE_EXTENSIONS)}) there")
        found.update(dict.fromkeys(matches))
    return list(found)


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
    colors: Sequence[str] = (),
    font: str | None = None,
) -> None:
    """Write `predictions.csv`, `predictions.json` and an annotated picture per image; of objects also `counts.csv`.

    Args:
        checkpoint: A model file, or the folder of an exported model.
        images: Files, folders or patterns.
        output: The folder to write to.
        top: Classes to write per image (classification).
        threshold: From which score on objects are written (detection); "auto": as the model recommends for each class.
        max_detections: How many objects are found on a photo at most (detection); None: as the model says.
        inference: Arguments of `InferenceOptions`.
        batch_size: Images at a time.
        device: Where to run; None for the GPU if there is one.
        runtime: See `Predictor`.
        output_format: Labels to write, too, see `labels.write_labels`; of several detectors, below the head's name.
        colors: Of some classes, see `read_colors`.
        font: A file, see `use_font`.

    Raises:
        ConfigError: For colours or a font that cannot be, or an output folder where pictures would replace the photos.
        DataError: At the end, with how many of the photos could not be read, and why; the others have their results.
    """
    if top < 1:
        raise ConfigError(f"top={top} must be at least 1")
    check_threshold(threshold)
    if font is not None:
        use_font(font)
    paths = find_images(images)
    predictor = Predictor(
        checkpoint,
        device=device,
        batch_size=batch_size,
        score_threshold=threshold,
        max_detections=max_detections,
        inference=_inference(inference),
        runtime=runtime,
    )
    detectors = {name: head.names for name, head in predictor.heads.items() if head.task == "detection"}
    if output_format is not None and not detectors:
        raise ConfigError(f"output_format={output_format}: is for detection, and {checkpoint} does not detect")
    describe = Describer(predictor.heads, top, colors)
    folder = Path(output)
    names = _names_below(paths)
    if output_format is not None:
        check_layout(output_format, names.values())
    pictures = _pictures(names, folder)
    records: dict[Path, dict[str, Described]] = {}
    found: dict[str, dict[Path, Found]] = {name: {} for name in detectors}
    unreadable: list[DataError] = []
    for photos in _batches(paths, batch_size, unreadable):
        predictions = predictor.predict_batch(list(photos.values()))
        for (path, photo), prediction in zip(photos.items(), predictions, strict=True):
            picture, described = describe(photo, prediction)
            for head in detectors:
                objects = prediction[head] if isinstance(prediction, Answers) else prediction
                assert isinstance(objects, Detection)
                found[head][path] = Found(photo.shape[0], photo.shape[1], objects)
            with atomic_path(pictures[path]) as temporary:
                picture.save(temporary, format="JPEG", quality=92)
            _write_masks(described, folder / names[path])
            # The tables need neither picture nor mask, of which there may be many.
            records[path] = {head: told._replace(picture=_NONE, mask=None) for head, told in described.items()}
    if not records:
        raise unreadable[0]
    write_tables(records, folder)
    for head, classes in detectors.items():
        several = len(detectors) > 1
        counts = {str(path): objects for path, objects in found[head].items()}
        write_counts(counts, classes, folder / (f"counts_{head}.csv" if several else "counts.csv"))
        if output_format is not None:
            below = {names[path]: objects for path, objects in found[head].items()}
            write_labels(output_format, below, classes, folder / head if several else folder)
    log.info("%d image%s -> %s", len(records), "s" * (len(records) != 1), folder)
    for remark in predictor.remarks():
        log.warning(remark)
    if unreadable:
        more = f" (and {len(unreadable) - 1} more)" if len(unreadable) > 1 else ""
        raise DataError(f"{unreadable[0]}{more}; the results of the other {len(records)} are in {folder}")


def _write_masks(described: Mapping[str, Described], photo: Path) -> None:
    """Write a photo's masks beside its picture, with the head's name if there are several."""
    masks = {head: told.mask for head, told in described.items() if told.mask is not None}
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


def _pictures(names: Mapping[Path, str], folder: Path) -> dict[Path, Path]:
    """Where each photo's annotated picture goes; ConfigError where it would replace a photo."""
    # a.png becomes a.png.jpg: there may be an a.jpg
    pictures = {path: folder / (name if path.suffix == ".jpg" else f"{name}.jpg") for path, name in names.items()}
    originals = {os.path.abspath(path) for path in names}
    replaced = [original for path in pictures.values() if (original := os.path.abspath(path)) in originals]
    if replaced:
        raise ConfigError(f"output={folder}: the picture would replace the photo {replaced[0]}; give another folder")
    return pictures


def write_tables(records: Mapping[Path, Mapping[str, Described]], folder: Path) -> None:
    """Write `predictions.json` and `predictions.csv`; of several heads `predictions_<head>.csv` each.

    Args:
        records: What is told of each photo, by head.
        folder: To write to.
    """
    data: list[dict[str, object]] = []
    for path, told in records.items():
        by_head: dict[str, dict[str, object]] = {head: {one.key: one.entries} for head, one in told.items()}
        data.append({"image": str(path), **(by_head if len(told) > 1 else next(iter(by_head.values())))})
    write_text(folder / "predictions.json", json.dumps(data, indent=1) + "\n")
    first = next(iter(records.values()))
    for head, one in first.items():
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["image", *one.columns])
        for path, told in records.items():
            name = str(path).encode("utf-8", "backslashreplace").decode()  # bytes that are no UTF-8, as in the JSON
            writer.writerows([name, *row] for row in told[head].rows)
        write_text(folder / (f"predictions_{head}.csv" if len(first) > 1 else "predictions.csv"), table.getvalue())


def _names_below(paths: Sequence[Path]) -> dict[Path, str]:
    """Names of photos below the folder that they have in common."""
    # Absolute, so that ../photos is not written outside the output folder, nor mixed with /data/photos.
    absolute = {path: os.path.abspath(path) for path in paths}
    common = os.path.commonpath([os.path.dirname(path) for path in absolute.values()])
    return {path: os.path.relpath(absolute[path], common) for path in paths}
