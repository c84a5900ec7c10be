"""What heads and models agree on: a head's kind, and the configuration that a model is built from and saved with."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, NamedTuple, Self

from torch import Tensor, nn

from mnv2vision.backbones import FeatureSpec
from mnv2vision.backbones.layers import LayerOptions
from mnv2vision.contracts.raw import Raw
from mnv2vision.errors import ConfigError
from mnv2vision.preprocessing import Preprocessing

Options = Mapping[str, object]
"""Options of a backbone or a head by name, as plain values."""


class Features(NamedTuple):
    """What a head is told of the backbone that it stands on.

    Attributes:
        specs: Of its taps, in their order.
        width: The backbone's channel multiplier.
        options: Conventions of its layers.
        hidden_channels: Of the layer between pooling and classifier, where the network has one (MobileNetV3).
    """

    specs: tuple[FeatureSpec, ...]
    width: float
    options: LayerOptions
    hidden_channels: int | None = None


class Head(nn.Module, ABC):
    """What makes a task's raw output of a backbone's features."""

    class_layers: ClassVar[tuple[str, ...]]
    """Prefixes of its parameters that are of no use for other classes."""

    def set_features(self, features: Features) -> None:
        """Follow a change of the backbone's output stride; the weights stay."""

    def class_rows(self, parameter: str) -> int | None:
        """How many rows stand before those of the classes, in each group of rows of a class layer's parameter.

        None for one that has no rows of classes.
        """
        return 0

    @abstractmethod
    def forward(self, features: Sequence[Tensor], image_size: tuple[int, int]) -> Raw:
        """The raw output.

        Args:
            features: (N, C, H, W) of each tap.
            image_size: Height and width of the network's input.
        """


class Taps(NamedTuple):
    """What decides where a head stands by default: the backbone's name, its options, and the head's."""

    backbone: str
    backbone_options: Options
    options: Options


@dataclass(frozen=True)
class HeadKind:
    """The head of a task.

    Attributes:
        build: Makes it, from features, the number of classes, and its options by keyword.
        default_taps: The features it stands on; None for the deepest.
        num_classes: Of the task's standard data set.
        image_size: Side of the network's input by default.
        resize: Rule of `Preprocessing` by default.
        output_stride: Of the backbone by default.
    """

    build: Callable[..., Head]
    default_taps: Callable[[Taps], tuple[str, ...] | None]
    num_classes: int
    image_size: int
    resize: Literal["crop", "stretch", "letterbox"]
    output_stride: int = 32


def _texts(key: str, values: object) -> tuple[str, ...]:
    if not isinstance(values, list | tuple) or not all(isinstance(value, str) for value in values):
        raise ConfigError(f"{key}={values!r} must be a list of names")
    return tuple(values)


def _shares(key: str, values: object) -> tuple[float, ...]:
    if not isinstance(values, list | tuple) or any(type(x) not in (int, float) or not 0 <= x <= 1 for x in values):
        raise ConfigError(f"{key}={values!r} must be a list of numbers in 0..1")
    return tuple(map(float, values))


