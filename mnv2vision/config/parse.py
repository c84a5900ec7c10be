"""key=value as it is typed: by Hydra's grammar, but for values that are the user's own text, which are as typed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from hydra.errors import HydraException

from mnv2vision.config.kinds import Kind, Many, OneOf, Text
from mnv2vision.errors import ConfigError


@dataclass(frozen=True)
class Given:
    """A key and a value of the user's.

    Attributes:
        key: With its section.
        value: As Hydra or Python has it.
        line: As typed, for messages.
        added: Whether a plus stands before the key.
    """

    key: str
    value: object
    line: str
    added: bool = False


def parse(arguments: Sequence[str], kinds: Mapping[str, Kind], groups: Sequence[str]) -> list[Given]:
    """Read key=value pairs.

    Args:
        arguments: The pairs.
        kinds: Of the keys that are known.
        groups: Keys whose values are read by Hydra, whatever their kind.

    Raises:
        ConfigError: For what is no pair, removes a key, or is several values.
    """
    parser = OverridesParser.create()
    given = []
    for argument in arguments:
        name, equals, typed = argument.partition("=")
        key, typed = name.lstrip("+"), typed.strip()
        kind = kinds.get(key)
        is_typed = equals and kind is not None and is_text(kind) and key not in groups and not typed.startswith("{")
        try:
            override = parser.parse_override(f"{name}=typed" if is_typed else argument)
        except HydraException as error:
            is_pair = equals and not argument.startswith("-")
            said = (
                f"{' '.join(str(error).split())}; put it in quotes within quotes: '{key}=\"…\"'"
                if is_pair
                else f"{argument!r} is not one"
            )
            raise ConfigError(f"arguments are key=value pairs, such as loader.batch_size=64: {said}") from error
        if override.type is OverrideType.DEL:
            raise ConfigError(f"{argument}: keys cannot be removed; give {override.key_or_group} another value")
        if override.is_sweep_override():
            raise ConfigError(f"{argument}: one value at a time (a list is written [a,b])")
        value = read_typed(kind, typed) if is_typed and kind is not None else override.value()
        added = override.type in (OverrideType.ADD, OverrideType.FORCE_ADD)
        given.append(Given(override.key_or_group, value, argument, added))
    return given


def is_text(kind: Kind | None) -> bool:
    """Whether values of a kind are the user's own text, or lists of it."""
    if isinstance(kind, Many):
        return is_text(kind.each)
    return isinstance(kind, Text) or (isinstance(kind, OneOf) and any(map(is_text, kind.kinds)))


def read_typed(kind: Kind, typed: str) -> str | list[object] | None:
    """The value of a kind of text, as it was typed: null, [a list, of texts], or a text; in quotes or without."""
    if isinstance(kind, OneOf):
        if typed == "null" and kind.null:
            return None
        lists = [option for option in kind.kinds if isinstance(option, Many)]
        kind = lists[0] if lists and _is_list(typed) else kind.kinds[0]
    if isinstance(kind, Many) and _is_list(typed):
        return [read_typed(kind.each, item) for item in _split(typed[1:-1])]
    quoted = len(typed) > 1 and typed[0] == typed[-1] and typed[0] in "'\""
    return typed[1:-1].replace("\\" + typed[0], typed[0]) if quoted else typed


def _is_list(typed: str) -> bool:
    return typed.startswith("[") and typed.endswith("]")


def _split(typed: str) -> Sequence[str]:
    """Items between commas that are not in quotes."""
    items, quote = [""], ""
    for character in typed:
        if character == "," and not quote:
            items.append("")
            continue
        if character in "'\"" and (character == quote or (not quote and not items[-1].strip())):
            quote = "" if quote else character
        items[-1] += character
    return [item.strip() for item in items] if typed.strip() else []
