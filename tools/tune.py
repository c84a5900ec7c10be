"""Search for the best values of keys of a training run. Ends with trials.csv, search.png and best.yaml, a recipe.

python tools/tune.py task=detection tune.space='optimizer.lr=log(1e-4,1e-1)' tune.trials=20 tune.time=30m
python tools/tune.py --help
"""

import sys

from mnv2vision.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["tune", *sys.argv[1:]]))
