"""Predictions for files: annotated pictures and a table."""

import csv
import glob
import io
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from mnv2vision import visualize
from mnv2vision.atomic import atomic_path, write_text
from mnv2vision.data.decoding import decode_image
from mnv2vision.data.folder_index import EXTENSIONS
from mnv2vision.errors import ConfigError, DataError
from mnv2vision.predictor import Predictor
from mnv2vision.weights.file import load

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
    *, checkpoint: str, images: str | Sequence[str], output: str, top: int, batch_size: int, device: str | None
) -> None:
    """Write `predictions.csv`, `predictions.json` and an annotated picture per image.

    Args:
        checkpoint: A model file.
        images: Files, folders or patterns.
        output: The folder to write to.
        top: Classes to write per image.
        batch_size: Images at a time.
        device: Where to run; None for the GPU if there is one.
    """
    if top < 1:
        raise ConfigError(f"top={top} must be at least 1")
    paths = find_images(images)
    predictor = Predictor(load(checkpoint), device=device, batch_size=batch_size)
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    # Absolute, so that ../photos is not written outside the folder, nor mixed with /data/photos.
    absolute = {path: Path(os.path.abspath(path)) for path in paths}
    common = Path(os.path.commonpath([path.parent for path in absolute.values()]))
    records: list[tuple[Path, list[tuple[str, float]]]] = []
    for start in range(0, len(paths), batch_size):
        batch = paths[start : start + batch_size]
        photos = [decode_image(path) for path in batch]
        for path, photo, prediction in zip(batch, photos, predictor(list(photos)), strict=True):
            best = prediction.top(top)
            records.append((path, best))
            name = str(absolute[path].relative_to(common))  # a.png becomes a.png.jpg: there may be an a.jpg
            with atomic_path(folder / (name if path.suffix == ".jpg" else f"{name}.jpg")) as temporary:
                lines = [f"{score:6.1%}  {label}" for label, score in best]
                visualize.caption(photo, lines).save(temporary, format="JPEG", quality=92)
    data = [
        {"image": str(path), "classes": [{"name": name, "score": score} for name, score in best]}
        for path, best in records
    ]
    write_text(folder / "predictions.json", json.dumps(data, indent=1) + "\n")
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["image", "rank", "name", "score"])
    for path, best in records:
        writer.writerows([path, rank, name, f"{score:.6f}"] for rank, (name, score) in enumerate(best, 1))
    write_text(folder / "predictions.csv", table.getvalue())
    log.info("%d images -> %s", len(paths), folder)
