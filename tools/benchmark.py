"""Measure speed against torchvision, as ratios within one run (docs/benchmarks.md).

    python tools/benchmark.py                                   # training step and inference; 2 minutes on two cores
    python tools/benchmark.py data=<folder with train/>         # the input pipeline as well, on these photos

Leave the machine alone meanwhile. Ratios above 1 mean that mnv2vision is faster.
"""

import sys

from mnv2vision import benchmark


def main(arguments: list[str]) -> int:
    """Run the comparisons and print a table."""
    unknown = [item for item in arguments if not item.startswith("data=")]
    if unknown:
        print(f"error: unknown argument {unknown[0]}; valid: data=<folder>", file=sys.stderr)
        return 2
    print(benchmark.machine())
    results = [
        benchmark.inference(1, rounds=15),
        benchmark.inference(32, rounds=7),
        benchmark.training_step(rounds=7),
    ]
    if arguments:
        results.append(benchmark.input_pipeline(arguments[-1].removeprefix("data=")))
    print("| comparison | mnv2vision | torchvision | ratio |\n|---|---|---|---|")
    for result in results:
        print(f"| {result.what} | {result.ours * 1e3:.2f} ms | {result.peer * 1e3:.2f} ms | {result.ratio:.2f} |")
    print(f"\nbetween two epochs, shapes, one reading process: {benchmark.epoch_gap() * 1e3:.0f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
