"""LiteRT (TensorFlow Lite) files."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mnv2vision.common.atomic import atomic_path
from mnv2vision.common.threads import usable_cores
from mnv2vision.deploy.formats.onnx import quiet
from mnv2vision.deploy.graph import ExportGraph
from mnv2vision.deploy.int8 import correct_biases
from mnv2vision.deploy.written import ExportOptions, Written
from mnv2vision.errors import ConfigError
from mnv2vision.inference.bundle import TensorSpec
from mnv2vision.inference.runtimes.litert import silent

INPUT = "images"
_OWN = r"ExportGraph_exported(;\d+)?;$"
"""Names of what `ExportGraph` computes itself, outside of the model."""


def export(graph: ExportGraph, path: Path, options: ExportOptions) -> Written:
    """Write a LiteRT file.

    Args:
        graph: What it computes.
        path: Of the file, which is written whole or not at all.
        options: Precision, input type, batch (1 by default: it is always fixed), calibration images.

    Returns:
        The file's edges.

    Raises:
        ConfigError: Where what writes it is missing, or cannot convert the graph.
    """
    try:
        with silent(), quiet():
            import ai_edge_quantizer  # noqa: F401
            import litert_torch  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"formats=[litert] needs more ({error}): pip install 'mnv2vision[litert]'") from error
    if options.precision == "int8":
        graph = correct_biases(graph, options.calibration)
    with silent(), quiet():
        content = quantised(float_model(graph, options), graph, options)
        written = _edges(content, graph)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return written


def float_model(graph: ExportGraph, options: ExportOptions) -> bytes:
    """The graph's file in float32."""
    import litert_torch

    example = graph.eval().example(options.batch or 1, getattr(torch, options.dtype))
    try:
        with torch.no_grad():
            content: bytes = litert_torch.convert(_Expanded(graph), sample_kwargs={INPUT: example}).model_content()
    except Exception as error:  # its own, of many kinds
        reason = str(error).split("error: ")[-1].splitlines()[0]
        raise ConfigError(f"formats=[litert] cannot convert post={graph.post} of this model ({reason})") from error
    return content


def quantised(content: bytes, graph: ExportGraph, options: ExportOptions) -> bytes:
    """A float file in the precision that the options say; int8 leaves normalisation, decoding and edges in float.

    Raises:
        ConfigError: For layers to keep in float: tensors carry the names of their modules, without the place in it.
    """
    if options.precision == "float":
        return content
    from ai_edge_quantizer import quantizer

    if options.keep_float:
        raise ConfigError("formats=[litert] cannot keep single layers in float: keep_float must be empty")
    made = quantizer.Quantizer(content)
    if options.precision == "fp16":
        made.add_weight_only_config(".*", "*", num_bits=16, algorithm_key="float_casting")
        return bytes(made.quantize(enable_progress_bar=False, enable_progress_report=False).quantized_model)
    made.add_static_config(".*", "*", activation_num_bits=8, weight_num_bits=8)
    for regex, operation in ((".*", "INPUT"), (".*", "OUTPUT"), (_OWN, "*")):
        made.update_quantization_recipe(regex, operation, algorithm_key="no_quantize")
    size = options.batch or 1
    images = options.calibration[: len(options.calibration) // size * size]
    batches = [np.stack(images[start : start + size]) for start in range(0, len(images), size)]
    if graph.layout == "NCHW":
        batches = [batch.transpose(0, 3, 1, 2) for batch in batches]
    given = [{INPUT: np.ascontiguousarray(batch, dtype=options.dtype)} for batch in batches]
    ranges = made.calibrate({"serving_default": given}, num_threads=usable_cores())
    return bytes(made.quantize(ranges, enable_progress_bar=False, enable_progress_report=False).quantized_model)


class _Expanded(nn.Module):
    """The graph without `expand` of pooled maps, whose axes the converter leaves in the wrong order."""

    def __init__(self, graph: ExportGraph) -> None:
        super().__init__()
        self.exported = graph

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        with _Resized():
            outputs: tuple[Tensor, ...] = self.exported(images)
        return outputs


class _Resized(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is Tensor.expand and args[0].ndim == 4 and args[0].shape[2:] == (1, 1):
            return nn.functional.interpolate(args[0], size=args[-2:], mode="bilinear")
        return func(*args, **(kwargs or {}))


def _edges(content: bytes, graph: ExportGraph) -> Written:
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_content=content).get_signature_runner()
    (given,) = runner.get_input_details().values()
    outputs = runner.get_output_details()
    specs = (_spec(name, outputs[f"output_{index}"]) for index, name in enumerate(graph.output_names))
    return Written(_spec(INPUT, given), tuple(specs))


def _spec(name: str, details: Mapping[str, Any]) -> TensorSpec:
    scale, zero_point = details["quantization"]
    shape = tuple(int(length) for length in details["shape"])
    return TensorSpec(name, details["dtype"].__name__, shape, float(scale) or None, int(zero_point))
