"""The photos that exported files are measured on, and calibrated with."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mnv2vision.config.named import named_parts
from mnv2vision.config.schema import Export
from mnv2vision.contracts import HeadSettings
from mnv2vision.data.augment.classification import EvaluationTransform
from mnv2vision.data.batch import Batch, BatchDataset, OnError
from mnv2vision.data.formats.shapes import Shapes
from mnv2vision.data.mixture import counts_per_batch
from mnv2vision.data.sample import SampleSource
from mnv2vision.data.sampler import BatchKey
from mnv2vision.engine.accuracy import Photos
from mnv2vision.engine.evaluate import tell_of_unmeasured
from mnv2vision.engine.parts import DataPart, Own, create_parts, protocol, training_shares, validation_source
from mnv2vision.errors import DataError
from mnv2vision.models.vision_model import VisionModel

log = logging.getLogger(__name__)

ENOUGH = 300
"""Images to calibrate with; fewer are warned of."""
PICTURES = 32
"""Built-in ones, where there is no data set."""
_BATCH = 8


@dataclass(frozen=True)
class ExportData:
    """What is drawn for an export.

    Attributes:
        photos: What each head is measured on, by data set; the built-in pictures without any, and images without
            annotations for a head that no data set serves.
        calibration: Prepared images (H, W, 3) uint8 for int8.
        calibrated_on: Their ids, by what they are of.
    """

    photos: Mapping[str, Mapping[str, Photos]]
    calibration: Sequence[NDArray[np.uint8]] = ()
    calibrated_on: Mapping[str, Sequence[int | str]] = field(default_factory=dict)


def has_data(config: Export) -> bool:
    """Whether a configuration says what to measure on."""
    return bool(config.dataset or named_parts(config.data.more))


def draw(config: Export, model: VisionModel, own: Own | None = None) -> ExportData:
    """Draw and read the photos.

    Args:
        config: Of the command `export`.
        model: What is exported.
        own: Samples of the user's own; those of the data sets in the configuration by default.

    Raises:
        ConfigError: For a data set that has nothing for the model.
        DataError: For photos that cannot be read.
    """
    heads = model.config.heads
    if not has_data(config):
        shown = _read(Shapes("val", PICTURES, 256, config.seed), range(PICTURES), model, "raise")
        return ExportData({name: {"": Photos(f"{PICTURES} built-in pictures", shown)} for name in heads})
    tasks = {name: head.task for name, head in heads.items()}
    parts = create_parts(config, tasks, own)
    tell_of_unmeasured(parts, tasks)
    drawn = {part.name: _photos(config, part, model) for part in parts if part.targets}
    photos = {name: {part.name: drawn[part.name] for part in parts if name in part.targets} for name in heads}
    first = next(iter(drawn.values()))
    unannotated = {"": Photos(first.words, first.batches)}
    photos = {name: by_part or unannotated for name, by_part in photos.items()}
    return ExportData(photos, *(_calibration(config, parts, model) if config.quantize == "int8" else ()))


def _photos(config: Export, part: DataPart, model: VisionModel) -> Photos:
    source = validation_source([part], model.config)
    indices = _drawn(len(source), config.images, config.seed)
    which = "all" if len(indices) == len(source) else f"{len(indices)} drawn of"
    words = f"{which} {len(source)} images of the validation part of {_named(part)}"
    batches = _read(source, indices, model, config.data.on_error)
    return Photos(words, batches, source, HeadSettings(protocol=protocol(part.dataset)))


def _named(part: DataPart) -> str:
    return f"{f'data.{part.name}.' if part.name else ''}dataset={part.dataset['name']}"


def _drawn(count: int, wanted: int, seed: int) -> list[int]:
    """Indices of some images, in order."""
    if count <= wanted:
        return list(range(count))
    drawn: list[int] = sorted(np.random.default_rng(seed).choice(count, wanted, replace=False).tolist())
    return drawn


def _read(source: SampleSource, indices: Sequence[int], model: VisionModel, on_error: OnError) -> list[Batch]:
    transform = EvaluationTransform(model.preprocessing)
    dataset = BatchDataset(source, transform, seed=0, on_error=on_error, evaluation=True)
    batches = []
    for chunk in _chunks(indices):
        batch = dataset[BatchKey(0, list(chunk))]
        if batch.error is not None:
            raise DataError(batch.error)
        for message in batch.skipped:
            log.warning("another image stands in for one that cannot be read: %s", message)
        batches.append(batch)
    return batches


def _chunks(indices: Sequence[int]) -> Iterable[Sequence[int]]:
    return (indices[start : start + _BATCH] for start in range(0, len(indices), _BATCH))


def _calibration(
    config: Export, parts: Sequence[DataPart], model: VisionModel
) -> tuple[list[NDArray[np.uint8]], dict[str, list[int | str]]]:
    """Images of the training parts, of each data set its share of a training batch; and their ids."""
    wanted = max(config.images, len(parts))
    counts = counts_per_batch(training_shares(parts, config.data.alpha), wanted, [part.name for part in parts])
    images: list[NDArray[np.uint8]] = []
    ids: dict[str, list[int | str]] = {}
    for part, count in zip(parts, counts, strict=True):
        assert part.train is not None
        batches = _read(part.train, _drawn(len(part.train), count, config.seed), model, config.data.on_error)
        images += [image for batch in batches for image in batch.images.permute(0, 2, 3, 1).numpy()]
        ids[f"the training part of {_named(part)}"] = [image_id for batch in batches for image_id in batch.image_ids]
    if len(images) < ENOUGH:
        log.warning("int8 is calibrated with %d images; %d or more are better", len(images), ENOUGH)
    return images, ids
