"""`mnv2vision average`."""

from collections.abc import Sequence

from mnv2vision.cli.command import require
from mnv2vision.config.compose import load_config
from mnv2vision.config.schema import Average


def run(arguments: Sequence[str]) -> None:
    """Average models."""
    config = load_config(Average, arguments)
    require(config, models="a run's folder, or a list of model files")
    from mnv2vision.engine.average import average

    average(config)
