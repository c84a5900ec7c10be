"""The package's log."""

import functools
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from mnv2vision.common import processes


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to the current sys.stderr, which a progress bar may have replaced."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def show_log() -> None:
    """Print the package's log to stderr in the first process of a run; only errors in the others."""
    handler = _Stderr()
    handler.setFormatter(logging.Formatter("%(message)s"))
    root = logging.getLogger("mnv2vision")
    root.handlers[:] = [handler]
    root.propagate = False
    root.setLevel(logging.INFO if processes.is_first() else logging.ERROR)


@contextmanager
def warnings_of(logger: str, lines: list[str]) -> Iterator[None]:
    """Add what a logger, or one below it, warns of to lines; each is logged once. Not one within another.

    Args:
        logger: Its name.
        lines: What it has warned of before, and is not logged again.
    """
    own = logging.getLogger(logger)

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.WARNING:
                if (line := record.getMessage()) in lines:
                    return
                lines.append(line)
            if propagates and own.parent is not None:
                own.parent.handle(record)

    keeper, propagates = Keeper(), own.propagate
    own.addHandler(keeper)
    own.propagate = False
    try:
        yield
    finally:
        own.propagate = propagates
        own.removeHandler(keeper)


@functools.cache
def warn_once(logger: str, message: str) -> None:
    """Log a warning, once per process."""
    logging.getLogger(logger).warning(message)
