"""Evaluate a model on the validation part of a data set. Writes metrics.json, tables per class and pictures.

python tools/eval.py checkpoint=runs/.../model.safetensors
python tools/eval.py checkpoint=model.safetensors dataset=imagenet dataset.root=/data/imagenet
"""

import sys

from mnv2vision.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["eval", *sys.argv[1:]]))
