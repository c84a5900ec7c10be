"""TensorFlow's variables by name, and the layers of our backbones that they belong to."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mnv2vision.backbones import Backbone, create_backbone
from mnv2vision.backbones.blocks import DepthwiseSeparable, InvertedResidual
from mnv2vision.backbones.folding import carry_bias
from mnv2vision.backbones.layers import ConvNormAct
from mnv2vision.errors import WeightsError

# Widths that TF-slim has published weights for.
_WIDTHS = {
    "mobilenet_v2": (1.0, 1.4, 1.3, 0.75, 0.5, 0.35),
    "mobilenet_v1": (1.0, 0.75, 0.5, 0.25),
    "mobilenet_v3_large": (1.0, 0.75),
    "mobilenet_v3_small": (1.0, 0.75),
}
SCOPES = {
    "mobilenet_v2": "MobilenetV2",
    "mobilenet_v1": "MobilenetV1",
    "mobilenet_v3_large": "MobilenetV3",
    "mobilenet_v3_small": "MobilenetV3",
}
"""TF-slim's name scope of each backbone."""
# Optimiser slots, counters and the like, which training leaves in a checkpoint.
_TRAINING_ONLY = ("RMSProp", "RMSProp_1", "Momentum", "ExponentialMovingAverage", "global_step", "local_step", "biased")


class Variables:
    """TensorFlow variables by name; records which were taken, so that unexpected ones are noticed.

    Attributes:
        source: The file's name, for messages.
    """

    def __init__(self, arrays: Mapping[str, NDArray[np.generic]], source: str) -> None:
        averaged = {
            name.removesuffix("/ExponentialMovingAverage"): array
            for name, array in arrays.items()
            if name.endswith("/ExponentialMovingAverage")
        }
        self._arrays = {
            name: array for name, array in arrays.items() if name.rsplit("/", 1)[-1] not in _TRAINING_ONLY
        } | averaged  # where a checkpoint has both, evaluation should use the averages
        self._left = set(self._arrays)
        self.source = source

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def names(self, prefix: str) -> list[str]:
        """Names that start with a prefix."""
        return [name for name in self._arrays if name.startswith(prefix)]

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a variable; None if there is none of that name."""
        return self._arrays[name].shape if name in self._arrays else None

    def take(self, name: str, target: Tensor, axes: tuple[int, ...] | None = None) -> Tensor:
        """Take a variable, with its axes permuted.

        Args:
            name: The variable's name.
            target: A tensor of the shape and type wanted.
            axes: Order of the variable's axes; unchanged if None.

        Raises:
            WeightsError: If it is missing or does not fit.
        """
        if name not in self._arrays:
            raise WeightsError(f"{self.source}: lacks the variable {name}")
        self._left.discard(name)
        array = self._arrays[name]
        fits = axes is None or len(axes) == array.ndim
        tensor = torch.from_numpy(np.array(array.transpose(axes) if axes and fits else array, order="C"))
        if tensor.shape != target.shape:
            raise WeightsError(
                f"{self.source}: {name} is {array.shape}, which does not fit a parameter of {tuple(target.shape)}"
            )
        return tensor.to(target.dtype)

    def check_all_taken(self) -> None:
        """Raise WeightsError, naming a variable, unless all were taken."""
        if self._left:
            name = min(self._left)
            raise WeightsError(
                f"{self.source}: {name} {self._arrays[name].shape} has no place in the model"
                f" ({len(self._left)} variables are left over)"
            )


def layers_by_scope(backbone: Backbone, scope: str) -> Iterator[tuple[str, ConvNormAct | nn.Conv2d]]:
    """TensorFlow's name scope of each convolution of a backbone, in order of computation."""
    for name, layer in backbone.layers():
        index = int(name.removeprefix("block")) if name.startswith("block") else 0
        if isinstance(layer, InvertedResidual):
            block = f"{scope}/expanded_conv{f'_{index}' if index else ''}"
            if layer.expand is not None:
                yield f"{block}/expand", layer.expand
            if not layer.expansion_only:
                yield f"{block}/depthwise", layer.depthwise
                if layer.squeeze_excite is not None:
                    yield f"{block}/squeeze_excite/Conv", layer.squeeze_excite.reduce
                    yield f"{block}/squeeze_excite/Conv_1", layer.squeeze_excite.expand
                yield f"{block}/project", layer.project
        elif isinstance(layer, DepthwiseSeparable):
            yield f"{scope}/Conv2d_{index + 1}_depthwise", layer.depthwise
            yield f"{scope}/Conv2d_{index + 1}_pointwise", layer.pointwise
        elif name == "stem":
            yield f"{scope}/{'Conv2d_0' if scope.endswith('V1') else 'Conv'}", layer
        else:
            yield f"{scope}/Conv_1", layer


