"""What a task is to the floors above: its head, predictions, training and evaluation."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mnv2vision.common.text import few
from mnv2vision.contracts.export import HeadExport
from mnv2vision.contracts.model import Head, HeadConfig, HeadKind, Options
from mnv2vision.contracts.raw import Raw
from mnv2vision.data.batch import Batch, Transform
from mnv2vision.data.sample import SampleSource
from mnv2vision.errors import ConfigError, WeightsError
from mnv2vision.predictions.base import NOT_FINITE, Prediction
from mnv2vision.preprocessing import Preprocessing

if TYPE_CHECKING:  # prediction does without jinja2
    from mnv2vision.common.html import Section

Target = Literal["label", "boxes", "mask"]
"""What a sample may be annotated with."""
Network = Callable[[Tensor], Raw]
"""From normalised images (N, 3, H, W) to the raw output of a head."""


P_co = TypeVar("P_co", bound=Prediction, covariant=True)


class Decoder(Protocol[P_co]):
    """Makes predictions of a head's raw outputs.

    Attributes:
        takes_photos: Whether it is given photos as they are (uint8), each alone, instead of the network's input.
    """

    takes_photos: bool

    def __call__(self, network: Network, images: Tensor, sizes: Sequence[tuple[int, int]]) -> Sequence[P_co]:
        """Predict.

        Args:
            network: Gives the head's raw outputs.
            images: (N, 3, H, W).
            sizes: (height, width) of the photos.
        """
        ...

    def remarks(self) -> list[str]:
        """What the predictions so far leave out, in a line each."""
        ...


def no_loss(*outputs: Tensor) -> Tensor:
    """The loss of a batch without the head's target: 0, of which every parameter has a gradient, as DDP expects."""
    return torch.stack([output.sum() for output in outputs]).sum() * 0.0


class Recommended(NamedTuple):
    """What is kept in `HeadConfig`, by the same names, of an evaluation; nothing by default."""

    thresholds: tuple[float, ...] = ()
    temperature: float = 1.0


class ClassFigures(NamedTuple):
    """What a figure is called, and names and values of the classes that have examples."""

    figure: str
    values: Sequence[tuple[str, float]]


