"""ONNX models in int8: weights by channel, activations by ranges seen on the calibration images."""

import ast
import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mnv2vision.deploy.formats.watched import RULES, Rule, Runner, Watched
from mnv2vision.errors import ConfigError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

OPERATORS = ("Conv", "Gemm", "Add", "Clip", "Relu", "Concat", "GlobalAveragePool", "Reshape", "Expand")
_LAYERS = ("Conv", "Gemm")
_SCOPES = "pkg.torch.onnx.name_scopes"
_COMPARED = 24  # calibration images on which rules are compared
_WIDER = 1.01
WHOLE, HALF = 127, 64
"""The largest whole number of a weight."""


def quantise(
    model: "ModelProto",
    biases: Mapping[str, Tensor],
    images: Sequence[NDArray[Any]],
    keep_float: Collection[str],
    half_range: bool = False,
) -> tuple["ModelProto", dict[str, object]]:
    """The model with pairs of QuantizeLinear and DequantizeLinear, which runtimes compute in int8.

    Of the rules for ranges the one is taken whose outputs come nearest to float's on some of the images: which one does
    differs by model.

    Args:
        model: Of `onnx.float_model`.
        biases: Corrected ones, by name; see `correct_biases`.
        images: For calibration, in the layout and type of the model's input, without the batch.
        keep_float: Paths of modules to leave in float.
        half_range: Weights up to 64 instead of 127: the sum of two products with an activation then fits into 16 bits,
            in which processors without VNNI compute it, and otherwise clip.

    Returns:
        The quantised model, and how it was made, for `Written.quantisation`.

    Raises:
        ConfigError: For a path that no layer has.
    """
    nodes = quantised_nodes(model, keep_float)
    watched = Watched(model, _activations(model, nodes), images)
    corrected = copy.deepcopy(model)
    _replace_biases(corrected, biases)
    answers = _answers(model)
    compared = [images[index] for index in np.linspace(0, len(images) - 1, min(_COMPARED, len(images))).astype(int)]
    expected = _run(model, answers, compared)
    made = {rule: _with_pairs(copy.deepcopy(corrected), nodes, watched.ranges(rule), half_range) for rule in RULES}
    noise = {rule: _noise(_run(made[rule], answers, compared), expected) for rule in RULES}
    best: Rule = min(noise, key=lambda rule: noise[rule])
    return made[best], {
        "scheme": f"QDQ; weights int8 up to {HALF if half_range else WHOLE}, symmetric, by channel;"
        " activations uint8, by tensor; biases corrected",
        "calibration": best,
        "noise": noise,
        "images": len(images),
        "keep_float": sorted(keep_float),
    }


def scopes(node: "NodeProto") -> tuple[str, ...]:
    """Paths of the modules that a node of `float_model` belongs to, the outermost first."""
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            return tuple(ast.literal_eval(entry.value))[:-1]
    return ()


def in_network(node: "NodeProto") -> bool:
    """Whether it is of the network: not of the normalisation before it, nor of what decodes its outputs."""
    return "model" in scopes(node)


def quantised_nodes(model: "ModelProto", keep_float: Iterable[str]) -> list[str]:
    """Names of the nodes that int8 computes; ConfigError for paths that no node belongs to."""
    kept, known, names = set(keep_float), set(), []
    for node in model.graph.node:
        paths = [f"{path}." for path in scopes(node)]
        found = {path for path in kept if any(inner.startswith(f"{path}.") for inner in paths)}
        known |= found
        if node.op_type in OPERATORS and in_network(node) and not found:
            names.append(node.name)
    if unknown := sorted(kept - known):
        raise ConfigError(f"keep_float={unknown}: the graph has no such layers")
    return names


def _activations(model: "ModelProto", nodes: Collection[str]) -> list[str]:
    constants, wanted = {item.name for item in model.graph.initializer}, set(nodes)
    names = [name for node in model.graph.node if node.name in wanted for name in (*node.input, *node.output)]
    return [name for name in dict.fromkeys(names) if name and name not in constants]


def _answers(model: "ModelProto") -> list[str]:
    """What leaves the network."""
    outside = {output.name for output in model.graph.output}
    outside |= {name for node in model.graph.node if not in_network(node) for name in node.input}
    return [name for node in model.graph.node if in_network(node) for name in node.output if name in outside]


