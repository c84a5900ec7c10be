"""How far long work is, as lines of the log, which notebooks and batch systems show as well."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")
_EVERY = 10.0
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
        if now - last < _EVERY:
            continue
        last, rate, most = now, count / (now - began), total if isinstance(total, int) else total()
        if count < most:
            log.info("%d of %d %s, %.1f a second, %s left", count, most, what, rate, _duration((most - count) / rate))
        elif not most:
            log.info("%d %s, %.1f a second", count, what, rate)


def _duration(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole} s" if whole < 120 else f"{whole // 60} min" if whole < 7200 else f"{whole / 3600:.1f} h"