@dataclass(frozen=True)
class HeadConfig:
    """A head of a model.

    Attributes:
        task: "classification", "detection" or "segmentation".
        num_classes: Number of classes.
        names: Class names by label; empty where they are not known.
        taps: Names of the features it stands on; None for the task's default.
        options: Of the head.
        thresholds: Of detection: the score of each class from which on objects are best believed, as the evaluation at
            the end of training found; empty where it is not known.
        temperature: Of classification: what logits are divided by in evaluation, so that probabilities can be
            believed, as that evaluation found.
    """

    task: str
    num_classes: int
    names: tuple[str, ...] = ()
    taps: tuple[str, ...] | None = None
    options: Options = field(default_factory=dict)
    thresholds: tuple[float, ...] = ()
    temperature: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", _texts("names", self.names))
        object.__setattr__(self, "thresholds", _shares("thresholds", self.thresholds))
        if self.taps is not None:
            object.__setattr__(self, "taps", _texts("taps", self.taps))
        if type(self.num_classes) is not int or self.num_classes < 1:
            raise ConfigError(f"num_classes={self.num_classes} must be at least 1")
        if self.names and len(self.names) != self.num_classes:
            raise ConfigError(f"num_classes={self.num_classes}, but there are {len(self.names)} class names")
        if self.thresholds and len(self.thresholds) != self.num_classes:
            raise ConfigError(f"num_classes={self.num_classes}, but there are {len(self.thresholds)} thresholds")
        if type(self.temperature) not in (int, float) or not 0 < self.temperature < math.inf:
            raise ConfigError(f"temperature={self.temperature!r} must be a number above 0")
        if self.temperature != 1 and self.task != "classification":
            raise ConfigError(f"temperature={self.temperature} is for classification, not for {self.task}")

    def to_dict(self) -> dict[str, object]:
        """Plain data."""
        taps = None if self.taps is None else list(self.taps)
        return {
            "task": self.task,
            "num_classes": self.num_classes,
            "names": list(self.names),
            "taps": taps,
            "options": dict(self.options),
            # Earlier versions cannot read these.
            **({"thresholds": list(self.thresholds)} if self.thresholds else {}),
            **({"temperature": self.temperature} if self.temperature != 1 else {}),
        }


@dataclass(frozen=True)
class ModelConfig:
    """All that a model is built from and saved with, besides its weights.

    Attributes:
        backbone: Name of the backbone.
        heads: By name.
        backbone_options: See `create_backbone`; without `taps`, which follow from the heads.
        preprocessing: How the model wants its images.
    """

    backbone: str
    heads: Mapping[str, HeadConfig]
    backbone_options: Options = field(default_factory=dict)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)

    def __post_init__(self) -> None:
        if not self.heads:
            raise ConfigError("a model needs at least one head")
        for name in self.heads:
            if not isinstance(name, str) or not name.isidentifier() or hasattr(nn.ModuleDict(), name):
                raise ConfigError(f"{name!r} cannot be the name of a head: give a word such as detection or faces")

    @property
    def head(self) -> HeadConfig:
        """The only head.

        Raises:
            ConfigError: For a model with several.
        """
        if len(self.heads) > 1:
            raise ConfigError(f"the model has the heads {', '.join(self.heads)}: which is meant?")
        return next(iter(self.heads.values()))

    @property
    def arguments(self) -> dict[str, object]:
        """Of a model with one head: the arguments of `create_model`, without names and preprocessing."""
        head = self.head
        taps = {} if head.taps is None else {"taps": head.taps}
        return {
            "task": head.task,
            "backbone": self.backbone,
            "num_classes": head.num_classes,
            **self.backbone_options,
            **head.options,
            **taps,
        }

    def head_like(self, name: str, task: str) -> str | None:
        """The head of that name and task, or the only one of the task; None if there is none, or which is open."""
        alike = [other for other, head in self.heads.items() if head.task == task]
        return name if name in alike else alike[0] if len(alike) == 1 else None

    def with_backbone_options(self, **options: object) -> Self:
        """The same with some options of the backbone changed."""
        return replace(self, backbone_options={**self.backbone_options, **options})

    def to_dict(self) -> dict[str, object]:
        """Plain data that `from_dict` takes."""
        return {
            "backbone": self.backbone,
            "backbone_options": dict(self.backbone_options),
            "heads": {name: head.to_dict() for name, head in self.heads.items()},
            "preprocessing": self.preprocessing.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Self:
        """Make it from what `to_dict` gave; ConfigError, KeyError or TypeError for anything else."""
        given: Any = data
        heads = {name: HeadConfig(**head) for name, head in given["heads"].items()}
        preprocessing = Preprocessing.from_dict(given["preprocessing"])
        return cls(given["backbone"], heads, given["backbone_options"], preprocessing)
