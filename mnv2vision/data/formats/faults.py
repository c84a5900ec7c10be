"""Faults of annotations: the first one that cannot be ends the reading, unless all of them are wanted."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from mnv2vision.errors import DataError


class Fault(NamedTuple):
    """A fault of an annotation.

    Attributes:
        kind: See `mnv2vision.data.check.finding`.
        message: In one line.
        file: The image or annotation file that has it, without its folder or with it.
        box: The object's corners (x1, y1, x2, y2) in shares of the image, where it has any that are numbers.
    """

    kind: str
    message: str
    file: str
    box: tuple[float, ...] | None = None


_wanted: ContextVar[list[Fault] | None] = ContextVar("wanted faults", default=None)


@contextmanager
def collected() -> Iterator[list[Fault]]:
    """Let data sets that are read within, in this thread, collect their faults and leave out what has them."""
    faults: list[Fault] = []
    token = _wanted.set(faults)
    try:
        yield faults
    finally:
        _wanted.reset(token)


def are_wanted() -> bool:
    """Whether faults are collected."""
    return _wanted.get() is not None


def note(fault: Fault) -> None:
    """Collect a fault, where they are wanted."""
    faults = _wanted.get()
    if faults is not None:
        faults.append(fault)


def refuse(kind: str, error: DataError, file: str) -> None:
    """Collect an error where faults are wanted, after which the caller leaves out what has it; else raise it."""
    if not are_wanted():
        raise error
    note(Fault(kind, str(error), file))
