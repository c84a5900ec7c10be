"""TensorFlow's variables by name, and the layers of the backbones that they belong to."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mnv2vision.backbones import Backbone, create_backbone
from mnv2vision.backbones.blocks import DepthwiseSeparable, InvertedResidual
from mnv2vision.backbones.folding import carry_bias
from mnv2vision.backbones.layers import ConvNormAct
from mnv2vision.errors import WeightsError

# Widths that TF-slim published weights for.
_WIDTHS = {"mobilenet_v2": (1.0, 1.4, 1.3, 0.75, 0.5, 0.35), "mobilenet_v1": (1.0, 0.75, 0.5, 0.25)}
_SCOPES = {"mobilenet_v2": "MobilenetV2", "mobilenet_v1": "MobilenetV1"}
# Optimiser slots, counters and the like, which training leaves in a checkpoint.
_TRAINING_ONLY = ("RMSProp", "RMSProp_1", "Momentum", "ExponentialMovingAverage", "global_step", "local_step", "biased")


class Variables:
    """TensorFlow variables by name; remembers which were taken, so that none is left over unnoticed."""

    def __init__(self, arrays: Mapping[str, NDArray[np.float32]], source: str) -> None:
        averaged = {
            name.removesuffix("/ExponentialMovingAverage"): array
            for name, array in arrays.items()
            if name.endswith("/ExponentialMovingAverage")
        }
        self._arrays = {
            name: array for name, array in arrays.items() if name.rsplit("/", 1)[-1] not in _TRAINING_ONLY
        } | averaged  # evaluation is meant to use the averages where a checkpoint has both
        self._left = set(self._arrays)
        self.source = source

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a variable, or None."""
        return self._arrays[name].shape if name in self._arrays else None

    def take(self, name: str, target: Tensor, axes: tuple[int, ...] | None = None) -> Tensor:
        """A variable with its axes permuted to fit `target`; WeightsError if it is missing or does not fit."""
        if name not in self._arrays:
            raise WeightsError(f"{self.source}: lacks the variable {name}")
        self._left.discard(name)
        array = self._arrays[name]
        fits = axes is None or len(axes) == array.ndim
        tensor = torch.from_numpy(np.ascontiguousarray(array.transpose(axes) if axes and fits else array))
        if tensor.shape != target.shape:
            raise WeightsError(
                f"{self.source}: {name} is {array.shape}, which does not fit a parameter of {tuple(target.shape)}"
            )
        return tensor.to(target.dtype)

    def check_all_taken(self) -> None:
        """WeightsError naming a variable that has no place in the model."""
        if self._left:
            name = min(self._left)
            raise WeightsError(
                f"{self.source}: {name} {self._arrays[name].shape} has no place in the model"
                f" ({len(self._left)} variables left over)"
            )


def read_variables(path: str | os.PathLike[str]) -> Variables:
    """Read TensorFlow variables.

    Args:
        path: A .safetensors or .npz file of name -> array, or a TensorFlow checkpoint (its prefix or its .index
            file), for which the `tensorflow` extra must be installed.

    Raises:
        WeightsError: For a missing or unreadable file.
    """
    path = Path(path)
    if path.suffix in (".safetensors", ".npz"):
        if not path.is_file():
            raise WeightsError(f"{path}: no such file")
        try:
            return Variables(_read_arrays(path), str(path))
        except Exception as error:  # the readers raise many kinds for corrupt files
            raise WeightsError(f"{path}: cannot be read ({error})") from error
    prefix = str(path.with_suffix("")) if path.suffix == ".index" else str(path)
    if not Path(f"{prefix}.index").is_file():
        raise WeightsError(f"{path}: no such .safetensors or .npz file, nor a TensorFlow checkpoint {prefix}.index")
    try:
        import tensorflow
    except ImportError as error:
        raise WeightsError(
            f"{path}: reading TensorFlow checkpoints needs pip install 'mnv2vision[tensorflow]'"
        ) from error
    reader = tensorflow.train.load_checkpoint(prefix)
    return Variables({name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}, str(path))


