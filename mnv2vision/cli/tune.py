"""`mnv2vision tune`."""

import importlib.util
from collections.abc import Sequence

from mnv2vision.cli.folder import with_folder
from mnv2vision.config.compose import load_config
from mnv2vision.config.schema import Tune
from mnv2vision.errors import ConfigError


def run(arguments: Sequence[str]) -> None:
    """Search for hyper-parameters."""
    own = [item for item in arguments if item.partition("=")[0].partition(".")[0] in ("tune", "run_dir", "resume")]
    load_config(Tune, own)
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError("tune needs Optuna: pip install 'mnv2vision[tune]'")
    from mnv2vision.engine.tune import tune

    tune(own, with_folder([item for item in arguments if item not in own]))
