"""The commands: what options and groups each has, with examples."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mnv2vision.config.backbones import BACKBONES
from mnv2vision.config.datasets import DATASETS
from mnv2vision.config.options import Option, options
from mnv2vision.config.schema import Average, Benchmark, Check, Convert, Eval, Export, Predict, Reproduce, Train, Tune
from mnv2vision.config.tasks import TASKS


@dataclass(frozen=True)
class Command:
    """A command: its options, the groups it has (of `open_groups`, nothing is chosen by default), and examples."""

    schema: type
    examples: tuple[str, ...]
    groups: tuple[str, ...] = ()
    note: str = ""
    open_groups: tuple[str, ...] = ()


COMMANDS = {
    "train": Command(
        Train,
        (
            "task=detection",
            "photos/",
            "dataset=imagenet dataset.root=/data/imagenet recipe=imagenet_paper trainer.devices=8",
            "resume=runs/.../checkpoints/last.ckpt",
        ),
        ("backbone", "dataset", "recipe", "task"),
    ),
    "tune": Command(
        Tune,
        (
            "task=detection tune.space='optimizer.lr=log(1e-4,1e-1)' tune.trials=20 tune.time=30m",
            "tune.space='[optimizer.lr=log(1e-4,1e-1),ema.decay=choice(0,0.99)]' trainer.max_epochs=3",
            "resume=runs/tune/... tune.trials=40",
        ),
        note="Takes the keys of train as well, which are those of every trial.",
    ),
    "eval": Command(
        Eval, ("checkpoint=runs/.../model.safetensors dataset=imagenet dataset.root=/data/imagenet",), ("dataset",)
    ),
    "predict": Command(Predict, ("checkpoint=model.safetensors images='photos/*.jpg' output=predictions/",)),
    "convert": Command(
        Convert,
        (
            "source=tensorflow input=mobilenet_v2.safetensors output=model.safetensors",
            "name=timm/mobilenetv2_140-ra_in1k output=model.safetensors",
            "to=timm input=model.safetensors output=mobilenetv2.pth",
            "info=model.safetensors",
        ),
    ),
    "average": Command(
        Average,
        (
            "models=runs/.../ last=5 dataset=imagenet dataset.root=/data/imagenet",
            "models=[a.safetensors,b.safetensors] greedy=true dataset=imagenet dataset.root=/data/imagenet",
        ),
        ("dataset",),
        open_groups=("dataset",),
    ),
    "export": Command(
        Export,
        (
            "checkpoint=model.safetensors formats=[onnx,litert]",
            "checkpoint=model.safetensors quantize=int8 dataset=imagenet dataset.root=/data/imagenet output=out/",
        ),
        ("dataset",),
        open_groups=("dataset",),
    ),
    "check": Command(
        Check,
        (
            "dataset=voc dataset.root=/data/VOCdevkit",
            "dataset=coco dataset.root=/data/coco task=segmentation output=check/",
            "dataset=yolo dataset.root=/data/coins fix=copy output=check/",
        ),
        ("dataset",),
        note="Exit status 0: nothing was found; 1: something was; 2: an error.",
    ),
    "benchmark": Command(
        Benchmark,
        (
            "",
            "task=detection",
            "data=<folder with train/>",
            "task=threads",
            "checkpoint=model.safetensors formats=all dataset=imagenet dataset.root=/data/imagenet",
        ),
        ("dataset",),
        note="All three tasks take 6 minutes on two cores, threads 10. Leave the machine alone meanwhile.",
        open_groups=("dataset",),
    ),
    "reproduce": Command(
        Reproduce,
        (
            "",
            "table=6 format=csv",
            "output=docs/reproduction.md",
            "table=6 latency=true",
            "table=6 evaluate=coco dataset.root=/data/coco weights=ssdlite.safetensors",
            "table=4 evaluate=imagenet dataset.root=/data/imagenet weights=folder/",
            "table=7 evaluate=voc dataset.root=/data/VOCdevkit weights=a.safetensors,b.safetensors",
            "figure=1 output=figures/",
        ),
        note="Each figure is exact, within x %, or not matched, with the reason; the last line counts them.",
    ),
}
GROUPS: dict[str, Mapping[str, type]] = {"task": TASKS, "dataset": DATASETS, "backbone": BACKBONES}
SECTIONS = ("dataset", "backbone")
"""Groups whose choices are sections of that name; a task's are whole configurations."""


def command_of(schema: type) -> str:
    """The name of the command that has these options."""
    return next(name for name, command in COMMANDS.items() if command.schema is schema)


def command_options(command: str, choice: Mapping[str, str] | None = None) -> Iterator[Option]:
    """The options of a command, those of its groups behind them; of several of one key, the last counts.

    Args:
        command: A key of `COMMANDS`.
        choice: Of each group; of all choices where it names none.
    """
    yield from options(COMMANDS[command].schema)
    for group, choices in GROUPS.items():
        if group in COMMANDS[command].groups:
            chosen = [choices[choice[group]]] if choice and group in choice else choices.values()
            for schema in chosen:
                yield from options(schema, f"{group}." if group in SECTIONS else "")
