"""`mnv2vision check`."""

from collections.abc import Sequence

from mnv2vision.config.compose import load_config
from mnv2vision.config.schema import Check


def run(arguments: Sequence[str]) -> int:
    """Look a data set over; status 1 if something was found."""
    config = load_config(Check, arguments)
    from mnv2vision.engine.check import check

    return 1 if check(config) else 0
