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
    """Add what a logger, or one below it, warns of to lines, each once."""

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if (line := record.getMessage()) not in lines:
                lines.append(line)

    keeper = Keeper(logging.WARNING)
    logging.getLogger(logger).addHandler(keeper)
    try:
        yield
    finally:
        logging.getLogger(logger).removeHandler(keeper)


@functools.cache
def warn_once(logger: str, message: str) -> None:
    """Log a warning, once per process."""
    logging.getLogger(logger).warning(message)
