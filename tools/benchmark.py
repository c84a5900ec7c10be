"""Measure speed against torchvision and others, as ratios within one run (docs/benchmarks.md).

python tools/benchmark.py --help
"""

import sys

from mnv2vision.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["benchmark", *sys.argv[1:]]))
