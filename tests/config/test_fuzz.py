"""Command lines with values of every kind and garbage among them: what they compose to can be built, or one line."""

import random
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from mnv2vision.config.commands import COMMANDS
from mnv2vision.config.compose import groups, kinds, load_config
from mnv2vision.config.kinds import Flag, Kind, Many, Number, OneOf
from mnv2vision.config.named import head_tasks
from mnv2vision.config.options import values
from mnv2vision.contracts import InferenceOptions
from mnv2vision.data.augment.classification import EvaluationTransform
from mnv2vision.data.formats.shapes import Shapes
from mnv2vision.data.loader import DataModule
from mnv2vision.engine.decide import undecided
from mnv2vision.engine.initial import new_model
from mnv2vision.engine.parts import DataPart, task_parts
from mnv2vision.engine.train import augmentation, head_settings, training_options
from mnv2vision.engine.trainer import check_limits, check_loggers, create_loggers, create_trainer, training_callbacks
from mnv2vision.errors import ConfigError
from mnv2vision.models.tasks import TASKS
from mnv2vision.tasks.base import Task
from mnv2vision.training.callbacks import History

NUMBERS = """0 1 2 3 7 -1 -3 0.5 -0.5 1.0 1e-320 1e300 -1e300 1e999 inf -inf nan .5 1_000 1_0 00 007 0x1f 1e3 -0
    2147483648 9223372036854775808 99999999999999999999999999"""
WORDS = """auto null None true false yes on '' "" cpu tpu gpu cuda bf16-true 16 64 ddp ddp_spawn warn tf symmetric sgd
    adamw rmsprop_tf cosine poly softmax aspp lraspp ssd crop stretch letterbox bicubic raise skip mobilenet_v1 shapes
    val/1 é ü.jpg ${seed} ${nowhere} ${ ??? ~ @x a=b a,b (x) x(1) {a:1} {} [] [[]] [null] [nan] [0.5] [1,2] [0.5,1.0]
    [2,0.1] [96,128] [1,2,3] [0.5,0.5,0.5] [a,b] [a [a,] ,a] 'a "b a'b choice(1,2) range(3) glob(*) sort([2,1]) int(3)
    extend_list(1) /data/x ../x . / \\ \\\\ % # $HOME"""
PRINTABLE = string.printable[:-5] + "äß→"
OPTIONS = ("profiler", "val_check_interval", "overfit_batches", "fast_dev_run", "max_time", "min_epochs", "callbacks")
NAMES = ("train", "train", "train", "train", "tune", "eval", "predict", "convert", "average", "benchmark", "reproduce")


def leaves(config: Any, prefix: str = "") -> list[str]:
    if not isinstance(config, dict):
        return [prefix]
    return [name for key, value in config.items() for name in leaves(value, f"{prefix}.{key}" if prefix else str(key))]


@cache
def keys_of(command: str, chosen: tuple[str, ...]) -> list[str]:
    return leaves(values(load_config(COMMANDS[command].schema, chosen)))


def sensible(rng: random.Random, kind: Kind) -> str:
    """A value of a kind, or one at its limits."""
    if isinstance(kind, OneOf):
        return "null" if kind.null and rng.random() < 0.2 else sensible(rng, rng.choice(kind.kinds))
    if isinstance(kind, Many):
        return f"[{','.join(sensible(rng, kind.each) for _ in range(kind.most or rng.randint(kind.least, 3)))}]"
    if isinstance(kind, Number):
        limits = [x for x in (kind.least, kind.most, kind.above, kind.below) if x is not None and abs(x) < 2**40]
        number = rng.choice(limits) + rng.choice((0, 0, 0.001, 0.1, 1, 1, 4, -0.01, -1)) if limits else rng.random()
        return str(round(number) if kind.whole else float(number))
    return rng.choice(WORDS.split()) if not isinstance(kind, Flag) else rng.choice(("true", "false"))


def value(rng: random.Random, kind: Kind | None) -> str:
    chance = rng.random()
    if kind is not None and chance < 0.6:
        return sensible(rng, kind)
    if chance < 0.8:
        return rng.choice(NUMBERS.split())
    if chance < 0.95:
        return rng.choice(WORDS.split())
    return "".join(rng.choices(PRINTABLE, k=rng.choice((1, 3, 12, 300))))