def _run(model: "ModelProto", tensors: Sequence[str], images: Sequence[NDArray[Any]]) -> list[NDArray[np.float32]]:
    run = Runner(model, tensors)
    found = [run(image[None]) for image in images]
    return [np.concatenate([answer[name][:1] for answer in found]) for name in tensors]


def _noise(found: Sequence[NDArray[np.float32]], expected: Sequence[NDArray[np.float32]]) -> float:
    """Power of the error over the variance of what is expected, the mean over tensors."""
    shares = [np.square(a - b).mean() / max(b.var(), 1e-12) for a, b in zip(found, expected, strict=True)]
    return float(np.mean(shares))


def _replace_biases(model: "ModelProto", biases: Mapping[str, Tensor]) -> None:
    from onnx import numpy_helper

    for item in model.graph.initializer:  # by the names of the graph's parameters
        if item.name in biases:
            item.CopyFrom(numpy_helper.from_array(biases[item.name].numpy(), item.name))


def _with_pairs(
    model: "ModelProto", nodes: Collection[str], ranges: dict[str, tuple[float, float]], half_range: bool
) -> "ModelProto":
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    _guard_float_layers(model, nodes, ranges)
    clipped = {node.output[0] for node in model.graph.node if node.op_type in ("Clip", "Relu")}
    limits = {name: tuple(np.array(end, np.float32) for end in ends) for name, ends in ranges.items()}
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=half_range,  # of weights alone
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, limits),
        nodes_to_quantize=list(nodes),
        nodes_to_exclude=[],
        op_types_to_quantize=list(OPERATORS),
        extra_options={},
    )
    quantizer.quantize_model()
    quantised: ModelProto = quantizer.model.model
    _leave_outputs_in_float(quantised, clipped)
    return quantised


def _guard_float_layers(model: "ModelProto", nodes: Collection[str], ranges: dict[str, tuple[float, float]]) -> None:
    """Keep ONNX Runtime from quantising layers that are to stay in float.

    Its optimiser (WeightBiasQuantization) quantises the weights, by tensor, of any layer between a DequantizeLinear
    and a QuantizeLinear, and drops a Clip that quantisation makes needless. So each gets a Clip that is not needless:
    to its range, before a quantisation of a slightly wider one.
    """
    import onnx

    graph, wanted = model.graph, set(nodes)
    for node in list(graph.node):
        if node.op_type not in _LAYERS or node.name in wanted or not in_network(node):
            continue
        (name,) = node.output
        users = [user for user in graph.node if name in user.input]
        if len(users) == 1 and users[0].op_type in ("Clip", "Relu"):
            name = users[0].output[0]
            users = [user for user in graph.node if name in user.input]
        if name not in ranges or not any(user.name in wanted for user in users):
            continue
        low, high = ranges[name]
        ends = [
            onnx.numpy_helper.from_array(np.array(end, np.float32), f"{name}_{side}")
            for side, end in (("low", low), ("high", high))
        ]
        graph.initializer.extend(ends)
        inner = f"{name}_free"
        for producer in graph.node:
            producer.output[:] = [inner if output == name else output for output in producer.output]
        clip = onnx.helper.make_node("Clip", [inner, ends[0].name, ends[1].name], [name], name=f"{name}_guard")
        index = next(i for i, other in enumerate(graph.node) if inner in other.output)
        graph.node.insert(index + 1, clip)
        ranges[name] = low * _WIDER, high * _WIDER


def _leave_outputs_in_float(model: "ModelProto", clipped: Collection[str]) -> None:
    """Remove the pairs behind which nothing is computed in int8: the last layers give their outputs in full.

    Not of `clipped` tensors: the quantiser has removed their Clip, whose part the pair plays.
    """
    graph = model.graph
    users: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    known: dict[str, bool] = {}

    def leads_to_int8(name: str) -> bool:
        if name not in known:
            nodes = users.get(name, ())
            known[name] = any(
                node.op_type == "QuantizeLinear" or any(map(leads_to_int8, node.output)) for node in nodes
            )
        return known[name]

    for node in list(graph.node):
        if node.op_type != "QuantizeLinear":
            continue
        (back,) = users[node.output[0]]
        (source, *_), (after,) = node.input, back.output
        if source in clipped or leads_to_int8(after):
            continue
        graph.node.remove(node)
        graph.node.remove(back)
        is_output = after in {output.name for output in graph.output}
        old, new = (source, after) if is_output else (after, source)  # outputs keep their names
        for other in graph.node:
            other.input[:] = [new if name == old else name for name in other.input]
            other.output[:] = [new if name == old else name for name in other.output]
