"""Look a data set over before training: files, copies, classes, annotations. Writes check.html and check.json.

python tools/check.py dataset=voc dataset.root=/data/VOCdevkit output=check/
python tools/check.py dataset=imagenet dataset.root=photos
"""

import sys

from mnv2vision.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["check", *sys.argv[1:]]))
