"""What a key of a configuration can take: kinds of values, with their ranges, and how they are read."""

import math
import re
from dataclasses import dataclass
from typing import Protocol


class WrongValueError(ValueError):
    """A value that is not of a kind."""


class Kind(Protocol):
    """A kind of values."""

    @property
    def words(self) -> str:
        """What such values are, behind "takes"."""
        ...

    def read(self, value: object) -> object:
        """The value as programs take it, such as a float for a whole number; WrongValueError if it is none."""
        ...


@dataclass(frozen=True)
class Number:
    """A finite number, both limits included unless it is to be `above` or `below`."""

    least: float = -math.inf
    most: float = math.inf
    above: float | None = None
    below: float | None = None
    whole: bool = False

    @property
    def words(self) -> str:
        """See `Kind`."""
        if self.least == self.most:
            return f"{self.least:.12g}"
        limits = []
        if math.isfinite(self.least) and math.isfinite(self.most):
            limits.append(f"in {self.least:.12g}..{self.most:.12g}")
        elif math.isfinite(self.least):
            limits.append(f"of {self.least:.12g} or more")
        elif math.isfinite(self.most):
            limits.append(f"of {self.most:.12g} or less")
        limits += [f"above {self.above:.12g}"] if self.above is not None else []
        limits += [f"below {self.below:.12g}"] if self.below is not None else []
        return " ".join(["a whole number" if self.whole else "a number", " and ".join(limits)]).strip()

    def read(self, value: object) -> object:
        """See `Kind`."""
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            raise WrongValueError
        inside = math.isfinite(value) and self.least <= value <= self.most
        if not inside or (self.above is not None and value <= self.above):
            raise WrongValueError
        if self.below is not None and value >= self.below:
            raise WrongValueError
        return value if self.whole else float(value)


def whole(least: float = -math.inf, most: float = math.inf) -> Number:
    """A whole number within limits."""
    return Number(least, most, whole=True)


@dataclass(frozen=True)
class Duration:
    """A time, read as seconds."""

    words: str = "a time above 0, such as 90s, 10m or 1h30m"

    def read(self, value: object) -> object:
        """See `Kind`."""
        if isinstance(value, str) and value:
            parts = re.fullmatch(r"(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s)?", value)
            if parts is None:
                raise WrongValueError
            try:
                value = sum(float(part or 0) * unit for part, unit in zip(parts.groups(), (3600, 60, 1), strict=True))
            except ValueError as error:
                raise WrongValueError from error
        return Number(most=1e9, above=0).read(value)


@dataclass(frozen=True)
class Flag:
    """True or false."""

    words: str = "true or false"

    def read(self, value: object) -> object:
        """See `Kind`."""
        if not isinstance(value, bool):
            raise WrongValueError
        return value


@dataclass(frozen=True)
class Word:
    """A name among some that are known where it is used; by `choices` where that is a library's business."""

    choices: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """See `Kind`."""
        return ", ".join(self.choices) if self.choices else "a word"

    def read(self, value: object) -> object:
        """See `Kind`."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)  # such as 32
        if not isinstance(value, str) or (self.choices and value not in self.choices):
            raise WrongValueError
        return value


@dataclass(frozen=True)
class Text:
    """A path or a name of the user's, taken as it is typed."""

    words: str = "a path or name"

    def read(self, value: object) -> object:
        """See `Kind`."""
        if not isinstance(value, str) or "\0" in value:
            raise WrongValueError
        return value


@dataclass(frozen=True)
class Many:
    """A list of so many values of a kind."""

    each: Kind
    least: int = 0
    most: int | None = None
    alone: bool = False  # whether one value may be given without brackets

    @property
    def words(self) -> str:
        """See `Kind`."""
        count = f" of {self.least} values" if self.most is not None else ", at least one" if self.least else ""
        return f"a list{count}, each {self.each.words}"

    def read(self, value: object) -> object:
        """See `Kind`."""
        if self.alone and isinstance(value, str):
            value = [value]
        if not isinstance(value, list | tuple) or len(value) < self.least:
            raise WrongValueError
        if self.most is not None and len(value) > self.most:
            raise WrongValueError
        return [self.each.read(item) for item in value]


@dataclass(frozen=True)
class OneOf:
    """Of the first kind that fits; or null, where there is none of a kind."""

    kinds: tuple[Kind, ...]
    null: bool = False

    @property
    def words(self) -> str:
        """See `Kind`."""
        return " or ".join(kind.words for kind in self.kinds) + (", or null" if self.null else "")

    def read(self, value: object) -> object:
        """See `Kind`."""
        if value is None and self.null:
            return None
        for kind in self.kinds:
            try:
                return kind.read(value)
            except WrongValueError:
                continue
        raise WrongValueError


def optional(*kinds: Kind) -> OneOf:
    """One of some kinds, or null."""
    return OneOf(kinds, null=True)