def _read_arrays(path: Path) -> dict[str, NDArray[np.float32]]:
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    from safetensors.numpy import load_file

    return dict(load_file(path))


def layers_by_scope(backbone: Backbone, scope: str) -> Iterator[tuple[str, ConvNormAct]]:
    """TensorFlow's name scope of each convolution of a MobileNetV1 or V2."""
    for name, layer in backbone.layers():
        index = int(name.removeprefix("block")) if name.startswith("block") else 0
        if isinstance(layer, InvertedResidual):
            block = f"{scope}/expanded_conv{f'_{index}' if index else ''}"
            if layer.expand is not None:
                yield f"{block}/expand", layer.expand
            if not layer.expansion_only:
                yield f"{block}/depthwise", layer.depthwise
                yield f"{block}/project", layer.project
        elif isinstance(layer, DepthwiseSeparable):
            yield f"{scope}/Conv2d_{index + 1}_depthwise", layer.depthwise
            yield f"{scope}/Conv2d_{index + 1}_pointwise", layer.pointwise
        elif name == "stem":
            yield f"{scope}/{'Conv2d_0' if scope.endswith('V1') else 'Conv'}", layer
        else:
            yield f"{scope}/Conv_1", layer


@torch.no_grad()
def assign(layer: ConvNormAct, scope: str, variables: Variables) -> None:
    """Set a layer from the variables of its scope, whose batch norm may be folded into weights and biases."""
    depthwise = layer.conv.groups > 1
    weights = f"{scope}/{'depthwise_weights' if depthwise else 'weights'}"
    layer.conv.weight.copy_(variables.take(weights, layer.conv.weight, (2, 3, 0, 1) if depthwise else (3, 2, 0, 1)))
    norm = layer.norm
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    if f"{scope}/biases" in variables:
        carry_bias(norm, variables.take(f"{scope}/biases", norm.bias))
        return
    for name, target in (
        ("beta", norm.bias),
        ("moving_mean", norm.running_mean),
        ("moving_variance", norm.running_var),
    ):
        target.copy_(variables.take(f"{scope}/BatchNorm/{name}", target))
    # TensorFlow's layers may come without scale.
    if f"{scope}/BatchNorm/gamma" in variables:
        norm.weight.copy_(variables.take(f"{scope}/BatchNorm/gamma", norm.weight))
    else:
        norm.weight.fill_(1.0)


def architecture(variables: Variables, prefix: str = "", *, divisor: int | None = None) -> tuple[dict[str, Any], str]:
    """Backbone and width by the variables' names and shapes, with TensorFlow's conventions, and the name scope.

    Args:
        variables: Of a model.
        prefix: Of the backbone's scope, such as "FeatureExtractor/".
        divisor: See `MobileNetV2`; None for its own.
    """
    for name, scope in _SCOPES.items():
        scope = prefix + scope
        if not any(f"{scope}/{stem}/weights" in variables for stem in ("Conv", "Conv2d_0")):
            continue
        for width in _WIDTHS[name]:
            options: dict[str, Any] = {"width": width, "padding": "tf", "norm_eps": 1e-3, "norm_momentum": 0.003}
            if divisor is not None and name == "mobilenet_v2":
                options["divisor"] = divisor
            with torch.device("meta"):
                backbone = create_backbone(name, **options)
            if all(_fits(layer, key, variables) for key, layer in layers_by_scope(backbone, scope)):
                return {"backbone": name, **options}, scope
        raise WeightsError(
            f"{variables.source}: holds a {scope}, but none of a published width ({', '.join(map(str, _WIDTHS[name]))})"
        )
    expected = " or ".join(prefix + scope for scope in _SCOPES.values())
    raise WeightsError(f"{variables.source}: holds no variables of {expected}")


def _fits(layer: ConvNormAct, scope: str, variables: Variables) -> bool:
    depthwise = layer.conv.groups > 1
    shape = variables.shape(f"{scope}/{'depthwise_weights' if depthwise else 'weights'}")
    # A missing or misshapen variable is named later; only sizes tell widths apart.
    return shape is None or len(shape) != 4 or shape[2 if depthwise else 3] == layer.out_channels