class Evaluator(Protocol):
    """Collects predictions, and computes the metrics of a data set once, over all processes.

    `update(predictions, targets)` adds images: what is predicted of each, in the evaluator's own type, and their
    samples, as `Batch.truth` has them; an image that lacks the evaluator's target does not count.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """Class names by label."""
        ...

    def compute(self) -> dict[str, float]:
        """Metrics over all images of all processes."""
        ...

    def remarks(self) -> list[str]:
        """What the metrics cannot tell, in a line each."""
        ...

    def class_figures(self) -> ClassFigures:
        """The main figure of each class, after `compute`."""
        ...

    @property
    def images(self) -> int:
        """How many images the metrics are of, after `compute`."""
        ...

    def resampled(self, counts: NDArray[np.int64]) -> dict[str, float]:
        """The metrics if each image occurred so many times, after `compute`; the order is that of the ids, sorted.

        Without those that are fitted to the images.

        Args:
            counts: (images,) numbers of times, 0 for none.
        """
        ...

    def reset(self) -> None:
        """Forget all images."""
        ...


class Distance(Protocol):
    """How far a student's class probabilities are from a teacher's; logits have the classes last."""

    def by_row(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(..., C) logits to (...) distances."""
        ...

    def mean(self, student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
        """The weighted mean distance, a scalar.

        Args:
            student: (M, C) logits.
            teacher: (M, C) logits.
            weights: (M,) of the rows, 0 for those that do not count.
        """
        ...


class Lesson(NamedTuple):
    """What a head is to learn from a teacher's raw output.

    Attributes:
        distance: Of class probabilities.
        wanted: (N,) bool, which images count.
        batch: The images, with the targets that they have for the head.
        classes: The common classes: (K,) the head's labels, and (K,) the teacher's; None if both have the same.
    """

    distance: Distance
    wanted: Tensor
    batch: Batch
    classes: tuple[Tensor, Tensor] | None = None

    def common(self, raw: Tensor, teacher: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """The logits of the common classes, in float32."""
        if self.classes is None:
            return raw.float(), teacher.float()
        mine, theirs = self.classes
        return raw.float().index_select(dim, mine), teacher.float().index_select(dim, theirs)


class HeadTraining(ABC):
    """A head in training and evaluation: its objective, evaluator, reports and pictures.

    Attributes:
        monitor: The metric that decides which epoch is best; the larger the better.
        evaluator: Of the validation images.
    """

    monitor: str
    evaluator: Evaluator

    @classmethod
    @abstractmethod
    def create(cls, head: "HeadInUse", source: SampleSource, settings: "HeadSettings") -> Self:
        """Set it up.

        Args:
            head: What is trained or evaluated.
            source: The validation samples.
            settings: Of the objective and the evaluation.
        """

    @classmethod
    @abstractmethod
    def augmentation(cls, options: Options, preprocessing: Preprocessing) -> Transform:
        """The training transform that the section `augmentation` of a configuration asks for."""

    @classmethod
    def adapt(cls, source: SampleSource, config: HeadConfig) -> SampleSource:
        """A data set as the head's evaluation needs it."""
        return source

    def mix(self, images: Tensor, batch: Batch) -> Tensor:
        """Training images mixed among themselves (mixup, CutMix); `loss` of the batch then reckons with it."""
        return images

    @abstractmethod
    def loss(self, raw: Raw, batch: Batch) -> dict[str, Tensor]:
        """The parts of the batch's loss, scalars to be summed, of the head's raw output."""

    def ask(self, network: Network, preprocessing: Preprocessing, images: Tensor) -> Raw:
        """A teacher's raw output.

        Args:
            network: The teacher.
            preprocessing: How it wants its images.
            images: (N, 3, H, W) pixel values, as the student sees them.
        """
        return network(preprocessing.normalize(images))

    @abstractmethod
    def imitate(self, raw: Raw, teacher: Raw, lesson: "Lesson") -> Tensor:
        """The mean loss of images whose targets are a teacher's answers.

        Args:
            raw: What the head gave.
            teacher: What the teacher gave, of the same images.
            lesson: How it learns from them.
        """

    def start(self) -> None:
        """An evaluation begins."""
        self.evaluator.reset()

    @abstractmethod
    def evaluate(self, network: Network, images: Tensor, batch: Batch) -> None:
        """Predict, and update the evaluator.

        Args:
            network: Gives the head's raw outputs.
            images: (N, 3, H, W), normalised.
            batch: With the targets.
        """

    def recommended(self) -> Recommended:
        """What the last evaluation found best for prediction."""
        return Recommended()

    @abstractmethod
    def write_report(self, folder: Path) -> None:
        """Write tables and pictures of the last evaluation."""

    @abstractmethod
    def sections(self, folder: Path) -> "list[Section]":
        """What a report tells of the last evaluation, whose tables and pictures are in the folder."""

    @abstractmethod
    def advice(self) -> list[str]:
        """What to try next after the last evaluation, in a line each."""

    @abstractmethod
    def draw_batch(self, batch: Batch) -> list[NDArray[np.uint8]]:
        """Pictures (H, W, 3) of a training batch with its targets."""


@dataclass(frozen=True)
class HeadSettings:
    """Options of a head's training and evaluation, by the names they have in configurations.

    Attributes:
        loss: The section `loss`.
        augmentation: The section `augmentation`, of which a task may do a part with whole batches.
        inference: The section `inference`.
        protocol: "coco" or "voc", whose evaluation of boxes is wanted; None: the data set's.
    """

    loss: Options = field(default_factory=dict)
    augmentation: Options = field(default_factory=dict)
    inference: Options = field(default_factory=dict)
    protocol: str | None = None

    def with_protocol(self, protocol: str | None) -> "HeadSettings":
        """The same, for a data set with a protocol of its own."""
        return replace(self, protocol=protocol)


class HeadInUse(NamedTuple):
    """A head of a model, and what belongs to it.

    Attributes:
        head: Its module.
        config: Its configuration.
        preprocessing: The model's.
    """

    head: Head
    config: HeadConfig
    preprocessing: Preprocessing


def class_names(config: HeadConfig) -> tuple[str, ...]:
    """Names by label, "class 3" where they are not known."""
    return config.names or tuple(f"class {label}" for label in range(config.num_classes))


def find_classes(names: Sequence[str], config: HeadConfig) -> Sequence[int] | None:
    """Where a data set's labels are among a model's classes; None if they are the same.

    Args:
        names: The data set's class names, of the target that the head is for (`names_of`).
        config: Of the head.

    Raises:
        ConfigError: If the model does not know a class of the data set, or has two of its name.
    """
    if tuple(names) == config.names or (not config.names and len(names) == config.num_classes):
        return None
    labels: dict[str, list[int]] = {}
    for label, name in enumerate(config.names):
        labels.setdefault(name, []).append(label)
    unknown = [name for name in names if name not in labels]
    if unknown:
        hint = "train for them with init_from=<the weights>"
        if len(unknown) < len(names):
            hint += ", or restrict dataset.classes"
        raise ConfigError(
            f"the model's {config.num_classes} classes do not include {len(unknown)} of the data set's"
            f" {len(names)}: {few(unknown)}; {hint}"
        )
    for name in names:
        if len(labels[name]) > 1:
            numbers = " and ".join(map(str, labels[name]))
            raise ConfigError(f"the model has {len(labels[name])} classes named {name} ({numbers}): which is meant?")
    return [labels[name][0] for name in names]


def check_finite(scores: Tensor) -> Tensor:
    """Give the scores back; WeightsError where some are no numbers."""
    if not scores.isfinite().all():
        raise WeightsError(NOT_FINITE)
    return scores


@dataclass(frozen=True)
class TaskKind:
    """All that is known of a task; the floors above know tasks by this alone.

    Attributes:
        target: What it needs of each sample.
        head: Its head.
        decoder: Makes a `Decoder`, from a `HeadInUse` and options by keyword.
        training: Its `HeadTraining`; a function, as prediction does without what training imports.
        export: Its head in exported files.
    """

    target: Target
    head: HeadKind
    decoder: Callable[..., Decoder[Prediction]]
    training: Callable[[], type[HeadTraining]]
    export: HeadExport
