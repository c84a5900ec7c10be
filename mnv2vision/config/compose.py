"""Configurations: the schema's defaults, Hydra's groups and recipes, and values of the user's, checked."""

import copy
import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mnv2vision.config import recipe_file
from mnv2vision.config.commands import COMMANDS, GROUPS, SECTIONS, command_of, command_options
from mnv2vision.config.kinds import Kind, WrongValueError
from mnv2vision.config.named import add_named
from mnv2vision.config.options import build, plain, values
from mnv2vision.config.parse import Given, parse
from mnv2vision.config.run import read_config, with_run
from mnv2vision.config.schema import Train
from mnv2vision.errors import ConfigError

T = TypeVar("T")
AUTO = "auto"
"""The recipe that fits the data set: the shapes' own, or the task's for fine-tuning."""
DEFAULTS = {"task": "classification", "dataset": "shapes", "backbone": "mobilenet_v2"}
OWN = "own"
"""The data set that is given in Python."""


def config_folder() -> Path:
    """Where the recipes are: in the installed package, or at the top of a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def groups(command: str) -> dict[str, list[str]]:
    """The groups a command has, with their choices; a folder among the recipes has a file for each task."""
    choices = {group: sorted(set(names) - {OWN}) for group, names in GROUPS.items()}
    choices["recipe"] = sorted(path.stem for path in (config_folder() / "recipe").iterdir())
    return {group: choices[group] for group in COMMANDS[command].groups}


def kinds(command: str) -> dict[str, Kind]:
    """What each key of a command takes, whatever is chosen of its groups."""
    return {option.key: option.kind for option in command_options(command)}


def load_config(schema: type[T], arguments: Sequence[str]) -> T:
    """Compose a command's configuration.

    Args:
        schema: The command's options, such as `Train`.
        arguments: key=value, as Hydra has them.

    Raises:
        ConfigError: In one line, for whatever is wrong with the arguments.
    """
    command = command_of(schema)
    read_by_hydra = [group for group in COMMANDS[command].groups if group != "recipe"]  # which may be a path
    return _load(schema, parse(arguments, kinds(command), read_by_hydra), groups(command))


def load_values(schema: type[T], given: Mapping[str, object]) -> T:
    """Compose a command's configuration of values given in Python.

    Args:
        schema: The command's options.
        given: Values by key, such as {"optimizer.lr": 0.01}; dataset may be `OWN`.

    Raises:
        ConfigError: See `load_config`.
    """
    choices = groups(command_of(schema))
    if "dataset" in choices:
        choices["dataset"].append(OWN)
    read = [Given(key, _python(value), f"{key}={_shown(_python(value))}") for key, value in given.items()]
    return _load(schema, read, choices)


def _python(value: object) -> object:
    return str(value) if isinstance(value, Path) else plain(value)


def _load(schema: type[T], given: Sequence[Given], choices: Mapping[str, Sequence[str]]) -> T:
    command = command_of(schema)
    if "run" in kinds(command):
        given = with_run(given, list(choices))
    if "recipe" in choices:
        given = _going_on([*_of_recipe_file(given), *given])
    chosen = [item for item in given if item.key in choices]
    others = [item for item in given if item.key not in choices]
    choice = _choose(chosen, choices, others)
    base = _compose(command, choice)
    resumed = _resumed_config(others) if schema is Train else None
    if resumed is not None:
        if changed := [item for item in chosen if item.value != _chosen_of(resumed, item.key)]:
            raise ConfigError(f"{changed[0].line} cannot change a resumed run; start a new one with init_from=")
        base = resumed
    known = kinds(command) | add_named(base, given)
    for item in others:
        _check(item, base, known)
    # Not by Hydra, which would take task= for its group where a command has a plain key of that name.
    for item in others:
        try:
            OmegaConf.update(base, item.key, item.value, merge=True, force_add=True)
        except OmegaConfBaseException as error:
            raise ConfigError(f"{item.line}: {_one_line(error)}") from error
    config = _read_values(_plain(base), known)
    if config.get("init_from") == "none":
        config["init_from"] = None
    return build(schema, config)


# ---- groups ----


def _of_recipe_file(given: Sequence[Given]) -> list[Given]:
    """What a recipe that is given by its path says, to stand before the user's own words."""
    recipe = next((item.value for item in reversed(given) if item.key == "recipe"), None)
    if not recipe_file.is_path(recipe):
        return []
    path, content = str(recipe), recipe_file.read(str(recipe))
    chosen = [
        Given(group, name, f"recipe={path}: {group}={name}")
        for group, name in recipe_file.chosen_groups(content).items()
    ]
    kept = []
    for item in recipe_file.values_in(path, content):
        section, _, name = item.key.partition(".")
        choice = next((str(own.value) for own in reversed(given) if own.key == section), None)
        # Not what it says of its own backbone or data set that the chosen one does not have.
        known = GROUPS[section].get(choice or "") if section in SECTIONS else None
        if known is None or name in values(known()):
            kept.append(item)
    return [*chosen, *kept]


