"""The constants of TensorFlow's frozen graphs and SavedModels, by the names of the variables they once were.

Sources: TF tensorflow/core/framework/graph.proto, node_def.proto, attr_value.proto, tensor.proto and
tensorflow/core/protobuf/saved_model.proto, meta_graph.proto.
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnv2vision.errors import WeightsError
from mnv2vision.weights.importers.tf_checkpoint import DTYPES, fields, integer, read_checkpoint, shape_of

# Names of layers' variables; a graph has other constants too: shapes, anchors, preprocessing.
_VARIABLES = ("weights", "depthwise_weights", "biases", "gamma", "beta", "moving_mean", "moving_variance")
_CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative")
_SUMS = ("BiasAdd", "Add", "AddV2")
# Operators that may stand between a constant and its use, or between an atrous convolution and its bias.
_PASSING = ("Identity", "BatchToSpaceND")
# Fields of SavedModel, MetaGraphDef and GraphDef.
_META_GRAPHS, _GRAPH, _NODES = 2, 2, 1
# Fields of NodeDef, of an item of its map of attributes, of AttrValue and of TensorProto.
_NAME, _OP, _INPUT, _ATTRIBUTE = 1, 2, 3, 5
_KEY, _VALUE = 1, 2
_TENSOR = 8
_DTYPE, _SHAPE, _CONTENT = 1, 2, 4
# The field that holds a tensor's numbers one by one, by data type.
_NUMBERS = {1: 5, 2: 6}


class _Node(NamedTuple):
    """A NodeDef; `value` is the TensorProto of a constant."""

    name: str
    op: str
    inputs: list[str]
    value: bytes


def read_graph(path: Path) -> dict[str, NDArray[np.generic]]:
    """Read the arrays of a frozen graph (.pb), batch norm kept or folded.

    Raises:
        WeightsError: For a constant of an unsupported data type.
        ValueError: For a damaged file.
    """
    return _constants(path.read_bytes(), path)


def read_saved_model(folder: Path) -> dict[str, NDArray[np.generic]]:
    """Read the arrays of a SavedModel of TensorFlow 1, whose variables are saved beside its graph or frozen into it.

    Raises:
        WeightsError: For another kind of folder, or a SavedModel of TensorFlow 2, which lacks variable names.
        ValueError: For a damaged file.
    """
    path = folder / "saved_model.pb"
    if (folder / "variables/variables.index").is_file():
        return read_checkpoint(folder / "variables/variables")
    if not path.is_file():
        raise WeightsError(
            f"{folder}: a folder without saved_model.pb; name a checkpoint by its prefix, such as"
            f" {folder / 'model.ckpt-1000'}"
        )
    metas = [value for number, value in fields(path.read_bytes()) if number == _META_GRAPHS]
    graphs = [value for meta in metas for number, value in fields(meta) if number == _GRAPH]
    if not graphs:
        raise WeightsError(f"{path}: contains no graph")
    return _constants(graphs[0], path)


def _constants(graph: int | bytes, path: Path) -> dict[str, NDArray[np.generic]]:
    parsed = (_node(message) for number, message in fields(graph) if number == _NODES)
    nodes = {node.name: node for node in parsed}

    def source(name: str) -> _Node | None:
        node = nodes.get(name.removeprefix("^").split(":")[0])
        while node is not None and node.op in _PASSING:
            node = nodes.get(node.inputs[0].split(":")[0])
        return node

    constants: dict[str, _Node] = {}
    for node in nodes.values():
        if node.op in _PASSING:
            continue
        inputs = [found for name in node.inputs if (found := source(name)) is not None]
        for constant in inputs:  # only those in use: folding may leave unused ones behind
            scope, _, name = constant.name.rpartition("/")
            name = "weights" if name == "Conv2D_weights" else name  # optimize_for_inference's
            if constant.op == "Const" and name in _VARIABLES:
                constants[f"{scope}/{name}"] = constant
        if node.op in _SUMS and [found.op in _CONVOLUTIONS for found in inputs] == [True, False]:
            # Folding leaves the norm's offset as a bias, under a name of the folding tool's.
            weights, offset = source(inputs[0].inputs[1]), inputs[1]
            if weights is not None and weights.name.endswith("weights") and offset.op == "Const":
                constants[f"{weights.name.rpartition('/')[0]}/biases"] = offset
    return {name: _array(node, path) for name, node in constants.items()}


def _node(message: int | bytes) -> _Node:
    texts: dict[int, str] = {_NAME: "", _OP: ""}
    inputs, value = [], b""
    for number, content in fields(message):
        if not isinstance(content, bytes):
            continue
        if number in texts:
            texts[number] = content.decode()
        elif number == _INPUT:
            inputs.append(content.decode())
        elif number == _ATTRIBUTE:
            item = dict(fields(content))
            if item.get(_KEY) == b"value":
                tensor = dict(fields(item.get(_VALUE, b""))).get(_TENSOR, b"")
                value = tensor if isinstance(tensor, bytes) else b""
    return _Node(texts[_NAME], texts[_OP], inputs, value)


def _array(node: _Node, path: Path) -> NDArray[np.generic]:
    """A constant's value; numbers given one by one repeat the last one to fill the shape."""
    message = list(fields(node.value))
    single = dict(message)
    kind = integer(single, _DTYPE)
    content = single.get(_CONTENT, b"")
    if kind not in DTYPES or not (content or kind in _NUMBERS):
        raise WeightsError(f"{path}: {node.name} has TensorFlow's data type {kind}, which is not supported")
    if not content:
        content = b"".join(part for number, part in message if number == _NUMBERS[kind] and isinstance(part, bytes))
    if isinstance(content, int):
        raise ValueError("an integer instead of a tensor's content")
    shape = shape_of(single.get(_SHAPE, b""))
    array = np.frombuffer(content, DTYPES[kind])
    count = math.prod(shape)
    if 0 < len(array) < count and _CONTENT not in single:
        array = np.pad(array, (0, count - len(array)), mode="edge")
    return array.reshape(shape)
