"""`mnv2vision eval`."""

from collections.abc import Sequence

from mnv2vision.cli.command import require
from mnv2vision.cli.folder import with_folder
from mnv2vision.config.compose import load_config
from mnv2vision.config.schema import Eval


def run(arguments: Sequence[str]) -> None:
    """Evaluate a model."""
    config = load_config(Eval, with_folder(arguments, needs_task=False))
    require(config, checkpoint="model.safetensors")
    from mnv2vision.engine.evaluate import evaluate

    evaluate(config)
