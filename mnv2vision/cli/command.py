"""How commands begin and end: what they need, their exit status, and the one line for whatever ends them early."""

import os
import sys
import traceback
from collections.abc import Callable

from mnv2vision.common import faults, processes
from mnv2vision.common.interruption import Interrupted, signals_end
from mnv2vision.errors import ConfigError, Mnv2visionError


def require(config: object, **wanted: str) -> None:
    """Raise ConfigError where a key has no value; before imports that take seconds.

    Args:
        config: Of the command.
        **wanted: Keys, and what they take.
    """
    for key, what in wanted.items():
        if getattr(config, key) is None:
            raise ConfigError(f"{key}=<{what}> is required; see --help")


def run_command(function: Callable[[], int | None]) -> int:
    """Run a command to its end or to one line.

    Args:
        function: The command; what it returns is the status.

    Returns:
        Exit status: the command's own, or 0; 2 after one line about the configuration, the files, the data or the
        machine; 128 and the signal's number (130 for Ctrl-C, 143 for SIGTERM) after one that ended it, or where nobody
        reads what is printed any more (141, `| head`).
    """
    processes.watch_parent()
    with signals_end():
        try:
            status = function()
            sys.stdout.flush()
        except Mnv2visionError as error:
            return _failed(str(error), error)
        except Interrupted as interruption:
            if processes.is_first():
                print(interruption, file=sys.stderr)
            return 128 + interruption.signum
        except ModuleNotFoundError as error:  # of an installation for prediction alone
            if error.name is None or error.name.partition(".")[0] == "mnv2vision":
                raise
            return _failed(f"this command needs {error.name}, which is not installed: pip install mnv2vision", error)
        except Exception as error:
            line = processes.ended_by_another(error)
            if line is None and isinstance(error, BrokenPipeError) and error.filename is None:
                return _unread()
            if line is None:
                line = faults.one_line(error)
            if line is None:
                raise
            return _failed(line, error)
    return status or 0


def _unread() -> int:
    """End as other programs do; discard the rest of the output, which Python would still try to write at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + 13


def _failed(line: str, error: BaseException) -> int:
    if line:
        print(f"error: {line}", file=sys.stderr)
    # Let go of what the command held: a data loader whose readers could not start complains when it is deleted.
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        cause: BaseException | None = error
        while cause is not None:
            traceback.clear_frames(cause.__traceback__)
            cause = cause.__context__
    finally:
        sys.unraisablehook = hook
    return 2
