"""Errors that a user can fix. The command line prints one line, without a traceback, and exits with status 2."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence


class Mnv2visionError(Exception):
    """Base class: the message names the value, file or image, and what would be valid."""


class ConfigError(Mnv2visionError, ValueError):
    """An invalid configuration key or value."""


class DataError(Mnv2visionError, ValueError):
    """An unusable data set, annotation file or image."""


class WeightsError(Mnv2visionError, ValueError):
    """A weights file that is corrupt, not a model file, or does not fit the model."""


class ExportError(Mnv2visionError, ValueError):
    """An exported file that does not do what its model does, or loses more than is allowed."""


class SystemFault(Mnv2visionError):  # noqa: N818  # the machine's fault, not the program's error
    """A system failure: a full disk, a killed process."""


def check_keywords(function: Callable[..., object], options: Mapping[str, object], what: str) -> None:
    """Raise ConfigError, listing the valid ones, for options that are not keywords of `function`."""
    check_names(keyword_names(function), options, what)


def check_names(valid: Sequence[str], options: Iterable[str], what: str) -> None:
    """Raise ConfigError, listing the valid names, for an unknown name."""
    for key in options:
        if key not in valid:
            close = difflib.get_close_matches(key, valid, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ConfigError(f"unknown {what}: {key}{hint} (valid: {', '.join(valid)})")


def keyword_names(function: Callable[..., object]) -> list[str]:
    """Names of the keyword-only parameters of `function`."""
    parameters = inspect.signature(function).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
