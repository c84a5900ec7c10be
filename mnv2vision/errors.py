"""Errors a user can mend. The command line prints their one line and exits with status 2, without a traceback."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence


class Mnv2visionError(Exception):
    """Base of every error that names a value, file or image of the user's and says what would be right."""


class ConfigError(Mnv2visionError, ValueError):
    """A configuration key or value that cannot work."""


class DataError(Mnv2visionError, ValueError):
    """A data set, annotation file or image that cannot be used."""


class WeightsError(Mnv2visionError, ValueError):
    """A weights file that is corrupt, foreign, or does not fit the model."""


def check_keywords(function: Callable[..., object], options: Mapping[str, object], what: str) -> None:
    """Raise ConfigError, with the list of valid ones, for options that `function` does not take by keyword."""
    check_names(keyword_names(function), options, what)


def check_names(valid: Sequence[str], options: Iterable[str], what: str) -> None:
    """Raise ConfigError, with the list of valid ones, for a name that is not among them."""
    for key in options:
        if key not in valid:
            close = difflib.get_close_matches(key, valid, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ConfigError(f"unknown {what}: {key}{hint} (valid: {', '.join(valid)})")


def keyword_names(function: Callable[..., object]) -> list[str]:
    """Names of the parameters that `function` takes by keyword only."""
    parameters = inspect.signature(function).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
