"""What a search tries: keys of a training run, each with a range or a list of values."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mnv2vision.config.commands import SECTIONS
from mnv2vision.config.compose import load_config
from mnv2vision.config.options import values
from mnv2vision.config.schema import Train
from mnv2vision.errors import ConfigError

_ENTRY = re.compile(r"\s*([^=,()\s]+)=(\w+)\(([^()]*)\)\s*(,|$)")
_RANGES = ("log", "uniform", "int")
_FORMS = "'key=log(a,b)', 'key=uniform(a,b)', 'key=int(a,b)' or 'key=choice(a,b,…)'"
_FIXED = ("task", "run_dir", "resume", "debug")
"""Keys that are the same in all trials: they say what is searched for, and where it lies."""


@dataclass(frozen=True)
class Dimension:
    """A key that is searched.

    Attributes:
        key: Of a training run, with its section.
        kind: "log" and "uniform": numbers between two limits, evenly in their logarithm or in themselves; "int": whole
            numbers, both limits included; "choice": one of some values.
        limits: The least and the greatest number; none of a choice.
        choices: As typed; none of a range.
    """

    key: str
    kind: str
    limits: tuple[float, float] = (0.0, 0.0)
    choices: tuple[str, ...] = ()

    @property
    def ends(self) -> tuple[float | str, ...]:
        """The values that tell whether all are possible: the limits, or every choice."""
        return self.choices or self.limits

    def typed(self, value: float | str) -> str:
        """A value as an argument of `train`."""
        number = int(value) if self.kind == "int" else value
        return f"{self.key}={number if self.choices else repr(number)}"


def parse_space(entries: Sequence[str]) -> list[Dimension]:
    """Read `tune.space`.

    Args:
        entries: Such as "optimizer.lr=log(1e-4,1e-1)"; what a list's commas have cut apart is put together again.

    Raises:
        ConfigError: In one line, for an entry that is none, or a key that is given twice.
    """
    text, place, space = ",".join(entries), 0, list[Dimension]()
    if not text.strip():
        raise ConfigError(f"tune.space=<what to search> is required: {_FORMS}, or a list of them")
    while place < len(text):
        found = _ENTRY.match(text, place)
        if found is None:
            raise ConfigError(f"tune.space: {text[place:].strip()!r} is none of {_FORMS}")
        place = found.end()
        space.append(_dimension(*found.groups()[:3]))
    keys = [dimension.key for dimension in space]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise ConfigError(f"tune.space: {twice[0]} is given twice")
    if fixed := [key for key in keys if key in _FIXED or key.partition(".")[0] == "tune"]:
        raise ConfigError(f"tune.space: {fixed[0]} is the same in all trials")
    return space


def _dimension(key: str, kind: str, inside: str) -> Dimension:
    line = f"tune.space: {key}={kind}({inside})"
    items = tuple(item.strip() for item in inside.split(","))
    if kind == "choice":
        if len(items) < 2 or "" in items or len(set(items)) < len(items):
            raise ConfigError(f"{line}: choice takes two values or more, all different")
        return Dimension(key, kind, choices=items)
    if kind not in _RANGES:
        raise ConfigError(f"{line}: {kind} is unknown; valid: {', '.join(_RANGES)}, choice")
    what = f"{kind} takes two {'whole ' * (kind == 'int')}numbers{' above 0' * (kind == 'log')}, the lower one first"
    try:
        low, high = (int(item) if kind == "int" else float(item) for item in items)
    except ValueError as error:
        raise ConfigError(f"{line}: {what}") from error
    if not (low < high < float("inf")) or (kind == "log" and low <= 0) or low == float("-inf"):
        raise ConfigError(f"{line}: {what}")
    return Dimension(key, kind, (low, high))


def check_space(space: Sequence[Dimension], arguments: Sequence[str]) -> dict[str, float | str]:
    """Compose a run with each end of the space, before anything starts.

    Args:
        space: To search.
        arguments: Of all trials, as `train` takes them.

    Returns:
        The values that the arguments and their recipe have by themselves, of the keys where the space has them.

    Raises:
        ConfigError: For arguments or ends of the space that `train` refuses.
    """
    plain, own = load_config(Train, arguments), dict[str, float | str]()
    for dimension in space:
        now = _value(values(plain), dimension.key)
        for end in dimension.ends:
            try:
                config = load_config(Train, [*arguments, dimension.typed(end)])
            except ConfigError as error:
                raise ConfigError(f"tune.space: {error}") from error
            if dimension.choices and _value(values(config), dimension.key) == now:
                own[dimension.key] = end
        low, high = dimension.limits
        if not dimension.choices and isinstance(now, int | float) and low <= now <= high:
            own[dimension.key] = now
    return own


def _value(config: Mapping[str, object], key: str) -> object:
    found: object = config
    for name in [*key.split("."), *(["name"] if key in SECTIONS else [])]:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found
