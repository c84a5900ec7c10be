"""The worst of many things, kept while they pass by."""

import heapq
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Worst(Generic[T]):
    """Keeps those that cost most; of equal ones the first."""

    def __init__(self, count: int) -> None:
        """Prepare.

        Args:
            count: How many to keep.
        """
        self._count = count
        self._seen = 0
        self._heap: list[tuple[float, int, T]] = []

    def offer(self, cost: float, make: Callable[[], T]) -> None:
        """Keep what `make` gives if it is among the worst so far and costs more than 0."""
        self._seen += 1
        if cost > 0 and (len(self._heap) < self._count or cost > self._heap[0][0]):
            push = heapq.heappush if len(self._heap) < self._count else heapq.heapreplace
            push(self._heap, (cost, -self._seen, make()))

    def items(self) -> list[T]:
        """Those that were kept, the worst first."""
        return [thing for _, _, thing in sorted(self._heap, key=lambda entry: (-entry[0], -entry[1]))]
