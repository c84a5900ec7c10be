"""How far long work is, as lines of the log, which notebooks and batch systems show as well."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")
EVERY = 10.0
"""Seconds between two lines."""


def told(items: Iterable[T], total: int | Callable[[], int], what: str) -> Iterator[T]:
    """The items, with a line now and then: how many there were, how many a second, and the time left.

    Args:
        items: Of the work.
        total: How many there are, or what knows it once the first is there; 0 if nobody does.
        what: They are, in the plural.
    """
    began = last = time.monotonic()
    for count, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last < EVERY:
            continue
        last, rate, most = now, count / (now - began), total if isinstance(total, int) else total()
        if count < most:
            log.info("%d of %d %s, %.1f a second, %s left", count, most, what, rate, duration((most - count) / rate))
        elif not most:
            log.info("%d %s, %.1f a second", count, what, rate)


def duration(seconds: float) -> str:
    """A time in words: "50 s", "12 min", "1 h 20 min".

    Args:
        seconds: It lasts.
    """
    if seconds < 120:
        return f"{round(seconds)} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return " ".join(f"{count} {unit}" for count, unit in ((hours, "h"), (minutes, "min")) if count)
