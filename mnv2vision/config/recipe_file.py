"""Recipes of the user's own: a file of the same form as those below `configs/recipe/`, given by its path."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mnv2vision.config.parse import Given
from mnv2vision.errors import ConfigError

_PACKAGE = "override /"


def is_path(recipe: object) -> bool:
    """Whether `recipe=` names a file, not one of the package's recipes."""
    return isinstance(recipe, str) and recipe.endswith((".yaml", ".yml"))


def chosen_groups(content: Mapping[str, object]) -> dict[str, str]:
    """What a recipe chooses of the groups, such as {"task": "detection"}."""
    defaults = content.get("defaults") or []
    assert isinstance(defaults, list)
    return {group.removeprefix(_PACKAGE): name for item in defaults for group, name in item.items()}


def read(path: str) -> dict[str, object]:
    """The content of a recipe's file; ConfigError, in one line, for what is none."""
    if not Path(path).is_file():
        raise ConfigError(f"recipe={path}: no such file")
    try:
        loaded = OmegaConf.load(path)
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"recipe={path}: cannot be read ({' '.join(str(error).split())})") from error
    content = OmegaConf.to_container(loaded) if isinstance(loaded, DictConfig) else None
    defaults = content.get("defaults") or [] if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(defaults, list):
        raise ConfigError(f"recipe={path}: is not a recipe: keys with values, and `defaults`, a list of choices")
    for item in defaults:
        name = next(iter(item), None) if isinstance(item, dict) else item
        if not isinstance(name, str) or not isinstance(item, dict) or not name.startswith(_PACKAGE):
            raise ConfigError(f"recipe={path}: defaults has {item}, but takes choices such as `{_PACKAGE}dataset: voc`")
    return {str(key): value for key, value in content.items()}


def values_in(path: str, content: Mapping[str, object]) -> Iterator[Given]:
    """The values of a recipe's file, as if they were typed."""
    yield from _values(path, {key: value for key, value in content.items() if key != "defaults"}, "")


def _values(path: str, section: Mapping[str, object], prefix: str) -> Iterator[Given]:
    for name, value in section.items():
        if isinstance(value, dict):
            yield from _values(path, value, f"{prefix}{name}.")
        else:  # `added`: Lightning's Trainer has more options than the schema lists
            yield Given(f"{prefix}{name}", value, f"recipe={path}: {prefix}{name}={value}", added=True)