def _choose(
    chosen: Sequence[Given], choices: Mapping[str, Sequence[str]], others: Sequence[Given]
) -> dict[str, str | None]:
    """What is chosen of each group that is given; of repeated choices, the last counts."""
    for item in chosen:
        if item.key == "recipe" and recipe_file.is_path(item.value):
            continue
        options = [*choices[item.key], *([AUTO, "null", "or the path of a .yaml"] if item.key == "recipe" else [])]
        if ("null" if item.value is None else str(item.value)) not in options:
            raise ConfigError(f"{item.key}={_shown(item.value)} is unknown; valid: {', '.join(options)}")
    # Hydra has no word for "none", which recipe=null means.
    choice = {item.key: None if item.value is None else str(item.value) for item in chosen}
    recipe = choice.get("recipe", AUTO)
    if "recipe" in choices:
        if recipe == AUTO:
            recipe = _fitting_recipe(choice, others)
        elif recipe is not None:
            _check_recipe(recipe, choice.get("task"))
        choice["recipe"] = recipe
    return choice


def _fitting_recipe(choice: Mapping[str, str | None], others: Sequence[Given]) -> str | None:
    """The shapes' recipe for the shapes; else the task's for fine-tuning, but not from scratch, nor of a head alone."""
    if any(item.key == "add_to" and item.value for item in others):
        return None
    if choice.get("dataset", "shapes") == "shapes" and not _names_data(others):
        return "shapes"
    if any(item.key == "init_from" and item.value in ("none", None, "") for item in others):
        return None
    task = choice.get("task", DEFAULTS["task"])
    return "finetune" if task == "classification" else f"finetune_{task}"


def _names_data(others: Sequence[Given]) -> bool:
    """Whether data sets are named, as in data.photos.root=."""
    return any(item.key.startswith("data.") and item.key.count(".") == 2 for item in others)


def _check_recipe(recipe: str, task: str | None) -> None:
    """Refuse a recipe together with another task than its own."""
    if task is None or (config_folder() / f"recipe/{recipe}").is_dir():
        return
    own = _overrides(recipe).get("task", task)
    if task != own:
        raise ConfigError(f"recipe={recipe} is for task={own}, not task={task}")


def _overrides(recipe: str) -> dict[str, str]:
    """What a recipe chooses of the groups."""
    path = recipe if recipe_file.is_path(recipe) else str(config_folder() / f"recipe/{recipe}.yaml")
    return recipe_file.chosen_groups(recipe_file.read(path))


def _compose(command: str, choice: Mapping[str, str | None]) -> DictConfig:
    """The schema's defaults, with what the groups and the recipe say."""
    recipe = choice.get("recipe")
    task = choice.get("task", DEFAULTS["task"])
    if recipe_file.is_path(recipe):  # its values come before the user's
        choice = {group: name for group, name in choice.items() if group != "recipe"} | {"recipe": None}
    files = {
        group: f"{name}/{task}" if group == "recipe" and (config_folder() / f"recipe/{name}").is_dir() else name
        for group, name in choice.items()
        if name is not None
    }
    base = copy.deepcopy(_composed(command, tuple(f"{group}={name}" for group, name in files.items())))
    if recipe and "backbone" in choice:
        # What the recipe says of its own backbone that the chosen one does not have.
        own = values(GROUPS["backbone"][str(choice["backbone"])]())
        base["backbone"] = {key: value for key, value in base["backbone"].items() if key in own}
    if "recipe" in choice:
        base["recipe"] = recipe
    return base


@cache  # Hydra takes a tenth of a second, and a search or a notebook asks for the same again and again
def _composed(command: str, chosen: tuple[str, ...]) -> DictConfig:
    """What Hydra makes of the groups that are chosen, by the names of their files."""
    try:
        with _hydra(command), initialize_config_dir(str(config_folder().resolve()), version_base="1.3"):
            base = compose(command, list(chosen))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_one_line(error)) from error
    OmegaConf.set_struct(base, False)
    return base


@contextmanager
def _hydra(command: str) -> Iterator[None]:
    """Hydra with the schema in its store, and as it was before (a program around this one may use it) afterwards."""
    store, hydra = ConfigStore.instance(), GlobalHydra.instance()
    names = COMMANDS[command].groups
    places = [f"{command}.yaml", *names]
    kept, inner = {place: store.repo.pop(place) for place in places if place in store.repo}, hydra.hydra
    hydra.clear()
    order: list[dict[str, str | None]] = [
        {group: None if group in COMMANDS[command].open_groups else DEFAULTS[group]}
        for group in ("task", "backbone", "dataset")
        if group in names
    ]
    order += [{"recipe": None}] if "recipe" in names else []
    for group in names:
        for name, schema in GROUPS.get(group, {}).items():
            package = None if group in SECTIONS else "_global_"
            store.store(name, OmegaConf.create(values(schema())), group, package)
    store.store(command, OmegaConf.create({"defaults": ["_self_", *order], **values(COMMANDS[command].schema())}))
    try:
        yield
    finally:
        for place in places:
            store.repo.pop(place, None)
        store.repo.update(kept)
        hydra.hydra = inner