@torch.no_grad()
def assign(layer: ConvNormAct | nn.Conv2d, scope: str, variables: Variables) -> None:
    """Set a layer from the variables in a scope; their batch norm may be folded into weights and biases."""
    conv = layer.conv if isinstance(layer, ConvNormAct) else layer
    depthwise = conv.groups > 1
    weights = f"{scope}/{'depthwise_weights' if depthwise else 'weights'}"
    conv.weight.copy_(variables.take(weights, conv.weight, (2, 3, 0, 1) if depthwise else (3, 2, 0, 1)))
    if conv.bias is not None:
        conv.bias.copy_(variables.take(f"{scope}/biases", conv.bias))
        return
    assert isinstance(layer, ConvNormAct)
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
    # TensorFlow's norms may have no scale.
    if f"{scope}/BatchNorm/gamma" in variables:
        norm.weight.copy_(variables.take(f"{scope}/BatchNorm/gamma", norm.weight))
    else:
        norm.weight.fill_(1.0)


def architecture(
    variables: Variables, prefix: str = "", *, divisor: int | None = None
) -> tuple[dict[str, object], str]:
    """Find the backbone by the variables' names and shapes.

    Args:
        variables: Variables of a model.
        prefix: Prefix of the backbone's scope, such as "FeatureExtractor/".
        divisor: See `MobileNetV2`; its default if None.

    Returns:
        Backbone, width and TensorFlow's conventions as options of `create_model`; and the backbone's name scope.

    Raises:
        WeightsError: If the variables are not of a known backbone of a published width.
    """
    for name in _WIDTHS:
        scope = prefix + SCOPES[name]
        if not _names(name, scope, variables):
            continue
        for width in _WIDTHS[name]:
            options: dict[str, object] = {"width": width, "padding": "tf", "norm_eps": 1e-3, "norm_momentum": 0.003}
            if divisor is not None and name == "mobilenet_v2":
                options["divisor"] = divisor
            # Block 5 has a gate in the large and the small network, but not in their minimalistic variants.
            if (
                SCOPES[name] == "MobilenetV3"
                and f"{scope}/expanded_conv_5/squeeze_excite/Conv/weights" not in variables
            ):
                options["minimalistic"] = True
            with torch.device("meta"):
                backbone = create_backbone(name, **options)
            if all(_fits(layer, key, variables) for key, layer in layers_by_scope(backbone, scope)):
                return {"backbone": name, **options}, scope
        raise WeightsError(
            f"{variables.source}: has a {scope}, but of no published width ({', '.join(map(str, _WIDTHS[name]))})"
        )
    expected = " or ".join(dict.fromkeys(prefix + scope for scope in SCOPES.values()))
    raise WeightsError(f"{variables.source}: no variables of {expected}")


def _names(name: str, scope: str, variables: Variables) -> bool:
    """Whether the variables' names are those of this backbone."""
    if not any(f"{scope}/{stem}/weights" in variables for stem in ("Conv", "Conv2d_0")):
        return False
    # The small MobileNetV3 ends with block 10.
    large = any(variables.names(f"{scope}/expanded_conv_{index}/") for index in range(11, 15))
    return {"mobilenet_v3_large": large, "mobilenet_v3_small": not large}.get(name, True)


def _fits(layer: ConvNormAct | nn.Conv2d, scope: str, variables: Variables) -> bool:
    depthwise = isinstance(layer, ConvNormAct) and layer.conv.groups > 1
    shape = variables.shape(f"{scope}/{'depthwise_weights' if depthwise else 'weights'}")
    # A missing or misshapen variable is reported later; only sizes tell widths apart.
    return shape is None or len(shape) != 4 or shape[2 if depthwise else 3] == layer.out_channels
