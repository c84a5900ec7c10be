"""`mnv2vision predict`."""

from collections.abc import Sequence
from typing import Any

from mnv2vision.cli.command import require
from mnv2vision.config.compose import load_config
from mnv2vision.config.options import values
from mnv2vision.config.schema import Predict


def run(arguments: Sequence[str]) -> None:
    """Predict for photos and videos."""
    config = load_config(Predict, arguments)
    require(config, checkpoint="model.safetensors", images="a file, a folder or a pattern")
    from mnv2vision.inference.files import predict_files

    options: dict[str, Any] = values(config)
    options.pop("run")  # checkpoint says it
    predict_files(**options)