# ---- values ----


def _read_values(config: Mapping[str, Any], known: Mapping[str, Kind], section: str = "") -> dict[str, Any]:
    """The configuration with each value as its kind has it; ConfigError for one that is not of its key's kind."""
    read: dict[str, Any] = {}
    for name, value in config.items():
        key = section + name
        if isinstance(value, dict):
            read[name] = _read_values(value, known, f"{key}.")
            continue
        kind = known.get(key)  # Lightning's further options have none
        try:
            read[name] = value if kind is None else kind.read(value)
        except WrongValueError as error:
            assert kind is not None
            shown = _shown(value)
            raise ConfigError(f"{key}={shown}: {key} takes {kind.words}, not {shown}") from error
    return read


def _shown(value: object) -> str:
    """A value as it is typed, or the beginning of it."""
    if isinstance(value, list):
        text = f"[{','.join(map(_shown, value))}]"
    elif value is None or isinstance(value, bool):
        text = "null" if value is None else str(value).lower()
    else:
        text = str(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _plain(config: DictConfig) -> dict[str, Any]:
    try:
        resolved = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(_one_line(error)) from error
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def _resumed_config(others: Sequence[Given]) -> DictConfig | None:
    """The configuration of the run whose checkpoint is resumed, with that run's folder; None if it has none."""
    paths = [item.value for item in others if item.key == "resume" and item.value]
    if not paths:
        return None
    run_dir = Path(str(paths[-1])).parent.parent
    if not (run_dir / "config.yaml").is_file():
        return None
    config = read_config(run_dir)
    config["run_dir"] = str(run_dir)
    return config


def _going_on(given: list[Given]) -> list[Given]:
    """What `resume=auto` stands for: the last checkpoint of the run in `run_dir`, or a new run if there is none."""
    told = {item.key: item.value for item in given}
    if told.get("resume") != AUTO:
        return given
    if not told.get("run_dir"):
        raise ConfigError("resume=auto: give run_dir=<folder>, where the run is or will be")
    given, last = [item for item in given if item.key != "resume"], Path(str(told["run_dir"])) / "checkpoints/last.ckpt"
    if not last.is_file():
        return given
    # What the run was to find for itself it has found.
    kept = [item for item in given if item.value != AUTO and item.key != "time"]
    return [*kept, Given("resume", str(last), f"resume={last}")]


def _chosen_of(config: DictConfig, group: str) -> object:
    """The choice of a group in a run's configuration."""
    return config[group]["name"] if group in SECTIONS else config[group]


def _check(item: Given, base: DictConfig, kinds: Mapping[str, Kind]) -> None:
    """Refuse an unknown key, or a value in the place of a section."""
    key = item.key
    parent, _, leaf = key.rpartition(".")
    section = OmegaConf.select(base, parent) if parent else base
    known = isinstance(section, DictConfig) and leaf in section
    if not known:
        if item.added and parent == "trainer":
            return  # Lightning's Trainer has more options than the schema lists; it checks them itself
        if key in kinds and parent in GROUPS and parent not in base:
            names = ", ".join(sorted(set(GROUPS[parent]) - {OWN}))
            raise ConfigError(f"{item.line}: give {parent}= as well (valid: {names})")
        keys = _leaves(OmegaConf.to_container(base))
        nearby = [name for name in keys if name.rpartition(".")[0] == parent] if parent else []
        leaves = [name.rpartition(".")[2] for name in nearby]
        close = [f"{parent}.{name}" for name in difflib.get_close_matches(leaf, leaves, n=1)]
        if not nearby:
            close = difflib.get_close_matches(key, [*map(str, base), *keys], n=1)
        valid = nearby or [str(name) for name in base]
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(f"unknown key {key}{hint} (valid: {', '.join(valid)})")
    assert isinstance(section, DictConfig)
    if leaf == "name" and parent in GROUPS:
        raise ConfigError(f"{item.line}: choose with {parent}=, which changes the other options, too")
    default = section[leaf]
    if isinstance(default, DictConfig):
        if not isinstance(item.value, dict):
            raise ConfigError(f"{item.line}: {key} is a section; set one of {', '.join(map(str, default))}")
        for name, inner in item.value.items():
            _check(replace(item, key=f"{key}.{name}", value=inner), base, kinds)
    elif isinstance(item.value, dict):
        raise ConfigError(f"{item.line}: {key} takes {kinds[key].words if key in kinds else 'no section'}")


def _leaves(config: Any, prefix: str = "") -> list[str]:
    if not isinstance(config, dict) or not config:
        return [prefix]
    return [name for key, value in config.items() for name in _leaves(value, f"{prefix}.{key}" if prefix else str(key))]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
