"""Put the paper's tables, and other projects', beside what the models here have (docs/reproduction.md).

python tools/reproduce.py --help
"""

import sys

from mnv2vision.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["reproduce", *sys.argv[1:]]))
