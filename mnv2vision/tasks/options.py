"""How to train, and on what: what a `Task` is told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from mnv2vision.contracts import HeadTraining, Options
from mnv2vision.training.distillation import Kind


@dataclass(frozen=True)
class Distillation:
    """How heads learn from teachers.

    Attributes:
        loss: See `training.distillation.Divergence`.
        temperature: Likewise.
        weight: Of what is learned from a teacher, beside the labels' loss.
        images: "all", or "unlabelled": those without labels of the head.
        batch_statistics: Whether teachers normalise by each batch's own statistics.
        features: Names of taps that are to be like the teacher's.
        cache: A folder that keeps the teachers' answers.
    """

    loss: Kind = "kl"
    temperature: float = 1.0
    weight: float = 1.0
    images: Literal["all", "unlabelled"] = "all"
    batch_statistics: bool = False
    features: tuple[str, ...] = ()
    cache: str | None = None


@dataclass(frozen=True)
class TrainingOptions:
    """How to train.

    Attributes:
        optimizer: Arguments of `build_optimizer`, and `reference_batch`: the global batch `lr` is meant for (None:
            `lr` as it is).
        schedule: Arguments of `schedule`.
        freeze: How many blocks of the backbone stay as they are.
        batch_size: Per process, for the scaling of the learning rate.
        max_steps: Where the schedule ends, unless the epochs end before; -1: there.
        seed: Of dropout and whatever else is drawn in a step.
        channels_last: Memory format of weights and activations.
        compile: Whether to compile the training step's forward pass.
        quantize: Whether to train and evaluate with the rounding of an int8 export.
        weights: Of the heads' losses; 1 where none is given.
        balance: See `training.balance.Balance`.
        distillation: How heads learn from teachers.
        monitor: Weights of the heads' main metrics in the one that decides which epoch is best; 1 likewise.
    """

    optimizer: Options = field(default_factory=dict)
    schedule: Options = field(default_factory=dict)
    freeze: int = 0
    batch_size: int = 1
    max_steps: int = -1
    seed: int = 0
    channels_last: bool = True
    compile: bool = False
    quantize: bool = False
    weights: Mapping[str, float] = field(default_factory=dict)
    balance: str = "fixed"
    distillation: Distillation = field(default_factory=Distillation)
    monitor: Mapping[str, float] = field(default_factory=dict)


class Part(NamedTuple):
    """A data set in training and evaluation.

    Attributes:
        name: Of the data set, where there are several.
        heads: That are measured on it.
        unknown: (C,) of a head's classes, which ones the data set does not annotate; heads whose classes it annotates
            all are left out.
        learned: Whether the heads learn from its annotations; else from teachers alone.
        measured: Whether there are annotations to measure the heads on.
    """

    name: str
    heads: Mapping[str, HeadTraining]
    unknown: Mapping[str, Sequence[bool]] = {}
    learned: bool = True
    measured: bool = True
