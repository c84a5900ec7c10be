"""The photos that exported files are measured on, and calibrated with."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mnv2vision.config.schema import Export
from mnv2vision.contracts import HeadConfig, HeadSettings
from mnv2vision.data.augment.classification import EvaluationTransform
from mnv2vision.data.batch import Batch, BatchDataset
from mnv2vision.data.formats.shapes import Shapes
from mnv2vision.data.sample import SampleSource
from mnv2vision.data.sampler import BatchKey
from mnv2vision.data.sources import create_source
from mnv2vision.engine.accuracy import Photos
from mnv2vision.engine.parts import protocol
from mnv2vision.errors import ConfigError, DataError
from mnv2vision.models.tasks import TASKS
from mnv2vision.models.vision_model import VisionModel

log = logging.getLogger(__name__)

ENOUGH = 300
"""Images to calibrate with; fewer are warned of."""
PICTURES = 32
"""Built-in ones, where there is no data set."""
_BATCH = 8

Parts = tuple[SampleSource, SampleSource]
"""Training and validation samples."""


@dataclass(frozen=True)
class ExportData:
    """What is drawn for an export.

    Attributes:
        photos: What each head is measured on; without a data set the built-in pictures.
        unmeasured: Heads that the data set has no annotations for.
        calibration: Prepared images (H, W, 3) uint8 for int8.
        calibrated_on: Their ids.
    """

    photos: Mapping[str, Photos]
    unmeasured: Sequence[str] = ()
    calibration: Sequence[NDArray[np.uint8]] = ()
    calibrated_on: Sequence[int | str] = ()


def draw(config: Export, model: VisionModel, parts: Mapping[str, Parts] | None = None) -> ExportData:
    """Draw and read the photos.

    Args:
        config: Of the command `export`.
        model: What is exported.
        parts: Samples of the user's own by head; those of the section `dataset` by default.

    Raises:
        ConfigError: For a data set that has nothing for the model.
        DataError: For photos that cannot be read.
    """
    if not config.dataset:
        shown = _read(Shapes("val", PICTURES, 256, config.seed), range(PICTURES), model)
        return ExportData(dict.fromkeys(model.config.heads, Photos(f"{PICTURES} built-in pictures", shown)))
    sources: dict[str, SampleSource] = {}
    reasons: list[ConfigError] = []
    for name, head in model.config.heads.items():
        try:
            sources[name] = parts[name][1] if parts else _source(config, "val", head)
            sources[name] = _adapted(config, sources[name], head)
        except (ConfigError, KeyError) as error:
            sources.pop(name, None)
            reasons += [error] if isinstance(error, ConfigError) else []
    if not sources:
        raise reasons[0]
    photos = {name: _photos(config, source, model) for name, source in sources.items()}
    unmeasured = [name for name in model.config.heads if name not in sources]
    if config.quantize != "int8":
        return ExportData(photos, unmeasured)
    first = next(iter(sources))
    train = parts[first][0] if parts else _source(config, "train", model.config.heads[first])
    return ExportData(photos, unmeasured, *_calibration(config, train, model))


def _source(config: Export, part: Literal["train", "val"], head: HeadConfig) -> SampleSource:
    return create_source(config.dataset, part, TASKS[head.task].target)


def _adapted(config: Export, source: SampleSource, head: HeadConfig) -> SampleSource:
    """As the head's evaluation needs it."""
    training = TASKS[head.task].training()
    try:
        return training.adapt(source, head)
    except ConfigError as error:
        raise ConfigError(f"dataset={config.dataset['name']}: {error}") from error


def _photos(config: Export, source: SampleSource, model: VisionModel) -> Photos:
    indices = _drawn(len(source), config.images, config.seed)
    which = "all" if len(indices) == len(source) else f"{len(indices)} drawn of"
    words = f"{which} {len(source)} images of the validation part of dataset={config.dataset['name']}"
    return Photos(words, _read(source, indices, model), source, HeadSettings(protocol=protocol(config.dataset)))


def _drawn(count: int, wanted: int, seed: int) -> list[int]:
    """Indices of some images, in order."""
    if count <= wanted:
        return list(range(count))
    drawn: list[int] = sorted(np.random.default_rng(seed).choice(count, wanted, replace=False).tolist())
    return drawn


def _read(source: SampleSource, indices: Sequence[int], model: VisionModel) -> list[Batch]:
    transform = EvaluationTransform(model.preprocessing)
    dataset = BatchDataset(source, transform, seed=0, on_error="raise", evaluation=True)
    batches = []
    for chunk in _chunks(indices):
        batch = dataset[BatchKey(0, list(chunk))]
        if batch.error is not None:
            raise DataError(batch.error)
        batches.append(batch)
    return batches


def _chunks(indices: Sequence[int]) -> Iterable[Sequence[int]]:
    return (indices[start : start + _BATCH] for start in range(0, len(indices), _BATCH))


def _calibration(
    config: Export, source: SampleSource, model: VisionModel
) -> tuple[list[NDArray[np.uint8]], list[int | str]]:
    """Images of the training part, and their ids."""
    samples = (source[index] for index in _drawn(len(source), config.images, config.seed))
    drawn = [(model.preprocessing.prepare(sample.image), sample.image_id) for sample in samples]
    if len(drawn) < ENOUGH:
        log.warning("int8 is calibrated with %d images; %d or more are better", len(drawn), ENOUGH)
    return [image for image, _ in drawn], [image_id for _, image_id in drawn]
