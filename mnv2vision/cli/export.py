"""`mnv2vision export`."""

from collections.abc import Sequence

from mnv2vision.cli.command import require
from mnv2vision.config.compose import load_config
from mnv2vision.config.schema import Export


def run(arguments: Sequence[str]) -> None:
    """Export a model."""
    config = load_config(Export, arguments)
    require(config, checkpoint="model.safetensors")
    from mnv2vision.engine.export import export

    export(config)
