"""`run=<folder>`: a run's model, and the data set that it was trained on."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mnv2vision.config.parse import Given
from mnv2vision.errors import ConfigError

log = logging.getLogger(__name__)

LATEST = "latest"
"""The run below `runs/` whose model is the newest."""


def with_run(given: Sequence[Given], groups: Sequence[str]) -> list[Given]:
    """What `run=` stands for, to stand before the user's own words.

    Args:
        given: By the user.
        groups: The command's; without "dataset", a run is a model alone.

    Raises:
        ConfigError: For a folder without a run, or a checkpoint beside it.
    """
    told = {item.key: item.value for item in given}
    if not told.get("run"):
        return list(given)
    if told.get("checkpoint"):
        raise ConfigError(f"run={told['run']} stands for its model: leave out checkpoint={told['checkpoint']}")
    folder = _latest() if told["run"] == LATEST else Path(str(told["run"]))
    model = folder / "model.safetensors"
    if not model.is_file():
        raise ConfigError(f"run={folder}: there is no model.safetensors; give the folder of a run that has ended")
    values: dict[str, object] = {"checkpoint": str(model)}
    names_data = any(key.partition(".")[0] == "dataset" or key.count(".") == 2 for key in told)
    if "dataset" in groups and not names_data:
        values |= _data(read_config(folder), folder)
    log.info("run: %s", " ".join(f"{key}={value}" for key, value in values.items() if key.count(".") != 1))
    return [*(Given(key, value, f"{key}={value}") for key, value in values.items()), *given]


def read_config(folder: Path) -> DictConfig:
    """The configuration of a run; ConfigError if it cannot be read."""
    path = folder / "config.yaml"
    try:
        config = OmegaConf.load(path)
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(config, DictConfig):
        raise ConfigError(f"{path}: is not the configuration of a run")
    return config


def _latest() -> Path:
    models = [path for path in Path("runs").rglob("model.safetensors") if path.with_name("config.yaml").is_file()]
    if not models:
        raise ConfigError(f"run={LATEST}: there is no run with a model below {Path('runs').absolute()}")
    return max(models, key=lambda path: path.stat().st_mtime).parent


def _data(config: DictConfig, folder: Path) -> dict[str, object]:
    """The keys that name a run's data set, or its data sets."""
    parts = {f"data.{name}": part for name, part in config.get("data", {}).items() if isinstance(part, Mapping)}
    if parts:
        return {f"{key}.{name}": value for key, part in parts.items() for name, value in part.items()}
    dataset = {str(key): value for key, value in config.get("dataset", {}).items()}
    name = dataset.pop("name", None)
    if name in (None, "own"):
        raise ConfigError(f"run={folder}: its data set was given in Python; give dataset= for this command")
    root = dataset.get("root")
    if isinstance(root, str) and not Path(root).is_absolute() and not Path(root).exists():
        raise ConfigError(
            f"run={folder}: its data set's root was {root}, which is not there from {Path.cwd()}; give dataset={name}"
            " dataset.root="
        )
    return {"dataset": name, **{f"dataset.{key}": value for key, value in dataset.items()}}
