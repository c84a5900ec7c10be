"""Train a model. Ends with metrics.json, model.safetensors and pictures in the run's folder.

python tools/train.py                                          # the built-in shapes, minutes on two cores
python tools/train.py dataset=imagenet dataset.root=/data/imagenet recipe=imagenet_paper trainer.devices=8
python tools/train.py --help
"""

import sys

from mnv2vision.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
