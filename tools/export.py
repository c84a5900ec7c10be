"""Export a model for devices. Each file gets a folder with its description, a script that runs it, and a report.

python tools/export.py checkpoint=model.safetensors formats=[onnx,litert]
python tools/export.py checkpoint=model.safetensors quantize=int8 dataset=imagenet dataset.root=/data/imagenet
"""

import sys

from mnv2vision.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
