"""CoreML packages; they are converted anywhere, and run on Apple's systems alone."""

import contextlib
import io
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from mnv2vision.deploy.formats.onnx import INPUT, quiet
from mnv2vision.deploy.graph import ExportGraph
from mnv2vision.deploy.written import ExportOptions, Written
from mnv2vision.errors import ConfigError
from mnv2vision.inference.bundle import TensorSpec

if TYPE_CHECKING:
    from coremltools.models import MLModel


def export(graph: ExportGraph, path: Path, options: ExportOptions) -> Written:
    """Write a CoreML package.

    A uint8 input is an image for CoreML, which has no arrays of bytes: one RGB picture (a CVPixelBuffer), without a
    layout. A float32 input is an array of the graph's layout.

    Args:
        graph: What it computes.
        path: Of the package, a folder, which is written whole or not at all; one that is there is replaced.
        options: Precision, input type, and batch (1 by default, as it is always fixed).

    Returns:
        The package's edges; integers are int32 in CoreML.

    Raises:
        ConfigError: Where coremltools is missing, or cannot convert the graph, as boxes with post=fixed: it knows
            neither `&` nor the division of integers that their suppression takes.
    """
    if options.dtype == "uint8" and (options.batch or 1) > 1:
        raise ConfigError("formats=[coreml] takes images one at a time: give batch=1, or input=float")
    model = _converted(graph, options)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        whole = Path(folder) / "whole.mlpackage"
        with quiet():
            model.save(str(whole))
        shutil.rmtree(path, ignore_errors=True)
        whole.replace(path)
    example = graph.example(options.batch or 1, getattr(torch, options.dtype))
    outputs = model.get_spec().description.output
    return Written(
        TensorSpec(INPUT, options.dtype, tuple(example.shape)),
        tuple(TensorSpec(output.name, *_array(output.type.multiArrayType)) for output in outputs),
    )


class _OfImage(nn.Module):
    """A graph that takes (N, 3, H, W), as CoreML's images come, whatever its own layout."""

    def __init__(self, inner: ExportGraph) -> None:
        super().__init__()
        self.inner = inner  # as `graph` it would hide in torch.export's own of that name

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        outputs: tuple[Tensor, ...] = self.inner(images.permute(0, 2, 3, 1) if self.inner.layout == "NHWC" else images)
        return outputs


def _converted(graph: ExportGraph, options: ExportOptions) -> "MLModel":
    with quiet(), torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):  # progress bars
        try:
            import coremltools
        except ImportError as error:
            raise ConfigError(f"formats=[coreml] needs more ({error}): pip install 'mnv2vision[coreml]'") from error
        example = graph.eval().example(options.batch or 1, torch.float32)
        given = coremltools.TensorType(INPUT, tuple(example.shape))
        module: nn.Module = graph
        if options.dtype == "uint8":
            if graph.layout == "NHWC":
                example = example.permute(0, 3, 1, 2).contiguous()
            module = _OfImage(graph).eval()
            given = coremltools.ImageType(INPUT, tuple(example.shape), color_layout=coremltools.colorlayout.RGB)
        outputs = [  # without a type, those of fp16 would be float16
            coremltools.TensorType(name, dtype=np.float32 if output.dtype.is_floating_point else np.int32)
            for name, output in zip(graph.output_names, module(example), strict=True)
        ]
        precision = coremltools.precision
        try:
            return coremltools.convert(
                torch.export.export(module, (example,)).run_decompositions({}),
                inputs=[given],
                outputs=outputs,
                minimum_deployment_target=coremltools.target.iOS16,
                compute_precision=precision.FLOAT16 if options.precision == "fp16" else precision.FLOAT32,
                skip_model_load=True,
            )
        except Exception as error:  # of many kinds, and of many lines
            message = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]
            raise ConfigError(f"formats=[coreml] cannot convert this graph ({message}); try post=raw") from error


def _array(array: Any) -> tuple[str, tuple[int, ...]]:
    """Type and shape of an array in a specification."""
    kind = array.ArrayDataType.Name(array.dataType).lower()
    return kind, tuple(array.shape)
