"""Signals that end a command: Ctrl-C, SIGTERM from a scheduler, a closed terminal."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


class Interrupted(BaseException):
    """A signal ends the command.

    Not a KeyboardInterrupt, on which Lightning exits with status 1, and not an Exception, which libraries catch.

    Attributes:
        signum: The signal.
        advice: How to resume; empty, or starting with a separator.
    """

    def __init__(self, signum: int, advice: str = "") -> None:
        super().__init__(signum)
        self.signum = signum
        self.advice = advice

    def __str__(self) -> str:
        return f"interrupted ({signal.Signals(self.signum).name}){self.advice}"


class _State:
    noted = 0
    held = False
    notice = ""
    terminals: tuple[int, ...] = ()


def noted() -> int:
    """The signal received so far, or 0."""
    return _State.noted


def hold(notice: str = "") -> None:
    """From now on only record signals; the caller checks `noted` where it is safe to stop.

    Args:
        notice: Printed when a signal arrives, if stopping takes a while.
    """
    _State.held, _State.notice = True, notice


def release() -> None:
    """From now on a signal raises Interrupted immediately."""
    _State.held = False


@contextmanager
def signals_end() -> Iterator[None]:
    """Let signals raise Interrupted in the main thread; signals ignored before (nohup) stay ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.noted, _State.held = 0, False
    _State.terminals = tuple(number for number in (1, 2) if os.isatty(number))
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _handle)
    try:
        yield
    finally:
        release()
        for number, handler in before.items():
            signal.signal(number, handler)


def _handle(signum: int, frame: FrameType | None) -> None:
    first = not _State.noted
    _State.noted = _State.noted or signum
    if signum not in (signal.SIGINT, signal.SIGTERM):
        _leave_terminal()
    if not first:
        if signum == signal.SIGINT:  # not SIGTERM, which launchers send after the terminal's signal
            os._exit(128 + signum)
        return
    if not _State.held:
        raise Interrupted(signum)
    if _State.notice:
        print(f"{signal.Signals(signum).name}: {_State.notice}", file=sys.stderr, flush=True)


def _leave_terminal() -> None:
    """Redirect output from a closed terminal to nowhere: a write error would end the run before it has saved."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in _State.terminals:
        os.dup2(nowhere, number)
    os.close(nowhere)
