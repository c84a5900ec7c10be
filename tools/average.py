"""Average the weights of models of one architecture, or of a run's last epochs.

python tools/average.py models=runs/.../ output=averaged/
python tools/average.py models=[a.safetensors,b.safetensors] greedy=true dataset=imagenet dataset.root=/data/imagenet
"""

import sys

from mnv2vision.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["average", *sys.argv[1:]]))