def mutated(rng: random.Random, text: str) -> str:
    """With a character inserted, replaced or taken away."""
    place = rng.randrange(len(text) + 1)
    return text[:place] + rng.choice(("", rng.choice(PRINTABLE))) + text[place + rng.randrange(2) :]


def command_line(rng: random.Random) -> tuple[str, list[str]]:
    """A command; choices of its groups, and one to three keys with values, some of which are damaged."""
    command = rng.choice(NAMES)
    choices, known = groups(command), kinds(command)
    wanted = [name for name in choices if name != "recipe" and rng.random() < 0.6]
    line = [f"{name}={rng.choice(choices[name])}" for name in wanted]
    line += ["recipe=null"] if "recipe" in choices and rng.random() < 0.5 else []
    keys = keys_of(command, tuple(line))
    for _ in range(rng.randint(1, 3)):
        key = rng.choice([name for name in keys if name not in choices])
        if rng.random() < 0.05:
            key = rng.choice((*known, *(f"+trainer.{option}" for option in OPTIONS)))
        elif rng.random() < 0.05:
            key = rng.choice(("+", "++", "~")) + key
        line.append(f"{key}={value(rng, known.get(key))}")
    return command, [mutated(rng, item) if rng.random() < 0.06 else item for item in line]


class Three(Shapes):
    """A source of three classes."""

    names = mask_names = ("ant", "bee", "wasp")

    def __init__(self) -> None:
        super().__init__("val", 4, image_size=48)


def build(command: str, config: Any, folder: Path) -> None:
    """What a command makes of its configuration before it reads the user's files."""
    if command == "eval":
        create_trainer(config.trainer, folder)
        DataModule(None, (Three(), lambda sample, seed: sample), **values(config.loader), on_error=config.data.on_error)
        InferenceOptions(**values(config.inference))
    if command == "predict":
        InferenceOptions(**values(config.inference))
    if command != "train":
        return
    check_loggers(config.loggers)
    if undecided(config):  # which is measured when a run begins
        loader, optimizer = replace(config.loader, batch_size=4), replace(config.optimizer, lr=0.1)
        config = replace(config, loader=loader, optimizer=optimizer)
    with torch.device("meta"):
        tasks = head_tasks(config.task, config.heads)
        model = new_model(replace(config, init_from=None), tasks, dict.fromkeys(tasks, Three.names))
    source, transform = Three(), augmentation(config, tasks, model.preprocessing)
    if max(model.preprocessing.image_size) <= 1024:
        transform(source[0], config.seed)
    parts = (source, transform), (source, EvaluationTransform(model.preprocessing))
    DataModule(*parts, seed=config.seed, **values(config.loader), on_error=config.data.on_error)
    part = DataPart("", config.dataset, {name: TASKS[task].target for name, task in tasks.items()}, source, source)
    task = Task(model, task_parts([part], model, head_settings(config, tasks), training=True), training_options(config))
    task.check_options()
    callbacks = training_callbacks(config, folder, History(folder / "metrics.csv"), task.monitor)
    trainer = create_trainer(config.trainer, folder, callbacks, create_loggers(config, folder))
    check_limits(trainer, config.loader.size, {"train": 4, "val": 4})


def outcome(command: str, line: Sequence[str], folder: Path) -> str:
    """Whether what a command line composes to was built or refused; any error but the package's own is raised."""
    stage = "composing"
    try:
        config = load_config(COMMANDS[command].schema, line)
        stage = "building"
        build(command, config, folder)
    except ConfigError as error:
        return f"refused in {stage}" if len(str(error).splitlines()) == 1 else f"told in many lines: {error}"
    return "built"


@pytest.mark.slow
def test_command_lines(tmp_path: Path) -> None:
    rng = random.Random(0)
    outcomes = Counter(outcome(*command_line(rng), tmp_path) for _ in range(360))
    assert set(outcomes) == {"built", "refused in composing", "refused in building"}
    assert min(outcomes.values()) >= 3  # lines that are refused in building are rare
