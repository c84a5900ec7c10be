"""`mnv2vision benchmark`: speed against torchvision and others (docs/benchmarks.md)."""

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mnv2vision.config.compose import load_config
from mnv2vision.config.schema import Benchmark
from mnv2vision.errors import ConfigError

if TYPE_CHECKING:
    from mnv2vision.benchmarks.speed import Result

_OF_CHECKPOINT = ("formats", "output", "dataset")
TASKS = ("classification", "detection", "segmentation")


def run(arguments: Sequence[str]) -> None:
    """Run the comparisons and print a table."""
    config = load_config(Benchmark, arguments)
    if config.checkpoint is not None:
        _formats(config)
        return
    if given := [item for item in arguments if item.partition("=")[0].partition(".")[0] in _OF_CHECKPOINT]:
        raise ConfigError(f"{given[0]}: goes with checkpoint=<model.safetensors>")
    tasks = TASKS if config.task is None else (config.task,)
    if config.data is not None:
        _check_photos(config.data, tasks)
    from mnv2vision.benchmarks import speed

    print(speed.machine())
    if config.task == "threads":
        _print_threads()
        return
    print("| comparison | mnv2vision | peer | ratio |\n|---|---|---|---|")
    for result in _results(tasks, config.data):
        print(f"| {result.what} | {result.ours * 1e3:.2f} ms | {result.peer * 1e3:.2f} ms | {result.ratio:.2f} |")
    print()
    for line in _shares(tasks):
        print(line)


def _formats(config: Benchmark) -> None:
    """Measure what a model is exported to, and print the table."""
    if config.task is not None or config.data is not None:
        raise ConfigError("checkpoint= goes without task= and data=")
    from mnv2vision.benchmarks import formats

    formats.measure(config)
    print((Path(config.output) / "table.md").read_text(encoding="utf-8"), end="")


def _check_photos(folder: str, tasks: Sequence[str]) -> None:
    """Refuse a folder that the input pipeline cannot be measured on, before minutes of other measurements."""
    if "classification" not in tasks:
        raise ConfigError("data= goes with task=classification, or with all tasks")
    from mnv2vision.data.formats.imagenet import ImageNet

    if (images := len(ImageNet(folder, "train"))) < 32:
        raise ConfigError(f"data={folder}: train/ has {images} images; at least one batch of 32 is needed")


def _results(tasks: Sequence[str], data: str | None) -> Iterator["Result"]:
    """The comparisons, one after another."""
    from mnv2vision.benchmarks import detection, segmentation, speed

    if "classification" in tasks:
        yield speed.inference(1, rounds=15)
        yield speed.inference(32, rounds=7)
        yield speed.training_step(rounds=7)
        if data is not None:
            yield speed.input_pipeline(data)
    if "detection" in tasks:
        yield detection.postprocess()
        yield detection.detector()
        if importlib.util.find_spec("pycocotools"):
            yield detection.coco_evaluation()
    if "segmentation" in tasks:
        yield segmentation.against_torchvision()
        if importlib.util.find_spec("segmentation_models_pytorch"):
            yield segmentation.against_smp()


def _shares(tasks: Sequence[str]) -> Iterator[str]:
    """What has no peer to compare with."""
    from mnv2vision.benchmarks import detection, segmentation, speed

    if "classification" in tasks:
        yield f"between two epochs, shapes, one reading process: {speed.epoch_gap() * 1e3:.0f} ms"
    if "detection" in tasks:
        step, loss = detection.loss_share()
        yield f"detection, training step at batch 24: {step:.2f} s, of which matching and loss {loss / step:.1%}"
    if "segmentation" in tasks:
        yield f"scales and flips, by the sum of their twelve passes: {segmentation.multi_scale():.2f}"
        yield f"counting pixels, by the time of predicting them: {segmentation.evaluator_share():.1%}"


def _print_threads() -> None:
    """Print images per second by setting and load, each with its share of the best setting's."""
    from mnv2vision.benchmarks import threads

    rows = threads.measure()
    loads = " | ".join("alone" if not n else f"beside {n}" for n in threads.OTHERS)
    print(f"| workload | setting | {loads} |\n|---|---|{'---|' * len(threads.OTHERS)}")
    for row in rows:
        shares = threads.shares(rows, row.workload, row.setting)
        cells = [f"{rate:.3g} ({share:.0%})" for rate, share in zip(row.rates, shares, strict=True)]
        print(f"| {row.workload} | {row.setting} | {' | '.join(cells)} |")
