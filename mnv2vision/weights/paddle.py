"""Weights of PaddleClas's MobileNetV2, from its .pdparams files, without paddle.

Sources: PaddlePaddle/PaddleClas (ppcls/arch/backbone/model_zoo/mobilenet_v2.py) for the names,
PaddlePaddle/Paddle (python/paddle/framework/io.py) for the file.
"""

import codecs
import collections
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mnv2vision.backbones.mobilenet_v2 import stage_lengths
from mnv2vision.errors import WeightsError
from mnv2vision.preprocessing import Preprocessing
from mnv2vision.vision_model import VisionModel
from mnv2vision.weights.state import (
    NORM,
    NamePairs,
    adjusted,
    affine_pairs,
    build,
    class_options,
    convert_file,
    layer_steps,
    unit_pairs,
)

PREPROCESSING = Preprocessing(antialias=False)
"""A centre crop of 224 of 256, resized as OpenCV does; ImageNet's mean and deviation."""

_NORM = (*NORM[:2], "_mean", "_variance", NORM[4])
_STEPS = {"expand": "_expand_conv", "depthwise": "_bottleneck_conv", "project": "_linear_conv"}
_NAME_TABLE = "StructuredToParameterName@@"
# All that a pickle of a dictionary of arrays refers to, under the names of numpy 1 and 2 and of old protocols.
_ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): codecs.encode,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("builtins", "tuple"): tuple,
    ("__builtin__", "tuple"): tuple,
}


def name_pairs(model: VisionModel) -> NamePairs:
    """(our name, PaddleClas's name) of each parameter and buffer."""
    stages = (
        f"conv{stage}.{f'conv{stage}_{place}' if place > 1 else '_first_block'}"
        for stage, length in enumerate(stage_lengths(), start=2)
        for place in range(1, length + 1)
    )
    for name, steps in layer_steps(model.backbone):
        ours = f"backbone.{name}"
        if not steps:
            theirs = "conv1" if name == "stem" else "conv9"
            yield from unit_pairs(ours, f"{theirs}._conv", f"{theirs}._batch_norm", _NORM)
            continue
        block = next(stages)
        for step in steps:
            theirs = f"{block}.{_STEPS[step]}"
            yield from unit_pairs(f"{ours}.{step}", f"{theirs}._conv", f"{theirs}._batch_norm", _NORM)
    yield from affine_pairs("classifier", "out")


class _Unpickler(pickle.Unpickler):
    """Reads dictionaries of arrays, and refuses a pickle that refers to anything else before it is called."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it refers to {module_name}.{global_name}, which weights have no need of")
        return _ADMITTED[module_name, global_name]


def read_pdparams(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a file that paddle.save wrote, with linear layers' weights as PyTorch has them: (out, in).

    Args:
        path: A pickle of a dictionary of float arrays, or of (parameter name, array); no code of it is run.

    Raises:
        WeightsError: For a missing file, or one that holds or refers to anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            data = _Unpickler(file, encoding="latin1").load()
    except Exception as error:  # a damaged pickle raises nearly any kind
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise WeightsError(f"{path}: cannot be read as a .pdparams file ({reason})") from error
    if not isinstance(data, dict):
        raise WeightsError(f"{path}: is no dictionary of parameters")
    state = {}
    for name, value in data.items():
        if name == _NAME_TABLE:
            continue
        array = value[1] if isinstance(value, tuple) and len(value) == 2 else value
        if not isinstance(name, str) or not isinstance(array, np.ndarray) or array.dtype.kind != "f":
            raise WeightsError(f"{path}: {name!r} is no array of floats")
        tensor = torch.from_numpy(np.array(array, np.float32, order="C"))
        state[name] = tensor.T if tensor.ndim == 2 else tensor
    return state


def import_classifier(
    state: Mapping[str, Tensor], source: str, *, preprocessing: Preprocessing | Mapping[str, Any] | None = None
) -> VisionModel:
    """Build our classifier from what `read_pdparams` gave of PaddleClas's MobileNetV2.

    Args:
        state: Of MobileNetV2_x0_25 to x2_0.
        source: The file's name, for messages.
        preprocessing: What differs from `PREPROCESSING`.

    Raises:
        WeightsError: Naming a parameter that is missing, left over or misshapen.
    """
    return build(
        state,
        source,
        project="PaddleClas's MobileNetV2",
        candidates=[{"variant": "paddle", "width": width} for width in (1.0, 0.25, 0.5, 0.75, 1.5, 2.0)],
        name_pairs=name_pairs,
        preprocessing=adjusted(PREPROCESSING, preprocessing),
        **class_options(state, "out.bias"),
    )


def convert(task: str, path: str | os.PathLike[str], **options: Any) -> VisionModel:
    """What tools/convert.py source=paddle does.

    Args:
        task: "classification".
        path: A .pdparams file.
        **options: Those of `import_classifier`.
    """
    return convert_file("paddle", {"classification": import_classifier}, task, path, options, read_pdparams)
