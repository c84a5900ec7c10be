"""`mnv2vision convert`."""

from collections.abc import Sequence
from typing import Any

from mnv2vision.config.compose import load_config
from mnv2vision.config.options import values
from mnv2vision.config.schema import Convert


def run(arguments: Sequence[str]) -> None:
    """Convert weights, or show what a model file holds."""
    options = values(load_config(Convert, arguments))
    given: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
    from mnv2vision.weights.convert import convert, describe

    if (path := given.pop("info", None)) is not None:
        print(describe(path))
    else:
        convert(**given)
