"""Lists of names in messages."""

from collections.abc import Sequence


def few(items: Sequence[str], limit: int = 5) -> str:
    """The first names of a list and the number of others, for a message."""
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more
