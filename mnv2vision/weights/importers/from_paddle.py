"""PaddleClas's MobileNetV2, read from .pdparams files without paddle.

Sources: PaddlePaddle/PaddleClas (ppcls/arch/backbone/model_zoo/mobilenet_v2.py) for the names,
PaddlePaddle/Paddle (python/paddle/framework/io.py) for the file.
"""

import collections
import contextlib
import io
import os
import pickle
import pickletools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mnv2vision.backbones.mobilenet_v2 import stage_lengths
from mnv2vision.errors import WeightsError
from mnv2vision.models.vision_model import VisionModel
from mnv2vision.preprocessing import Preprocessing
from mnv2vision.weights.importers.tables import (
    CLASSIFIER,
    NORM,
    NamePairs,
    adjusted,
    affine_pairs,
    build,
    class_options,
    converter,
    layer_steps,
    unit_pairs,
)

PREPROCESSING = Preprocessing(antialias=False)
"""A centre crop of 224 of 256, resized as OpenCV does; ImageNet's mean and standard deviation."""

_NORM = (*NORM[:2], "_mean", "_variance", NORM[4])
_STEPS = {"expand": "_expand_conv", "depthwise": "_bottleneck_conv", "project": "_linear_conv"}
_NAME_TABLE = "StructuredToParameterName@@"


class _DType:
    """Replaces numpy.dtype while a pickle is read: a damaged pickle could change flags that numpy relies on."""

    def __init__(self, code: str, *_: object) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


class _Array:
    """Replaces numpy.ndarray; `values` is None unless it holds floats."""

    values: NDArray[np.floating] | None = None

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, data = state
        if isinstance(dtype, _DType) and dtype.code in ("f2", "f4", "f8"):
            data = data.encode("latin1") if isinstance(data, str) else data
            values = np.frombuffer(data, np.dtype(f"{dtype.order}{dtype.code}"))
            self.values = values.reshape(shape, order="F" if is_fortran else "C")


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it refers to the encoding {encoding}, which weights do not need")
    return text.encode("latin1")


# All that a pickled dictionary of arrays refers to, by the names of numpy 1, numpy 2 and older protocols.
_ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
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
    yield from affine_pairs(CLASSIFIER, "out")


class _Unpickler(pickle.Unpickler):
    """Reads dictionaries of arrays; anything else that a pickle refers to is refused before it is called."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it refers to {module_name}.{global_name}, which weights do not need")
        return _ADMITTED[module_name, global_name]


def _harmless_part(content: bytes) -> bytes:
    """A pickle up to the first opcode that would exhaust memory; normally all of it.

    Five bytes can ask for gigabytes: the memo grows to any index that is named, though writers use one after another.
    """
    stream, end = io.BytesIO(content), 0
    with contextlib.suppress(ValueError):  # truncated, or not a pickle
        for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if opcode.name in ("PUT", "LONG_BINPUT") and (argument or 0) > number:
                break
            end = stream.tell()
    return content[:end]


def read_pdparams(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a file written by paddle.save.

    Args:
        path: A pickled dictionary of float arrays, or of (parameter name, array). No code in it is executed.

    Returns:
        float32 tensors by name; weights of linear layers are transposed to PyTorch's (out, in).

    Raises:
        WeightsError: For a missing file, or one that contains or refers to anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    try:
        content = _harmless_part(path.read_bytes())
        data = _Unpickler(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # a damaged pickle raises nearly any kind
        # Our own refusals are worth showing; all else is about opcodes and memos.
        reason = str(error) if str(error).startswith("it refers to") else "damaged, or of another format"
        raise WeightsError(f"{path}: not a readable .pdparams file ({reason})") from error
    if not isinstance(data, dict):
        raise WeightsError(f"{path}: not a dictionary of parameters")
    state = {}
    for name, value in data.items():
        if name == _NAME_TABLE:
            continue
        array = value[1] if isinstance(value, tuple) and len(value) == 2 else value
        if not isinstance(name, str) or not isinstance(array, _Array) or array.values is None:
            raise WeightsError(f"{path}: {name!r} is not an array of floats")
        tensor = torch.from_numpy(np.array(array.values, np.float32, order="C"))
        state[name] = tensor.T if tensor.ndim == 2 else tensor
    return state


def import_classifier(
    state: Mapping[str, Tensor], source: str, *, preprocessing: Preprocessing | Mapping[str, object] | None = None
) -> VisionModel:
    """Build our classifier from the state of PaddleClas's MobileNetV2.

    Args:
        state: From `read_pdparams`, of MobileNetV2_x0_25 to x2_0.
        source: The file's name, for messages.
        preprocessing: Fields that differ from `PREPROCESSING`, or all of them as a `Preprocessing`.

    Raises:
        WeightsError: Naming a parameter that is missing, unexpected or of the wrong shape.
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


convert = converter("paddle", {"classification": import_classifier}, read_pdparams)
