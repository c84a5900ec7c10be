"""Options: a field of a dataclass is a key; its annotation is the kind, and it carries a default and a line of help."""

import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Annotated, TypeVar, Union, get_args, get_origin, get_type_hints

from mnv2vision.config.kinds import Flag, Kind, OneOf, optional
from mnv2vision.errors import ConfigError

T = TypeVar("T")
_MORE = "more"


@dataclass(frozen=True)
class Option:
    """A key of a configuration.

    Attributes:
        key: With its section, such as loader.batch_size.
        kind: What it takes.
        default: Plain data.
        help: A line.
    """

    key: str
    kind: Kind
    default: object
    help: str


def option(default: T, line: str) -> T:
    """A field with a default and a line of help."""
    return field(default=default, metadata={"help": line})


def section(schema: type[T]) -> T:
    """A field with the options of another dataclass."""
    return field(default_factory=schema)


def passed_on() -> Mapping[str, object]:
    """A field for options that a choice of a group brings; named `more`, for those that stand beside the fields."""
    return field(default_factory=dict)


def options(schema: type, section: str = "") -> Iterator[Option]:
    """The options of a dataclass, those of the dataclasses within as `section.name`."""
    hints = get_type_hints(schema, include_extras=True)
    for item in fields(schema):
        key, hint = section + item.name, hints[item.name]
        if isinstance(hint, type) and is_dataclass(hint):
            yield from options(hint, f"{key}.")
        elif item.metadata:
            yield Option(key, kind_of(hint), plain(item.default), item.metadata["help"])


def kind_of(hint: object) -> Kind:
    """The kind that an annotation stands for: `Annotated` carries it, `bool` is a flag, `| None` adds null.

    Raises:
        TypeError: For an annotation without a kind.
    """
    if hint is bool:
        return Flag()
    if get_origin(hint) is Annotated:
        kind: Kind = get_args(hint)[1]
        return kind
    if get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint):
        kinds = [kind_of(item) for item in get_args(hint) if item is not type(None)]
        return OneOf(kinds[0].kinds, null=True) if isinstance(kinds[0], OneOf) else optional(*kinds)
    raise TypeError(f"{hint} says nothing of its range: use an Annotated type")


def build(schema: type[T], given: Mapping[str, object], section: str = "") -> T:
    """A dataclass of options.

    Args:
        schema: The dataclass.
        given: Plain data by name, as kinds have read them; defaults where they lack a name. Names that are unknown go
            to `more`, where the dataclass has it.
        section: Of the keys, for messages.

    Raises:
        ConfigError: For a value in the place of a section.
    """
    hints = get_type_hints(schema)
    known: dict[str, object] = {}
    for name, value in given.items():
        hint = hints.get(name)
        if isinstance(hint, type) and is_dataclass(hint):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{section}{name}={value}: {section}{name} is a section")
            known[name] = build(hint, value, f"{section}{name}.")
        elif hint is not None and name != _MORE:
            known[name] = tuple(value) if isinstance(value, list) else value
    if _MORE in hints:
        known[_MORE] = {name: value for name, value in given.items() if name not in hints or name == _MORE}
    return schema(**known)


def values(settings: object) -> dict[str, object]:
    """The options that a dataclass holds as nested plain data, as `build` takes them."""
    assert is_dataclass(settings)
    found: dict[str, object] = {}
    for item in fields(settings):
        value = getattr(settings, item.name)
        if item.name == _MORE:
            found |= value
        elif item.metadata:
            found[item.name] = plain(value)
        elif is_dataclass(value):
            found[item.name] = values(value)
        elif value:  # a section that the choice has
            found[item.name] = plain(value)
    return found


def plain(value: object) -> object:
    """Plain data, as YAML has them: lists for tuples."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
