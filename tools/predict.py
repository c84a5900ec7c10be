"""Predict for photos. Writes an annotated picture for each, predictions.csv and predictions.json.

python tools/predict.py checkpoint=model.safetensors images='photos/*.jpg' output=predictions/
"""

import sys

from mnv2vision.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["predict", *sys.argv[1:]]))
