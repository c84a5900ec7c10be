"""`mnv2vision train`."""

from collections.abc import Sequence

from mnv2vision.cli.folder import with_folder
from mnv2vision.config.compose import load_config
from mnv2vision.config.schema import Train


def run(arguments: Sequence[str]) -> None:
    """Train a model."""
    config = load_config(Train, with_folder(arguments))
    from mnv2vision.engine.train import train  # takes seconds to import, which a refusal need not wait for

    train(config)
