"""Predictions for files: annotated pictures and a table."""

import csv
import glob
import io
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mnv2vision import visualize
from mnv2vision.atomic import atomic_path, write_text
from mnv2vision.data.decoding import decode_image
from mnv2vision.data.folder_index import EXTENSIONS
from mnv2vision.errors import ConfigError, DataError
from mnv2vision.predictor import Classification, Prediction, Predictor, Segmentation
from mnv2vision.segmentation.inference import InferenceOptions
from mnv2vision.weights.registry import load

log = logging.getLogger(__name__)


def find_images(images: str | Sequence[str]) -> list[Path]:
    """Image files by name, folder or pattern, in order, each once.

    Raises:
        DataError: For a name, folder or pattern without any.
    """
    found: dict[Path, None] = {}
    for entry in map(str, images if isinstance(images, list | tuple) else [images]):
        path = Path(entry)
        if path.is_dir():
            matches = sorted(item for item in path.rglob("*") if item.suffix.lower() in EXTENSIONS and item.is_file())
        else:
            names = [entry] if path.is_file() else sorted(glob.glob(entry, recursive=True))
            matches = [Path(name) for name in names if os.path.isfile(name)]
        if not matches:
            raise DataError(f"images={entry}: no such file, and no images ({' '.join(EXTENSIONS)}) there")
        found.update(dict.fromkeys(matches))
    return list(found)


def predict_files(
    *,
    checkpoint: str,
    images: str | Sequence[str],
    output: str,
    top: int,
    threshold: float,
    max_detections: int | None,
    inference: dict[str, Any],
    batch_size: int,
    device: str | None,
) -> None:
    """Write `predictions.csv`, `predictions.json` and an annotated picture per image.

    Args:
        checkpoint: A model file.
        images: Files, folders or patterns.
        output: The folder to write to.
        top: Classes to write per image (classification).
        threshold: From which score on objects are written (detection).
        max_detections: How many objects are found on a photo at most (detection); None: as the model says.
        inference: Arguments of `InferenceOptions` (segmentation); its masks are written beside the pictures.
        batch_size: Images at a time.
        device: Where to run; None for the GPU if there is one.

    Raises:
        ConfigError: For an output folder where pictures would replace the photos.
        DataError: At the end, with how many of the photos could not be read, and why; the others have their results.
    """
    if top < 1:
        raise ConfigError(f"top={top} must be at least 1")
    if not 0 <= threshold <= 1:
        raise ConfigError(f"threshold={threshold} is not in 0..1")
    paths = find_images(images)
    predictor = Predictor(
        load(checkpoint),
        device=device,
        batch_size=batch_size,
        score_threshold=threshold,
        max_detections=max_detections,
        inference=InferenceOptions(**inference),
    )
    folder = Path(output)
    names = _names_below(paths)
    # a.png becomes a.png.jpg: there may be an a.jpg
    pictures = {path: folder / (name if path.suffix == ".jpg" else f"{name}.jpg") for path, name in names.items()}
    originals = {os.path.abspath(path) for path in paths}
    replaced = [original for path in pictures.values() if (original := os.path.abspath(path)) in originals]
    if replaced:
        raise ConfigError(f"output={output}: the picture would replace the photo {replaced[0]}; give another folder")
    records: list[_Record] = []
    unreadable: list[DataError] = []
    for start in range(0, len(paths), batch_size):
        photos: dict[Path, NDArray[np.uint8]] = {}
        for path in paths[start : start + batch_size]:
            try:
                photos[path] = decode_image(path)
            except DataError as error:
                unreadable.append(error)
        predictions = predictor.predict_batch(list(photos.values())) if photos else []
        for (path, photo), prediction in zip(photos.items(), predictions, strict=True):
            picture, record = _describe(photo, prediction, top)
            records.append(_Record(path, *record))
            with atomic_path(pictures[path]) as temporary:
                picture.save(temporary, format="JPEG", quality=92)
            if isinstance(prediction, Segmentation):
                with atomic_path(folder / f"{names[path]}.mask.png") as temporary:
                    visualize.label_image(prediction.mask).save(temporary, format="PNG")
    if not records:
        raise unreadable[0]
    data = [{"image": str(record.path), record.key: record.entries} for record in records]
    write_text(folder / "predictions.json", json.dumps(data, indent=1) + "\n")
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["image", *records[0].columns])
    for record in records:
        writer.writerows([record.path, *row] for row in record.rows)
    write_text(folder / "predictions.csv", table.getvalue())
    log.info("%d image%s -> %s", len(records), "s" * (len(records) != 1), folder)
    if predictor.crowded:
        log.warning(predictor.told_crowded())
    if unreadable:
        more = f" (and {len(unreadable) - 1} more)" if len(unreadable) > 1 else ""
        raise DataError(f"{unreadable[0]}{more}; the other {len(records)} have their results in {folder}")


def _names_below(paths: Sequence[Path]) -> dict[Path, str]:
    """Names of photos below the folder that they have in common."""
    # Absolute, so that ../photos is not written outside the output folder, nor mixed with /data/photos.
    absolute = {path: os.path.abspath(path) for path in paths}
    common = os.path.commonpath([os.path.dirname(path) for path in absolute.values()])
    return {path: os.path.relpath(absolute[path], common) for path in paths}


class _Record(NamedTuple):
    """What is written of an image: rows of the table, and entries of the JSON file under a key."""

    path: Path
    columns: tuple[str, ...]
    rows: list[list[object]]
    key: str
    entries: list[dict[str, object]]


def _describe(photo: NDArray[np.uint8], prediction: Prediction, top: int) -> tuple[Image.Image, tuple[Any, ...]]:
    if isinstance(prediction, Classification):
        best = prediction.top(top)
        picture = visualize.caption(photo, [f"{score:6.1%}  {label}" for label, score in best])
        rows = [[rank, name, f"{score:.6f}"] for rank, (name, score) in enumerate(best, 1)]
        entries = [{"name": name, "score": score} for name, score in best]
        return picture, (("rank", "name", "score"), rows, "classes", entries)
    if isinstance(prediction, Segmentation):
        shares = prediction.shares()
        drawn = visualize.overlay(photo, prediction.mask, visualize.palette(256))
        picture = visualize.caption(drawn, [f"{share:6.1%}  {name}" for name, share in shares[:6]])
        rows = [[name, f"{share:.6f}"] for name, share in shares]
        entries = [{"name": name, "share": share} for name, share in shares]
        return picture, (("name", "share"), rows, "classes", entries)
    names = [prediction.names[label] for label in prediction.labels]
    scores, boxes = prediction.scores.tolist(), prediction.boxes.tolist()
    texts = [f"{name} {score:.0%}" for name, score in zip(names, scores, strict=True)]
    drawn = visualize.draw_boxes(photo, prediction.boxes, prediction.labels, texts)
    rows = [[name, f"{s:.6f}", *(f"{x:.1f}" for x in box)] for name, s, box in zip(names, scores, boxes, strict=True)]
    entries = [{"name": n, "score": s, "box": box} for n, s, box in zip(names, scores, boxes, strict=True)]
    return Image.fromarray(drawn), (("name", "score", "x1", "y1", "x2", "y2"), rows, "objects", entries)
