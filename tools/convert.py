"""Convert weights of TensorFlow or torchvision to a model file that train, eval and predict take.

python tools/convert.py source=tensorflow input=mobilenet_v2_1.0_224.safetensors output=imagenet.safetensors
python tools/convert.py source=torchvision input=MobileNet_V2_Weights.IMAGENET1K_V2 output=imagenet.safetensors
"""

import sys

from mnv2vision.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
