"""The package's log."""

import functools
import logging
import sys
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


@functools.cache
def warn_once(logger: str, message: str) -> None:
    """Log a warning, once per process."""
    logging.getLogger(logger).warning(message)
