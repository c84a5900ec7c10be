"""ExecuTorch files, lowered to XNNPACK."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from mnv2vision.common.atomic import atomic_path
from mnv2vision.deploy.formats.onnx import INPUT, quiet
from mnv2vision.deploy.graph import ExportGraph
from mnv2vision.deploy.int8 import correct_biases
from mnv2vision.deploy.written import ExportOptions, Written
from mnv2vision.errors import ConfigError
from mnv2vision.inference.bundle import TensorSpec
from mnv2vision.inference.runtimes.executorch import load

_REPLACED: dict[torch._ops.OperatorBase, Callable[..., Tensor]] = {
    # All our pooling is to one value; torch's own form of it ends in strides of memory, which XNNPACK does not take.
    torch.ops.aten.adaptive_avg_pool2d.default: lambda x, size: x.mean((2, 3), keepdim=True),
    # ExecuTorch has no kernel that sorts.
    torch.ops.aten.argsort.default: lambda x, dim=-1, descending=False: x.topk(x.shape[dim], dim, descending)[1],
}

_CLIPS = (torch.ops.aten.hardtanh.default, torch.ops.aten.hardtanh_.default)


def export(graph: ExportGraph, path: Path, options: ExportOptions) -> Written:
    """Write an ExecuTorch file.

    Args:
        graph: What it computes.
        path: Of the file, which is written whole or not at all.
        options: Precision, input type, batch (1 by default, as it is always fixed), calibration images.

    Returns:
        The file's edges.

    Raises:
        ConfigError: Where executorch or, for int8, torchao are missing, or there is no kernel for the graph.
    """
    if options.precision == "int8" and len(options.calibration):
        graph = correct_biases(graph, options.calibration, options.keep_float)
    with quiet(), torch.no_grad():
        example = graph.eval().example(options.batch or 1, getattr(torch, options.dtype))
        outputs = graph(example)
        program = torch.export.export(graph, (example,))
        if options.precision == "int8":
            program = _quantized(program, graph, options)
        content = _lowered(program, len(outputs))
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return Written(
        _spec(INPUT, example),
        tuple(_spec(name, output) for name, output in zip(graph.output_names, outputs, strict=True)),
    )


def _quantized(program: ExportedProgram, graph: ExportGraph, options: ExportOptions) -> ExportedProgram:
    """The program with int8 layers: weights per channel and symmetric, activations by histograms of the calibration."""
    try:
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    except ImportError as error:
        raise _missing(error) from error

    class Quantizer(XNNPACKQuantizer):  # type: ignore[misc]
        """It knows of convolutions with a ReLU, but would quantise those with a ReLU6 before its clipping."""

        def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
            clips = {node: node.target for node in model.graph.nodes if node.target in _CLIPS}
            for node in clips:
                node.target = torch.ops.aten.relu.default
            super().annotate(model)
            for node, target in clips.items():
                node.target = target
            return model

    def is_quantized(node: fx.Node) -> bool:
        """Whether it is of the network's layers; normalisation, score functions and decoding are the graph's own."""
        if node.op != "call_function":  # weights, which know no module: their layer decides
            return True
        modules = {name for name, _ in node.meta.get("nn_module_stack", {}).values()}
        # A detector's feature maps are joined in float, each with a scale of its own.
        joins_maps = node.target is torch.ops.aten.cat.default and node.meta["val"].ndim == 3
        return "model" in modules and not modules & options.keep_float and not joins_maps

    quantizer = Quantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    observed = prepare_pt2e(program.module(), quantizer.set_filter_function(is_quantized))
    batches = list(_batches(graph, options))
    for batch in batches:
        observed(batch)
    return torch.export.export(convert_pt2e(observed), (batches[0],))


def _batches(graph: ExportGraph, options: ExportOptions) -> Iterator[Tensor]:
    """The calibration images as the graph takes them; the last batch is filled up with the first images."""
    images, size = options.calibration, options.batch or 1
    if len(images) == 0:
        raise ConfigError("formats=[executorch] quantize=int8 needs calibration images")
    for start in range(0, len(images), size):
        chosen = [images[index % len(images)] for index in range(start, start + size)]
        batch = torch.from_numpy(np.ascontiguousarray(np.stack(chosen))).to(getattr(torch, options.dtype))
        yield batch if graph.layout == "NHWC" else batch.permute(0, 3, 1, 2).contiguous()


def _lowered(program: ExportedProgram, outputs: int) -> bytes:
    try:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower
    except ImportError as error:
        raise _missing(error) from error
    try:
        program = program.run_decompositions(_REPLACED)
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        content: bytes = lowered.to_executorch().buffer
        load(content, outputs)  # it may lack a kernel
    except Exception as error:  # of many kinds, and of many lines
        message = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]
        raise ConfigError(f"formats=[executorch] cannot take this graph ({message}); try post=raw") from error
    return content


def _missing(error: ImportError) -> ConfigError:
    return ConfigError(f"formats=[executorch] needs more ({error}): pip install 'mnv2vision[executorch]'")


def _spec(name: str, tensor: Tensor) -> TensorSpec:
    return TensorSpec(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
