"""The data sets of a run: which heads each of them serves, and the classes that a head learns from all of its."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from mnv2vision.common.logs import warnings_of
from mnv2vision.config.named import named_parts
from mnv2vision.config.schema import Eval, Export, Train
from mnv2vision.contracts import HeadConfig, HeadInUse, HeadSettings, HeadTraining, ModelConfig, Target, class_names
from mnv2vision.data.formats.imagenet import check_same_classes
from mnv2vision.data.mixture import Labels, Mixture, Relabelled, counts_per_batch, unite
from mnv2vision.data.sample import Sample, SampleSource, names_of
from mnv2vision.data.sources import create_source, offered, told
from mnv2vision.engine.splits import divided
from mnv2vision.errors import ConfigError
from mnv2vision.models.tasks import TASKS
from mnv2vision.models.vision_model import VisionModel
from mnv2vision.tasks.options import Part

log = logging.getLogger(__name__)

BACKGROUND = "background"


@dataclass(frozen=True)
class DataPart:
    """A data set of a run.

    Attributes:
        name: Among several; that of the only one is empty.
        dataset: The section of the configuration.
        targets: What the heads that it serves need of it.
        train: Samples to learn from, or to calibrate int8 with; None in evaluation.
        val: Samples to measure on; those to learn from, where it serves no head.
        share: Of a batch, beside those of the others; None by the number of images.
        learned: Whether its annotations are learned from; else they serve evaluation alone.
    """

    name: str
    dataset: Mapping[str, object]
    targets: Mapping[str, Target]
    val: SampleSource
    train: SampleSource | None = None
    share: float | None = None
    learned: bool = True


Own = tuple[SampleSource | None, SampleSource]
"""Training and validation samples that are given in Python."""


def create_parts(
    config: Train | Eval | Export, tasks: Mapping[str, str], own: Own | None = None, said: list[str] | None = None
) -> list[DataPart]:
    """Read the data sets of a run; what several readers of one warn of alike is logged once.

    Args:
        config: Of the command; its data sets are those of `data.<name>`, else that of the section `dataset`.
        tasks: Of the heads, by name.
        own: Samples given in Python, instead.
        said: Gets what the readers warn of.

    Raises:
        ConfigError: For data sets that serve no head, or heads that no data set serves.
        DataError: For data that cannot be used.
    """
    with warnings_of("mnv2vision.data", [] if said is None else said):
        return _create(config, tasks, own)


def _create(config: Train | Eval | Export, tasks: Mapping[str, str], own: Own | None) -> list[DataPart]:
    needs: dict[str, Target] = {name: TASKS[task].target for name, task in tasks.items()}
    training = isinstance(config, Train)
    with_train = training or (isinstance(config, Export) and config.quantize == "int8")
    if own is not None:
        served = {name: target for name, target in needs.items() if target in own[1].targets}
        return _checked([DataPart("", config.dataset, served, own[1], own[0])], tasks, training)
    named = named_parts(config.data.more)
    model = config.resume if isinstance(config, Train) else config.checkpoint  # of a run that may have divided them
    if not named:
        names = list(needs)
        if len(needs) > 1:
            names = _served("", str(config.dataset["name"]), None, needs, twice=not training)
        served = {name: needs[name] for name in names}
        dataset = divided(config.dataset, "", _targets(served), config.seed, model, config.data.on_error)
        return _checked([_read("", dataset, served, with_train)], tasks, training)
    parts = []
    for name, section in named.items():
        served = {head: needs[head] for head in _served(name, str(section["dataset"]), section.pop("heads"), needs)}
        share, learned = section.pop("share"), bool(section.pop("labels"))
        if not (served or training):
            continue
        assert isinstance(share, float | None)
        dataset = {**section, "name": section.pop("dataset")}
        if served:
            dataset = divided(dataset, name, _targets(served), config.seed, model, config.data.on_error)
        parts.append(replace(_read(name, dataset, served, with_train), share=share, learned=learned))
    parts.sort(key=lambda part: not part.targets)  # those to measure on first
    return _checked(parts, tasks, training)


def _served(name: str, dataset: str, heads: object, needs: Mapping[str, Target], *, twice: bool = False) -> list[str]:
    """The heads that a data set serves: those it is given for, the one of its name, or all that it can.

    Args:
        name: Of the data set, among several.
        dataset: What it is.
        heads: That it is given for, if any.
        needs: The annotations that each head needs.
        twice: Whether the same annotations may serve several heads.
    """
    key = f"data.{name}.heads" if name else "heads"
    if isinstance(heads, list | tuple):
        if unknown := [head for head in heads if head not in needs]:
            raise ConfigError(f"{key}: there is no head {unknown[0]!r}; valid: {', '.join(needs)}")
        return list(map(str, heads))
    offers = offered(dataset)
    if name and not offers:
        return []
    if name in needs:
        return [name]
    able = [head for head, target in needs.items() if target in offers]
    rivals = [head for head in able if [needs[other] for other in able].count(needs[head]) > 1]
    if rivals and not twice:
        raise ConfigError(f"{key}: {dataset} could serve {' and '.join(rivals)}: say which, such as [{rivals[0]}]")
    if not able:
        raise ConfigError(
            f"{f'data.{name}.' if name else ''}dataset={dataset} has {told(offers)}, which none of the heads"
            f" {', '.join(needs)} learns from"
        )
    return able


def _read(name: str, dataset: Mapping[str, object], served: Mapping[str, Target], with_train: bool) -> DataPart:
    wanted = _targets(served) or offered(str(dataset["name"]))[:1]  # for its images
    train = create_source(dataset, "train", *wanted) if with_train else None
    val = create_source(dataset, "val", *wanted) if train is None or served else train
    return DataPart(name, dataset, served, val, train)


def _targets(served: Mapping[str, Target]) -> tuple[Target, ...]:
    return tuple(dict.fromkeys(served.values()))


def _checked(parts: list[DataPart], tasks: Mapping[str, str], training: bool) -> list[DataPart]:
    for part in parts if training else ():
        if len(set(part.targets.values())) < len(part.targets):
            key = f"data.{part.name}.heads" if part.name else "heads"
            raise ConfigError(f"{key}: {', '.join(part.targets)} need the same annotations: give a data set each")
        for target in part.targets.values():
            if part.train is not None:
                check_same_classes(names_of(part.train, target), names_of(part.val, target))
    if not any(part.targets for part in parts):
        there = told(sorted({target for part in parts for target in part.val.targets}))
        wanted = ", ".join(TASKS[task].target for task in tasks.values())
        raise ConfigError(f"data: the samples have {there}, but the task needs {wanted}")
    return parts


def classes(parts: Sequence[DataPart], head: str, teacher: HeadConfig | None = None) -> tuple[str, ...]:
    """The classes of a head, of all data sets that it learns from, by name.

    Args:
        parts: The data sets.
        head: Its name.
        teacher: The head that teaches it, whose classes it has where no data set does.

    Raises:
        ConfigError: For a head that neither learns from a data set nor has a teacher.
    """
    names = {
        part.name: names_of(part.val, part.targets[head]) for part in parts if head in part.targets and part.learned
    }
    if not names:
        if teacher is None:
            raise ConfigError(
                f"no data set serves the head {head}: give data.{head}.dataset= or teachers.{head}=, or leave it out of"
                " heads"
            )
        return class_names(teacher)
    return next(iter(names.values())) if len(names) == 1 else unite(names, f"head {head}")


def check_learned(parts: Sequence[DataPart], teachers: Collection[str]) -> None:
    """Raise ConfigError for a data set that nothing is learned from: no annotations, and no teacher to ask.

    Args:
        parts: The data sets.
        teachers: The heads that have one.
    """
    for part in parts:
        if not teachers and not (part.targets and part.learned):
            raise ConfigError(
                f"data.{part.name}: no head learns from its annotations, and none has a teacher to learn from its"
                " images: give teachers.<head>=, or leave it out"
            )


def training_shares(parts: Sequence[DataPart], alpha: float) -> list[float]:
    """What each data set has of a training batch; only the ratios count.

    Args:
        parts: The data sets.
        alpha: Power of the number of images, where no share is given.
    """
    counts = [0 if part.train is None else len(part.train) for part in parts]
    return [part.share or count**alpha for part, count in zip(parts, counts, strict=True)]


def training_source(parts: Sequence[DataPart], config: ModelConfig, alpha: float, batch_size: int) -> SampleSource:
    """What a run learns from, with the labels of the model's heads.

    Args:
        parts: The data sets.
        config: Of the model.
        alpha: Power of the number of images in a data set's share of a batch.
        batch_size: Per process.

    Raises:
        ConfigError: For batches that are too small to have images of all.
    """
    sources = {}
    for part in parts:
        assert part.train is not None
        labels = {}
        for head, target in part.targets.items() if part.learned else ():
            own, wanted = names_of(part.train, target), config.heads[head].names
            if own != wanted:
                labels[target] = [wanted.index(name) for name in own]
        sources[part.name] = Relabelled(part.train, Labels(**labels), ()) if labels else part.train
    if len(parts) == 1:
        return next(iter(sources.values()))
    shares = training_shares(parts, alpha)
    counts = counts_per_batch(shares, batch_size, list(sources))
    told = ", ".join(f"{count} of {name}" for name, count in zip(sources, counts, strict=True))
    log.info("each batch has %s; an epoch has as many images as they have together", told)
    return Mixture(sources, shares)


def validation_source(parts: Sequence[DataPart], config: ModelConfig) -> SampleSource:
    """What a model is measured on.

    Args:
        parts: The data sets.
        config: Of the model.

    Raises:
        ConfigError: If the model does not know a class of a data set.
    """
    sources = {}
    for part in parts:
        if not part.targets:
            continue
        source = part.val
        for head in part.targets:
            head_config = config.heads[head]
            try:
                source = TASKS[head_config.task].training().adapt(source, head_config)
            except ConfigError as error:
                raise ConfigError(f"dataset={part.dataset['name']}: {error}") from error
        sources[part.name] = source
    return next(iter(sources.values())) if len(sources) == 1 else Mixture(sources)


def task_parts(
    parts: Sequence[DataPart], model: VisionModel, settings: Mapping[str, HeadSettings], *, training: bool
) -> list[Part]:
    """Objectives and evaluators, by data set and head.

    Args:
        parts: The data sets.
        model: With the heads.
        settings: By head; whose evaluation of boxes is wanted, each data set says itself.
        training: Whether heads that no data set serves are there to be taught.
    """
    heads = dict(model.heads_in_use())
    made = []
    for part in parts:
        trainings, unknown = {}, {}
        for name, target in part.targets.items():
            head, own = heads[name], names_of(part.val, target)
            wanted = settings[name].with_protocol(protocol(part.dataset))
            trainings[name] = TASKS[head.config.task].training().create(head, part.val, wanted)
            if len(parts) > 1 and part.learned and (left_out := _left_out(own, head.config, target)):
                unknown[name] = left_out
        made.append(Part(part.name, trainings, unknown, part.learned))
    taught = [name for name in heads if not any(name in part.targets for part in parts)]
    if training and taught:
        made.append(Part("", {name: _taught(heads[name], settings[name]) for name in taught}, {}, False, False))
    return made


class _Names:
    """The classes of a head, in the place of a data set that it is measured on."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = self.mask_names = names
        self.targets = frozenset[str]()

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: int) -> Sample:
        raise IndexError(index)


def _taught(head: HeadInUse, settings: HeadSettings) -> HeadTraining:
    """The objective of a head that no data set serves."""
    training = TASKS[head.config.task].training()
    return training.create(head, _Names(class_names(head.config)), settings)


def _left_out(own: Sequence[str], config: HeadConfig, target: Target) -> list[bool] | None:
    """Which classes of a head a data set does not annotate, where that matters: beside a background."""
    unknown = [name not in own for name in config.names]
    with_background = target == "boxes" or (target == "mask" and config.names[0] == own[0] == BACKGROUND)
    return unknown if with_background and any(unknown) else None


def protocol(dataset: Mapping[str, object]) -> str | None:
    """Whose evaluation of boxes the section of a data set asks for, if any."""
    wanted = dataset.get("protocol")
    return None if wanted is None else str(wanted)
