"""TensorFlow Lite's models, read by the order of their convolutions: converters change or drop variable names."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mnv2vision.backbones import create_backbone
from mnv2vision.backbones.layers import ConvNormAct
from mnv2vision.errors import WeightsError
from mnv2vision.weights.importers.tf_variables import SCOPES, layers_by_scope

# By the schema's TensorType (tensorflow/compiler/mlir/lite/schema/schema.fbs).
_DTYPES = {0: "<f4", 1: "<f2", 2: "<i4", 3: "u1", 4: "<i8", 7: "<i2", 9: "i1", 10: "<f8"}
_DEEPLAB = ("image_pooling", "aspp0", "concat_projection", "logits/semantic")


class _Layer(NamedTuple):
    """A convolution, or a fully connected layer as a 1x1 convolution, in TensorFlow's layout."""

    depthwise: bool
    weights: NDArray[np.float32]
    biases: NDArray[np.float32]
    cells: int
    relu6: bool

    @property
    def kind(self) -> tuple[bool, int]:
        return self.depthwise, len(self.weights)


def read_tflite(path: Path) -> dict[str, NDArray[np.float32]]:
    """Read the arrays of a classifier, or of DeepLab without atrous branches, under TF-slim's names.

    Float, half-precision and quantised models are read; batch norm is always folded in them.

    Args:
        path: A .tflite file; reading it needs the `tflite` extra.

    Raises:
        WeightsError: For other networks, and for files in another format.
    """
    try:
        import tflite
    except ImportError as error:
        raise WeightsError(f"{path}: reading TensorFlow Lite models needs: pip install 'mnv2vision[tflite]'") from error
    data = path.read_bytes()
    if len(data) < 8 or not tflite.Model.ModelBufferHasIdentifier(data, 0):
        raise WeightsError(f"{path}: not a TensorFlow Lite model")
    layers = list(_layers(path, tflite, tflite.Model.GetRootAs(data)))
    # DeepLab's pooled branch has one cell; converters write the two branches in either order.
    if len(layers) > 4 and layers[-3].cells == 1 < layers[-4].cells:
        layers[-4:-2] = layers[-3], layers[-4]
    pooled = len(layers) > 4 and layers[-4].cells == 1 < layers[-3].cells
    for names in _networks(pooled):
        if [kind for _, kind in names] == [layer.kind for layer in layers]:
            arrays = {}
            for (scope, _), layer in zip(names, layers, strict=True):
                # Converters add the 3 of the gate's relu6(x + 3) / 6 to the bias before it.
                three = 3 if layer.relu6 and scope.endswith("squeeze_excite/Conv_1") else 0
                arrays[f"{scope}/{'depthwise_' if layer.depthwise else ''}weights"] = layer.weights
                arrays[f"{scope}/biases"] = layer.biases - np.float32(three)
            return arrays
    raise WeightsError(
        f"{path}: its {len(layers)} convolutions are not in the order of a MobileNet classifier or of DeepLab without"
        " atrous branches; detectors can only be read from checkpoints and frozen graphs"
    )


def _networks(pooled: bool) -> Iterator[list[tuple[str, tuple[bool, int]]]]:
    """Name scopes and kinds of the layers of each known network."""
    for name, scope in SCOPES.items():
        v3 = scope == "MobilenetV3"
        tap = {"mobilenet_v1": "block12", "mobilenet_v2": "block16"}.get(name) if pooled else None
        if pooled and tap is None:
            continue
        for options in ({}, {"minimalistic": True}) if v3 else ({},):
            with torch.device("meta"):
                backbone = create_backbone(name, taps=[tap] if tap else None, **options)
            names = []
            for key, layer in layers_by_scope(backbone, scope):
                conv = layer.conv if isinstance(layer, ConvNormAct) else layer
                names.append((key, (conv.groups > 1, conv.kernel_size[0])))
            head = [f"{scope}/Conv_2"] * v3 + [f"{scope}/Logits/Conv2d_1c_1x1"]
            yield names + [(key, (False, 1)) for key in (_DEEPLAB if pooled else head)]


def _layers(path: Path, tflite: Any, model: Any) -> Iterator[_Layer]:
    """Layers in order of execution, which is the order in the file."""
    graph = model.Subgraphs(0)
    codes = [model.OperatorCodes(index) for index in range(model.OperatorCodesLength())]
    # Codes above 127 are in the newer field, all others in the older one.
    numbers = [max(code.BuiltinCode(), code.DeprecatedBuiltinCode()) for code in codes]
    operator = tflite.BuiltinOperator
    options = {
        operator.CONV_2D: tflite.Conv2DOptions,
        operator.DEPTHWISE_CONV_2D: tflite.DepthwiseConv2DOptions,
        operator.FULLY_CONNECTED: tflite.FullyConnectedOptions,
    }
    halves: dict[int, int] = {}  # outputs of DEQUANTIZE for constants in half precision
    for index in range(graph.OperatorsLength()):
        step = graph.Operators(index)
        number = numbers[step.OpcodeIndex()]
        if number == operator.DEQUANTIZE:
            halves[step.Outputs(0)] = step.Inputs(0)
        if number not in options:
            continue
        details = options[number]()
        details.Init(step.BuiltinOptions().Bytes, step.BuiltinOptions().Pos)
        relu6 = details.FusedActivationFunction() == tflite.ActivationFunctionType.RELU6
        constants = [
            _array(path, model, graph.Tensors(halves.get(step.Inputs(i), step.Inputs(i))))
            for i in range(1, step.InputsLength())
            if step.Inputs(i) >= 0
        ]
        name = graph.Tensors(step.Outputs(0)).Name().decode()
        # Converters give a layer without bias a bias of zeros.
        if len(constants) < 2 or not constants[1].any():
            raise WeightsError(f"{path}: {name} has no bias, so its batch norm is not folded into it")
        weights = constants[0] if constants[0].ndim == 4 else constants[0][:, None, None]
        cells = int(np.prod(graph.Tensors(step.Outputs(0)).ShapeAsNumpy()[1:-1]))
        yield _Layer(number == operator.DEPTHWISE_CONV_2D, weights.transpose(1, 2, 3, 0), constants[1], cells, relu6)


def _array(path: Path, model: Any, tensor: Any) -> NDArray[np.float32]:
    """A constant, dequantised per tensor or per channel."""
    name = tensor.Name().decode()
    dtype = _DTYPES.get(tensor.Type())
    if dtype is None:
        raise WeightsError(f"{path}: {name} has TensorFlow Lite's type {tensor.Type()}, which is not supported")
    buffer = model.Buffers(tensor.Buffer())
    if buffer.DataIsNone():
        raise WeightsError(f"{path}: {name} is not a constant")
    array = buffer.DataAsNumpy().view(dtype).reshape(tensor.ShapeAsNumpy())
    quantization = tensor.Quantization()
    if quantization is None or quantization.ScaleIsNone():
        if array.dtype.kind != "f":
            raise WeightsError(f"{path}: {name} contains integers without a scale")
        return np.asarray(array, np.float32)
    shape = [1] * array.ndim
    shape[quantization.QuantizedDimension()] = -1 if quantization.ScaleLength() > 1 else 1
    scale = quantization.ScaleAsNumpy().reshape(shape)
    zero = 0 if quantization.ZeroPointIsNone() else quantization.ZeroPointAsNumpy().reshape(shape)
    return np.asarray((array.astype(np.float64) - zero) * scale, np.float32)
