"""Detections of whole data sets: collected over processes, each image once, written and read in COCO's format."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mnv2vision.common.atomic import write_text
from mnv2vision.common.distributed import gather
from mnv2vision.common.text import few
from mnv2vision.contracts import ClassFigures
from mnv2vision.data.sample import Boxes, Sample
from mnv2vision.errors import DataError
from mnv2vision.predictions.detection import Detection


@dataclass
class ImageResult:
    """An image's detections beside what is right, in the photo's pixels; `size` is its height and width."""

    image_id: int | str
    found: Detection
    truth: Boxes
    size: tuple[int, int] = (0, 0)


class Curve(NamedTuple):
    """Precisions by recall, in 0..1, and their average."""

    recall: NDArray[np.float64]
    precision: NDArray[np.float64]
    AP: float


class ClassRow(Protocol):
    """A class and its average precision; None where there are no objects of it."""

    @property
    def name(self) -> str:
        """Of the class."""
        ...

    @property
    def AP(self) -> float | None:  # noqa: N802
        """In 0..1."""
        ...


class Collector(ABC):
    """What the evaluators of detections have in common: results of each image, once, from all processes."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._own: dict[int | str, ImageResult] = {}
        self.results: list[ImageResult] = []
        """Of all processes' images, in order of their ids, after `collect`."""

    def update(self, predictions: Sequence[Detection], targets: Sequence[Sample]) -> None:
        """Add images: what was found, and their samples; those whose objects are not annotated do not count."""
        for found, sample in zip(predictions, targets, strict=True):
            if sample.boxes is not None:
                self._own[sample.image_id] = ImageResult(sample.image_id, found, sample.boxes, sample.size)

    def collect(self) -> list[ImageResult]:
        """The results of all processes, in an order that does not depend on how many there are."""
        merged: dict[int | str, ImageResult] = {}
        for part in gather(self._own):
            merged.update(part)
        numbers = all(isinstance(image_id, int) for image_id in merged)
        self.results = [merged[key] for key in sorted(merged, key=None if numbers else str)]
        return self.results

    def ignored(self, truth: Boxes) -> NDArray[np.bool_]:
        """(n,) which of an image's objects do not count."""
        return truth.crowd

    @property
    def images(self) -> int:
        """See `Evaluator.images`."""
        return len(self.results)

    def resampled(self, counts: NDArray[np.int64]) -> dict[str, float]:
        """See `Evaluator.resampled`."""
        repeated = zip(self.results, counts.tolist(), strict=True)
        return self.figures([result for result, count in repeated for _ in range(count)])

    def class_figures(self) -> ClassFigures:
        """See `Evaluator.class_figures`."""
        return ClassFigures("AP", [(row.name, row.AP) for row in self.per_class() if row.AP is not None])

    @abstractmethod
    def per_class(self) -> Sequence[ClassRow]:
        """A row per class, after `compute`."""

    @abstractmethod
    def figures(self, results: Sequence[ImageResult]) -> dict[str, float]:
        """The metrics of some images' results."""


def remark_on_objects(
    names: Sequence[str], objects: NDArray[np.int64], images: int, ignored: int, figures: str
) -> list[str]:
    """What average precision cannot tell of images that lack objects, in a line each.

    Args:
        names: Class names by label.
        objects: (C,) numbers of objects that count.
        images: How many there are.
        ignored: Number of objects that do not count (crowds, difficult ones).
        figures: What is measured, in words.
    """
    if not images:
        return []
    if not objects.any():
        others = f" ({ignored} are crowds or difficult)" if ignored else ""
        return [f"none of the {images} images has an object that counts{others}: {figures} cannot be measured"]
    missing = [name for name, count in zip(names, objects, strict=True) if not count]
    if not missing:
        return []
    have = "has" if len(missing) == 1 else "have"
    return [
        f"{len(missing)} of the {len(names)} classes {have} no objects in the images ({few(missing)}):"
        f" the mean is over the others"
    ]


def write_results(path: Path, results: Iterable[ImageResult], category_ids: Sequence[int]) -> None:
    """Write detections as COCO's result files have them, so that any tool can score them.

    Args:
        path: The JSON file.
        results: Of the images.
        category_ids: The data set's category id of each label.
    """
    rows = [
        {"image_id": result.image_id, "category_id": category_ids[label], "bbox": box, "score": score}
        for result in results
        for box, score, label in zip(
            xywh(result.found.boxes).tolist(),
            result.found.scores.astype(np.float64).tolist(),
            result.found.labels.tolist(),
            strict=True,
        )
    ]
    write_text(path, "[" + ",\n".join(json.dumps(row) for row in rows) + "]\n")


def read_results(path: Path, category_ids: Sequence[int]) -> dict[int | str, Detection]:
    """Read a result file of ours or of another tool, by image id.

    Raises:
        DataError: If it is no such file, or holds a category that is not in `category_ids`.
    """
    try:
        rows = json.loads(path.read_bytes())
        if not isinstance(rows, list):
            raise TypeError("not a list")
        label_of = {number: label for label, number in enumerate(category_ids)}
        by_image: dict[int | str, list[tuple[float, list[float], int]]] = {}
        for row in rows:
            if row["category_id"] not in label_of:
                raise DataError(
                    f"{path}: category {row['category_id']} (image {row['image_id']}) is not in the data set"
                )
            x, y, width, height = row["bbox"]
            if not np.isfinite([x, y, width, height, row["score"]]).all():
                raise DataError(f"{path}: a box or score of image {row['image_id']} is not finite")
            entry = (float(row["score"]), [x, y, x + width, y + height], label_of[row["category_id"]])
            by_image.setdefault(row["image_id"], []).append(entry)
    except DataError:
        raise
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: expected a list of image_id, category_id, bbox and score ({error!r})") from error
    return {image_id: _detections(entries) for image_id, entries in by_image.items()}


def _detections(entries: Sequence[tuple[float, list[float], int]]) -> Detection:
    scores, boxes, labels = zip(*sorted(entries, key=lambda entry: -entry[0]), strict=True)
    return Detection(np.array(boxes, np.float32), np.array(scores, np.float64), np.array(labels, np.int64))


def xywh(boxes: NDArray[np.floating]) -> NDArray[np.float64]:
    """(n, 4) boxes (x1, y1, x2, y2) as (x, y, width, height), in double precision."""
    corners = boxes.astype(np.float64)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
