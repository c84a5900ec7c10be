"""Keys that have a name of the user's in them: data sets (`data.<name>.root`) and heads (`model.<head>.dropout`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from omegaconf import DictConfig, ListConfig, OmegaConf

from mnv2vision.config.annotations import Name
from mnv2vision.config.datasets import DATASETS
from mnv2vision.config.kinds import Kind, Many, Number, Text, optional
from mnv2vision.config.options import option, options, values
from mnv2vision.config.parse import Given
from mnv2vision.config.tasks import TASKS
from mnv2vision.errors import ConfigError

JOINT = "joint"
_CHOICE = "dataset"


@dataclass(frozen=True)
class PartOptions:
    """A data set among several."""

    dataset: Name = option(
        "", "coco | folder | imagenet | shapes | voc | yolo; its own keys stand beside it, such as data.<name>.root"
    )
    heads: Annotated[tuple[str, ...], Many(Text())] | None = option(
        None, "that it serves; null: the one of its name, else all that it can; []: images for teachers alone"
    )
    labels: bool = option(True, "false: learn from its images alone, by teachers; its annotations are for evaluation")
    share: Annotated[float, Number(most=10**9, above=0)] | None = option(
        None, "of a batch, beside those of the others; null: the number of its images, to the power of data.alpha"
    )


_WEIGHT = Number(0, 1e6)
_BY_HEAD: dict[str, tuple[Kind, object]] = {
    "loss.weights": (_WEIGHT, 1.0),
    "monitor": (_WEIGHT, 1.0),
    "teachers": (optional(Text()), None),
}
"""Sections with a key for each head: its kind and default."""


ALL_HEADS = ("classification", "detection", "segmentation")


def head_tasks(task: str, heads: Sequence[str] | None) -> dict[str, str]:
    """The task of each head.

    Args:
        task: Of the run.
        heads: Of task=joint: names that are tasks, or `name:task`; None for one of each.

    Raises:
        ConfigError: For an unknown task, a name given twice, or heads of another task than joint.
    """
    if task != JOINT:
        if heads is not None:
            raise ConfigError(f"heads=[{','.join(heads)}] are for task={JOINT}, not for task={task}")
        return {task: task}
    known = [name for name in TASKS if name != JOINT]
    tasks: dict[str, str] = {}
    for item in ALL_HEADS if heads is None else heads:
        name, _, kind = item.partition(":")
        if (kind or name) not in known:
            raise ConfigError(f"heads: {item!r} is unknown; valid: {', '.join(known)}, or <name>:<one of these>")
        if not name.isidentifier():
            raise ConfigError(f"heads: {name!r} cannot be the name of a head: give a word such as detection or faces")
        if name in tasks:
            raise ConfigError(f"heads: {name} is given twice; name one of them, such as faces:detection")
        tasks[name] = kind or name
    return tasks


def named_parts(data: Mapping[str, object]) -> dict[str, dict[str, object]]:
    """The data sets by name in the section `data` of a configuration."""
    return {name: dict(section) for name, section in data.items() if isinstance(section, Mapping)}


def add_named(base: DictConfig, given: Sequence[Given]) -> dict[str, Kind]:
    """Add the sections of data sets and heads that are named, with their defaults.

    Args:
        base: The configuration; changed in place.
        given: What the user says.

    Returns:
        The kinds of their keys.

    Raises:
        ConfigError: For an unknown data set, or one that is not told.
    """
    kinds: dict[str, Kind] = {}
    if isinstance(base.get("data"), DictConfig):
        names = _names_of_parts(base, given)
        for item in given if names else ():
            if item.key.partition(".")[0] == _CHOICE:
                raise ConfigError(f"{item.line}: data.{names[0]} names data sets: name this one, too, as data.<name>.…")
        for name in names:
            kinds |= _add_part(base, name, given)
    if base.get("task") == JOINT and "heads" in base:
        heads = next((item.value for item in reversed(given) if item.key == "heads"), base["heads"])
        if heads is not None and not isinstance(heads, Sequence | ListConfig):
            raise ConfigError(f"heads={heads}: heads takes a list of names, such as [classification,detection]")
        tasks = head_tasks(JOINT, None if heads is None else [str(head) for head in heads])
        for place in ("model", "loss", *_BY_HEAD):  # what a recipe says of heads that are left out
            section = OmegaConf.select(base, place)
            for name in TASKS.keys() - tasks.keys() if section is not None else ():
                section.pop(name, None)
        for name, task in tasks.items():
            kinds |= _add_head(base, name, task)
    return kinds


def _names_of_parts(base: DictConfig, given: Sequence[Given]) -> list[str]:
    there = [str(name) for name, section in base["data"].items() if isinstance(section, DictConfig)]
    for item in given:
        match item.key.split("."):
            case ["data", name, _]:
                there.append(name)
            case ["data", name] if isinstance(item.value, dict):
                there.append(name)
    return list(dict.fromkeys(there))


def _add_part(base: DictConfig, name: str, given: Sequence[Given]) -> dict[str, Kind]:
    key = f"data.{name}"
    _check_name(base, "data", name)
    was = OmegaConf.select(base, f"{key}.{_CHOICE}")
    told = [item.value for item in given if item.key == f"{key}.{_CHOICE}"]
    told += [item.value.get(_CHOICE) for item in given if item.key == key and isinstance(item.value, dict)]
    choice = told[-1] if told else was
    valid = ", ".join(sorted(set(DATASETS) - {"own"}))
    if choice is None:
        raise ConfigError(f"{key}: give {key}.{_CHOICE}= as well (valid: {valid})")
    if choice not in DATASETS:
        raise ConfigError(f"{key}.{_CHOICE}={choice} is unknown; valid: {valid}")
    own = {option: value for option, value in values(DATASETS[str(choice)]()).items() if option != "name"}
    kept = base["data"].get(name, {})
    section = {**values(PartOptions()), **own, **{option: kept[option] for option in kept if choice == was}}
    base["data"][name] = {**section, _CHOICE: choice}
    return {
        item.key: item.kind
        for schema in (PartOptions, DATASETS[str(choice)])
        for item in options(schema, f"{key}.")
        if item.key != f"{key}.name"
    }


def _check_name(base: DictConfig, section: str, name: str) -> None:
    """Raise ConfigError for a name of the user's that is an option of the section's own."""
    own = name in base[section] and not isinstance(base[section][name], DictConfig)
    if own or f"{section}.{name}" in _BY_HEAD:
        raise ConfigError(f"{section}.{name} is an option of its own: no head or data set can have the name {name}")


def _add_head(base: DictConfig, name: str, task: str) -> dict[str, Kind]:
    kinds: dict[str, Kind] = {}
    of_task = values(TASKS[task]())
    for section in ("model", "loss"):
        own = of_task.get(section)
        assert isinstance(own, dict | None)
        _check_name(base, section, name)
        kept = base[section].get(name, {})
        base[section][name] = {**(own or {}), **kept}
        kinds |= {
            f"{section}.{name}.{item.key.removeprefix(f'{section}.')}": item.kind
            for item in options(TASKS[task])
            if item.key.startswith(f"{section}.")
        }
    for place, (kind, default) in _BY_HEAD.items():
        if OmegaConf.select(base, f"{place}.{name}") is None:
            OmegaConf.update(base, f"{place}.{name}", default, force_add=True)
        kinds[f"{place}.{name}"] = kind
    return kinds
