"""The constants of TensorFlow's frozen graphs and SavedModels, by the names of the variables they once were."""

from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.node_def_pb2 import NodeDef
from tensorboard.util.tensor_util import make_ndarray

from mnv2vision.errors import WeightsError
from mnv2vision.weights.tensorflow_checkpoint import fields, read_checkpoint

# What variables of layers are called; a graph holds other constants, too: shapes, anchors, preprocessing.
_VARIABLES = ("weights", "depthwise_weights", "biases", "gamma", "beta", "moving_mean", "moving_variance")
_CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative")
_SUMS = ("BiasAdd", "Add", "AddV2")
# What may stand between a constant and its use, or between an atrous convolution and its bias.
_PASSING = ("Identity", "BatchToSpaceND")
# Fields of SavedModel and of MetaGraphDef.
_META_GRAPHS, _GRAPH = 2, 2


def read_graph(path: Path) -> dict[str, NDArray[Any]]:
    """Arrays of a frozen graph (.pb), batch norm kept or folded."""
    return _constants(path.read_bytes())


def read_saved_model(folder: Path) -> dict[str, NDArray[Any]]:
    """Arrays of a SavedModel of TensorFlow 1, whose variables lie beside its graph or are frozen into it.

    Raises:
        WeightsError: For a folder that is none, or one of TensorFlow 2, which lacks variable names.
    """
    if (folder / "variables/variables.index").is_file():
        return read_checkpoint(folder / "variables/variables")
    if not (folder / "saved_model.pb").is_file():
        raise WeightsError(
            f"{folder}: is a folder, but holds no saved_model.pb; a checkpoint is named by its prefix, such as"
            f" {folder / 'model.ckpt-1000'}"
        )
    metas = (value for number, value in fields((folder / "saved_model.pb").read_bytes()) if number == _META_GRAPHS)
    graphs = [value for meta in metas for number, value in fields(meta) if number == _GRAPH]
    return _constants(graphs[0])


def _constants(graph: bytes) -> dict[str, NDArray[Any]]:
    nodes = {node.name: node for node in GraphDef.FromString(graph).node}

    def source(name: str) -> NodeDef | None:
        node = nodes.get(name.removeprefix("^").split(":")[0])
        while node is not None and node.op in _PASSING:
            node = nodes.get(node.input[0].split(":")[0])
        return node

    constants: dict[str, NodeDef] = {}
    for node in nodes.values():
        if node.op in _PASSING:
            continue
        inputs = [found for name in node.input if (found := source(name)) is not None]
        for constant in inputs:  # folding may leave others behind that nothing uses
            scope, _, name = constant.name.rpartition("/")
            name = "weights" if name == "Conv2D_weights" else name  # optimize_for_inference's
            if constant.op == "Const" and name in _VARIABLES:
                constants[f"{scope}/{name}"] = constant
        if node.op in _SUMS and [found.op in _CONVOLUTIONS for found in inputs] == [True, False]:
            # Folding leaves the norm's offset as a bias, under a name of the folding tool's.
            weights, offset = source(inputs[0].input[1]), inputs[1]
            if weights is not None and weights.name.endswith("weights") and offset.op == "Const":
                constants[f"{weights.name.rpartition('/')[0]}/biases"] = offset
    return {name: make_ndarray(node.attr["value"].tensor) for name, node in constants.items()}
