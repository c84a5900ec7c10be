"""What is typed, or given in Python, is what the settings hold."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mnv2vision.config.commands import COMMANDS
from mnv2vision.config.compose import load_config, load_values
from mnv2vision.config.options import build, values
from mnv2vision.config.schema import Eval, Train
from mnv2vision.errors import ConfigError


def plain(command: str, arguments: Sequence[str]) -> dict[str, Any]:
    return values(load_config(COMMANDS[command].schema, arguments))


def test_values_of_python_are_those_of_the_command_line() -> None:
    typed = ["task=detection", "backbone=mobilenet_v1", "optimizer.lr=1", "model.image_size=[96,128]", "run_dir=a b"]
    python = {"optimizer.lr": 1, "model.image_size": (96, 128), "run_dir": Path("a b")}
    given = load_values(Train, {"task": "detection", "backbone": "mobilenet_v1", **python})
    assert given == load_config(Train, typed)
    for key, value, message in (
        ("optimizer.lrr", 1, "unknown key optimizer.lrr; did you mean optimizer.lr?"),
        ("optimizer.lr", "high", "optimizer.lr=high: optimizer.lr takes a number of 0 or more or auto, not high"),
        ("dataset", "cifar", "dataset=cifar is unknown; valid: "),
    ):
        with pytest.raises(ConfigError, match=re.escape(message)):
            load_values(Train, {key: value})


def test_settings_hold_what_was_given() -> None:
    arguments = ["task=detection", "trainer.devices=[0,1]", "+trainer.profiler=simple", "model.head=ssd"]
    config = load_config(Train, arguments)
    assert (config.trainer.devices, config.trainer.more) == ((0, 1), {"profiler": "simple"})
    assert config.model.more["head"] == "ssd"
    assert config.loss == config.inference == {}  # detection has no such sections
    written = values(config)
    assert written.keys() & {"loss", "inference"} == set()
    assert written["trainer"]["devices"] == [0, 1]  # type: ignore[index]
    assert build(Train, written) == config
    with pytest.raises(ConfigError, match=r"^loader=3: loader is a section$"):  # a run's file that was edited
        build(Train, {**written, "loader": 3})


def test_evaluation_has_no_keys_of_training() -> None:
    for key in ("max_epochs", "accumulate_grad_batches", "sync_batchnorm"):
        with pytest.raises(ConfigError, match=rf"^unknown key trainer\.{key}"):
            load_config(Eval, [f"trainer.{key}=1"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [
        "epoch=3-step=100.safetensors",
        "/data/photos (1)",
        "/data/Möbel, Stühle",
        "photos (1)/a.jpg",
        "C:\\data\\x",
        "a{b}c:d'e",
        "007",
        "1_000",
        "true",
        "~/data",
        "[1].jpg",
        "a,b",
        'x"y',
        "-1",
        "nan",
    ],
)
def test_paths_are_as_typed(path: str) -> None:
    """hydra-ecosystem/hydra#1577."""
    for command, *keys in (
        ("train", "dataset.root", "init_from", "run_dir", "dataset.train_split"),
        ("eval", "checkpoint", "run_dir", "dataset.root"),
        ("predict", "checkpoint", "images", "output"),
        ("convert", "input", "output", "info"),
    ):
        for key in keys:
            given = ["dataset=voc"] if command in ("train", "eval") else []
            for typed in (path, f" {path} ", '"' + path.replace('"', '\\"') + '"'):
                value: Any = plain(command, [*given, f"{key}={typed}"])
                for part in key.split("."):
                    value = value[part]
                assert value == path


def test_class_names_are_as_typed() -> None:
    """pytorch/vision#714: folders named by numbers."""
    for dataset in ("imagenet", "coco", "voc"):
        for typed, names in (
            ("[0,10]", ["0", "10"]),
            ("[01,10]", ["01", "10"]),
            ("[hot dog, 'salt, pepper', true]", ["hot dog", "salt, pepper", "true"]),
            ("[dog's, 1_0]", ["dog's", "1_0"]),
            ("null", None),
        ):
            assert load_config(Train, [f"dataset={dataset}", f"dataset.classes={typed}"]).dataset["classes"] == names
    assert plain("predict", ["images=[a.jpg,photos (1)/b.jpg]"])["images"] == ["a.jpg", "photos (1)/b.jpg"]
    assert plain("convert", ["names=[1,2]"])["names"] == ["1", "2"]
    with pytest.raises(ConfigError, match=r"dataset\.classes takes a list, at least one, each a path or name, or null"):
        load_config(Train, ["dataset=voc", "dataset.classes=[]"])
