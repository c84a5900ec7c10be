"""ONNX files."""

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mnv2vision.common.atomic import atomic_path
from mnv2vision.deploy.formats.onnx_int8 import HALF, WHOLE, in_network, quantise
from mnv2vision.deploy.graph import ExportGraph
from mnv2vision.deploy.int8 import correct_biases
from mnv2vision.deploy.written import ExportOptions, Written
from mnv2vision.errors import ConfigError
from mnv2vision.inference.bundle import TensorSpec

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 20
INPUT = "images"
METADATA = "mnv2vision"
"""The key of the metadata that holds `model.json`."""


def export(graph: ExportGraph, path: Path, options: ExportOptions) -> Written:
    """Write an ONNX file.

    Args:
        graph: What it computes.
        path: Of the file, which is written whole or not at all.
        options: Precision, input type, batch, calibration images.

    Returns:
        The file's edges.

    Raises:
        ConfigError: Where onnx, onnxscript or, for int8, onnxruntime are missing.
    """
    model, written = convert(graph, options)
    write(model, path)
    return written


def convert(graph: ExportGraph, options: ExportOptions, *, half_range: bool = False) -> tuple["ModelProto", Written]:
    """The file's content and edges; see `export`, and `onnx_int8.quantise` for int8 of half the range."""
    model = float_model(graph, options)
    quantisation: dict[str, object] = {}
    edges = _spec(model.graph.input[0]), tuple(_spec(output) for output in model.graph.output)
    if options.precision == "fp16":
        model = _fp16(model)
    elif options.precision == "int8":
        _need("onnxruntime")
        if not options.calibration:
            raise ConfigError("int8 needs images for calibration: give the data set; 300 of its photos are taken")
        corrected = correct_biases(graph, options.calibration, options.keep_float, HALF if half_range else WHOLE)
        biases = {name: value for name, value in corrected.state_dict().items() if name.endswith(".bias")}
        images = [image if graph.layout == "NHWC" else image.transpose(2, 0, 1) for image in options.calibration]
        with quiet():
            model, quantisation = quantise(
                model, biases, [image.astype(options.dtype) for image in images], options.keep_float, half_range
            )
    return model, Written(*edges, quantisation)


def float_model(graph: ExportGraph, options: ExportOptions) -> "ModelProto":
    """The graph in float32, with the paths of the modules in its nodes' metadata."""
    _need("onnx", "onnxscript")
    from onnxscript import opset20

    def pool(images: Any, size: Any) -> Any:
        """Without it, torch's own decomposition ends in strides of memory; all our pooling is to one value."""
        return opset20.GlobalAveragePool(images)

    example = graph.eval().example(options.batch or 2, getattr(torch, options.dtype))  # 1 would become a constant
    dynamic = None if options.batch else {INPUT: {0: "batch"}}
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            graph,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(graph.output_names),
            dynamic_shapes=dynamic,
            custom_translation_table={torch.ops.aten.adaptive_avg_pool2d.default: pool},
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def embed(path: Path, text: str) -> None:
    """Put `model.json` into a file's metadata; its sha256, which this changes, can only be taken afterwards."""
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, {METADATA: text})
    write(model, path)


def write(model: "ModelProto", path: Path) -> None:
    """Write a model, whole or not at all, without what the exporter notes on its nodes."""
    for node in model.graph.node:  # stack traces and names of this machine's files
        del node.metadata_props[:]
        node.doc_string = ""
    with atomic_path(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))


def _fp16(model: "ModelProto") -> "ModelProto":
    """The network in float16; normalisation, decoding and the edges stay in float32."""
    _need("onnxruntime")
    from onnxruntime.transformers.float16 import convert_float_to_float16

    outside = [node.name for node in model.graph.node if not in_network(node)]
    with quiet():
        half: ModelProto = convert_float_to_float16(model, keep_io_types=True, node_block_list=outside)
    return half


def _need(*modules: str) -> None:
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ConfigError(
                f"ONNX models are written by {module}, which cannot be imported ({error}):"
                " pip install 'mnv2vision[onnx]'"
            ) from error


def _spec(value: Any) -> TensorSpec:
    import onnx

    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return TensorSpec(value.name, dtype, tuple(dim.dim_value or None for dim in tensor.shape.dim))


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what exporters and quantisers say from the screen."""
    disabled = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(disabled)
