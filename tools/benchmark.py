"""Measure speed against torchvision and others, as ratios within one run (docs/benchmarks.md).

    python tools/benchmark.py                                   # all three tasks; 6 minutes on two cores
    python tools/benchmark.py task=detection                    # one of them
    python tools/benchmark.py data=<folder with train/>         # the input pipeline as well, on these photos
    python tools/benchmark.py task=threads                      # how threads should wait; 10 minutes

Leave the machine alone meanwhile. Ratios above 1 mean that mnv2vision is faster.
"""

import importlib.util
import logging
import sys
from collections.abc import Iterator

from mnv2vision.threads import set_up_threads

set_up_threads()

from mnv2vision import benchmark, benchmark_detection, benchmark_segmentation, benchmark_threads  # noqa: E402
from mnv2vision.benchmark import Result  # noqa: E402

TASKS = ("classification", "detection", "segmentation")


def results(tasks: tuple[str, ...], data: str | None) -> Iterator[Result]:
    """The comparisons, one after another."""
    if "classification" in tasks:
        yield benchmark.inference(1, rounds=15)
        yield benchmark.inference(32, rounds=7)
        yield benchmark.training_step(rounds=7)
        if data is not None:
            yield benchmark.input_pipeline(data)
    if "detection" in tasks:
        yield benchmark_detection.postprocess()
        yield benchmark_detection.detector()
        if importlib.util.find_spec("pycocotools"):
            yield benchmark_detection.coco_evaluation()
    if "segmentation" in tasks:
        yield benchmark_segmentation.against_torchvision()
        if importlib.util.find_spec("segmentation_models_pytorch"):
            yield benchmark_segmentation.against_smp()


def print_threads() -> None:
    """Print images per second by setting and load, each with its share of the best setting's."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    rows = benchmark_threads.measure()
    loads = " | ".join("alone" if not n else f"beside {n}" for n in benchmark_threads.OTHERS)
    print(f"| workload | setting | {loads} |\n|---|---|{'---|' * len(benchmark_threads.OTHERS)}")
    for row in rows:
        shares = benchmark_threads.shares(rows, row.workload, row.setting)
        cells = [f"{rate:.3g} ({share:.0%})" for rate, share in zip(row.rates, shares, strict=True)]
        print(f"| {row.workload} | {row.setting} | {' | '.join(cells)} |")


def main(arguments: list[str]) -> int:
    """Run the comparisons and print a table."""
    if {"--help", "-h"} & set(arguments):
        print(__doc__)
        return 0
    given = dict(item.split("=", 1) for item in arguments if "=" in item)
    unknown = [item for item in arguments if "=" not in item or item.split("=")[0] not in ("data", "task")]
    if unknown or given.get("task", "detection") not in (*TASKS, "threads"):
        valid = f"data=<folder>, task={'|'.join(TASKS)}|threads"
        print(f"error: unknown argument {(unknown or arguments)[0]}; valid: {valid}", file=sys.stderr)
        return 2
    tasks = (given["task"],) if "task" in given else TASKS
    print(benchmark.machine())
    if given.get("task") == "threads":
        print_threads()
        return 0
    print("| comparison | mnv2vision | peer | ratio |\n|---|---|---|---|")
    for result in results(tasks, given.get("data")):
        print(f"| {result.what} | {result.ours * 1e3:.2f} ms | {result.peer * 1e3:.2f} ms | {result.ratio:.2f} |")
    print()
    if "classification" in tasks:
        print(f"between two epochs, shapes, one reading process: {benchmark.epoch_gap() * 1e3:.0f} ms")
    if "detection" in tasks:
        step, loss = benchmark_detection.loss_share()
        print(f"detection, training step at batch 24: {step:.2f} s, of which matching and loss {loss / step:.1%}")
    if "segmentation" in tasks:
        print(f"scales and flips, by the sum of their twelve passes: {benchmark_segmentation.multi_scale():.2f}")
        print(f"counting pixels, by the time of predicting them: {benchmark_segmentation.evaluator_share():.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
