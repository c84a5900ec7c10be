"""Configurations: Hydra's groups, with unknown keys and values of the wrong type refused in one line."""

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mnv2vision.errors import ConfigError

AUTO = "auto"
"""The recipe that fits the data set; there is one for the built-in shapes."""
DEFAULT_TASK = "classification"

_KEY = re.compile(r"( *)(\w+):")


def config_folder() -> Path:
    """Where the configurations are: in the installed package, or at the top of a checkout."""
    package = Path(__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def groups(command: str) -> dict[str, list[str]]:
    """The groups a command's configuration has, with their choices; a folder among them has a file for each task."""
    text = (config_folder() / f"{command}.yaml").read_text()
    return {
        folder.name: sorted(path.stem for path in folder.iterdir())
        for folder in sorted(config_folder().iterdir())
        if folder.is_dir() and f"- {folder.name}:" in text
    }


def with_keys(text: str) -> Iterator[tuple[str, str]]:
    """The lines of a YAML text, each with its full key, such as loader.batch_size; none for a line without one."""
    parents: list[tuple[int, str]] = []
    for line in text.splitlines():
        key = ""
        if found := _KEY.match(line):
            indent = len(found[1])
            parents = [(depth, name) for depth, name in parents if depth < indent] + [(indent, found[2])]
            key = ".".join(name for _, name in parents)
        yield key, line


def comments(command: str, config: Mapping[str, Any]) -> dict[str, str]:
    """What the files that a configuration is composed of say behind its options, by full key."""
    told: dict[str, str] = {}
    folder = config_folder()
    paths = [folder / f"{command}.yaml"]
    for group in ("task", "dataset", "backbone", "trainer"):
        chosen = config.get(group)
        if chosen is not None:
            name = chosen.get("name", "default") if isinstance(chosen, dict) else chosen
            paths.append(folder / group / f"{name}.yaml")
    for path in paths:
        text = path.read_text()
        section = "" if path.parent == folder or "@package _global_" in text else f"{path.parent.name}."
        for key, line in with_keys(text):
            if key and "  #" in line:
                told[section + key] = line.partition("  #")[2].strip()
    return told


def load_config(command: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Compose a command's configuration.

    Args:
        command: "train", "eval", "predict" or "convert".
        arguments: key=value, as Hydra has them.

    Returns:
        Plain data.

    Raises:
        ConfigError: In one line, for whatever is wrong with the arguments.
    """
    try:
        overrides = OverridesParser.create().parse_overrides(list(arguments))
    except HydraException as error:
        bad = next((item for item in arguments if "=" not in item or item.startswith("-")), None)
        said = f"{bad} is none" if bad is not None else _one_line(error)
        raise ConfigError(f"arguments are key=value pairs, such as loader.batch_size=64: {said}") from error
    choices = groups(command)
    chosen = [item for item in overrides if item.key_or_group in choices]
    values = [item for item in overrides if item.key_or_group not in choices]
    for item in chosen:
        options = [*choices[item.key_or_group], *([AUTO, "null"] if item.key_or_group == "recipe" else [])]
        if str(item.value()).replace("None", "null") not in options:
            raise ConfigError(f"{item.key_or_group}={item.value()} is unknown; valid: {', '.join(options)}")
    _check_recipe(chosen)
    # Of repeated choices the last counts; Hydra has no word for "none", which recipe=null means.
    choice = {item.key_or_group: item.value() for item in chosen}
    if "recipe" in choices and choice.setdefault("recipe", AUTO) == AUTO:
        choice["recipe"] = "shapes" if choice.get("dataset", "shapes") == "shapes" else None
    files = {
        group: f"{name}/{choice.get('task', DEFAULT_TASK)}" if (config_folder() / group / str(name)).is_dir() else name
        for group, name in choice.items()
        if name is not None
    }
    base = _compose(command, [f"{group}={name}" for group, name in files.items()])
    if choice.get("recipe") and "backbone" in choice:
        # What the recipe says of its own backbone that the chosen one does not have.
        own = OmegaConf.load(config_folder() / f"backbone/{choice['backbone']}.yaml")
        base["backbone"] = {key: value for key, value in base["backbone"].items() if key in own}
    if "recipe" in choice:
        OmegaConf.update(base, "recipe", choice["recipe"], force_add=True)
    resumed = _resumed_config(values) if command == "train" else None
    if resumed is not None:
        if chosen:
            raise ConfigError(f"{chosen[0].input_line} cannot change a resumed run; start a new one with init_from=")
        base = resumed
    for item in values:
        if item.type is OverrideType.DEL:
            raise ConfigError(f"{item.input_line}: keys cannot be removed; give {item.key_or_group} another value")
        if item.is_sweep_override():
            raise ConfigError(f"{item.input_line}: one value at a time (a list is written [a,b])")
        _check(item.key_or_group, _value(item), item, base)
    # Not by Hydra, which would take task= for its group where a command has a plain key of that name.
    for item in values:
        OmegaConf.update(base, item.key_or_group, _value(item), merge=True, force_add=True)
    return _plain(base)


def _check_recipe(chosen: Sequence[Override]) -> None:
    """Refuse a recipe together with another task than its own."""
    values = {item.key_or_group: item.value() for item in chosen}
    if values.get("recipe", AUTO) in (None, AUTO) or "task" not in values:
        return
    if (config_folder() / f"recipe/{values['recipe']}").is_dir():
        return
    recipe: Any = OmegaConf.load(config_folder() / f"recipe/{values['recipe']}.yaml")
    own = [item["override /task"] for item in recipe.get("defaults", []) if "override /task" in item]
    if own and values["task"] != own[0]:
        raise ConfigError(f"recipe={values['recipe']} is for task={own[0]}, not task={values['task']}")


def _compose(command: str, overrides: Sequence[str]) -> DictConfig:
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_folder().resolve()), version_base="1.3"):
            return compose(command, list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_one_line(error)) from error


def _plain(config: DictConfig) -> dict[str, Any]:
    try:
        plain = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(_one_line(error)) from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _resumed_config(values: Sequence[Override]) -> DictConfig | None:
    """The configuration of the run whose checkpoint is resumed, with that run's folder; None if it has none."""
    paths = [item.value() for item in values if item.key_or_group == "resume" and item.value()]
    if not paths:
        return None
    run_dir = Path(str(paths[-1])).parent.parent
    if not (run_dir / "config.yaml").is_file():
        return None
    config = OmegaConf.load(run_dir / "config.yaml")
    assert isinstance(config, DictConfig)
    config["run_dir"] = str(run_dir)
    return config


def _value(item: Override) -> Any:
    """The value; a path or name that looks like a number or a truth value is the text that was typed."""
    value = item.value()
    if isinstance(_EXAMPLES.get(item.key_or_group), str) and isinstance(value, bool | int | float):
        return str(item.input_line).partition("=")[2].strip()
    return value


def _check(key: str, value: Any, item: Override, base: DictConfig) -> None:
    """Refuse an unknown key, or a value that is not of its default's type."""
    parent, _, leaf = key.rpartition(".")
    section = OmegaConf.select(base, parent) if parent else base
    known = isinstance(section, DictConfig) and leaf in section
    if not known:
        if item.type in (OverrideType.ADD, OverrideType.FORCE_ADD) and parent == "trainer":
            return  # Lightning's Trainer has more options than the configuration lists; it checks them itself
        keys = _leaves(OmegaConf.to_container(base))
        nearby = [name for name in keys if name.rpartition(".")[0] == parent] if parent else []
        leaves = [name.rpartition(".")[2] for name in nearby]
        close = [f"{parent}.{name}" for name in difflib.get_close_matches(leaf, leaves, n=1)]
        if not nearby:
            close = difflib.get_close_matches(key, keys, n=1)
        valid = nearby or [str(name) for name in base]
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(f"unknown key {key}{hint} (valid: {', '.join(valid)})")
    assert isinstance(section, DictConfig)
    default = section[leaf]
    if isinstance(default, DictConfig):
        if not isinstance(value, dict):
            raise ConfigError(f"{item.input_line}: {key} is a section; set one of {', '.join(map(str, default))}")
        for name, inner in value.items():
            _check(f"{key}.{name}", inner, item, base)
        return
    if parent == "trainer":  # a recipe's own value, such as devices: 1, does not say what else is possible
        default = OmegaConf.select(OmegaConf.load(config_folder() / "trainer/default.yaml"), leaf, default=default)
    plain = OmegaConf.to_container(default) if OmegaConf.is_config(default) else default
    example = _EXAMPLES.get(key, plain)
    optional = key in _EXAMPLES or plain is None or parent == "trainer"
    if example is None or (optional and value is None):
        return
    if not _same_kind(example, value, lists=parent == "trainer"):
        raise ConfigError(
            f"{item.input_line}: {key} takes {_KINDS[type(example)]}, such as {json.dumps(example)}, not {value!r}"
        )


# What the keys that are null by default take.
_EXAMPLES: dict[str, Any] = {
    "backbone.activation": "relu6",
    "backbone.depth": 1.2,
    "backbone.divisor": 8,
    "backbone.expansion": 6,
    "backbone.fixed_ends": True,
    "backbone.fixed_stem": True,
    "backbone.initialization": "tf",
    "backbone.linear_bottleneck": True,
    "backbone.minimalistic": True,
    "backbone.norm_eps": 0.001,
    "backbone.norm_momentum": 0.1,
    "backbone.output_stride": 16,
    "backbone.padding": "tf",
    "backbone.shortcut": "none",
    "backbone.variant": "paddle",
    "backbone.width": 0.5,
    "augmentation.image_size": 176,
    "checkpoint": "model.safetensors",
    "checkpoint.every_n_steps": 1000,
    "dataset.classes": ["cat", "dog"],
    "dataset.colors": [[0, 0, 0], [128, 0, 0]],
    "dataset.root": "/data/imagenet",
    "dataset.sbd": "/data/benchmark_RELEASE/dataset",
    "dataset.train_split": "2007/trainval+2012/trainval",
    "dataset.val_split": "val",
    "dataset.year": 2012,
    "debug": "batch",
    "device": "cpu",
    "early_stopping.patience": 5,
    "init_from": "imagenet.safetensors",
    "head_activation": "relu6",
    "image_size": 300,
    "info": "model.safetensors",
    "input": "weights.safetensors",
    "keep_background": True,
    "keep_gaps": True,
    "loader.workers": 2,
    "loss.class_weights": [1.0, 2.0],
    "max_detections": 300,
    "model.atrous_rates": [6, 12, 18],
    "model.dropout": 0.2,
    "model.head": "ssdlite",
    "model.head_activation": "relu",
    "model.head_channels": 256,
    "model.head_norm_eps": 1e-5,
    "model.max_detections": 300,
    "model.nms_iou": 0.6,
    "model.num_classes": 10,
    "model.output_stride": 8,
    "model.reduce_lowest": True,
    "model.scores": "sigmoid",
    "name": "timm/mobilenetv2_140-ra_in1k",
    "names": ["person"],
    "optimizer.eps": 1e-8,
    "optimizer.reference_batch": 256,
    "output_stride": 8,
    "padding": "tf",
    "preprocessing.antialias": True,
    "preprocessing.crop_fraction": 0.875,
    "preprocessing.interpolation": "bicubic",
    "preprocessing.mean": [0.5, 0.5, 0.5],
    "preprocessing.padding_value": 128,
    "preprocessing.resize": "stretch",
    "preprocessing.std": [0.5, 0.5, 0.5],
    "resume": "runs/mine/checkpoints/last.ckpt",
    "run_dir": "runs/mine",
    "source": "tensorflow",
    "task": "detection",
    "to": "timm",
}

_KINDS: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a word",
    list: "a list",
    dict: "a section",
}


def _same_kind(default: object, value: object, *, lists: bool) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, int | float)
    # A word may look like a number: trainer.devices=2 beside "auto", trainer.precision=32.
    if isinstance(default, str):
        return lists or not isinstance(value, list | dict | None)
    return isinstance(value, type(default))


def _leaves(config: Any, prefix: str = "") -> list[str]:
    if not isinstance(config, dict) or not config:
        return [prefix]
    return [name for key, value in config.items() for name in _leaves(value, f"{prefix}.{key}" if prefix else str(key))]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
