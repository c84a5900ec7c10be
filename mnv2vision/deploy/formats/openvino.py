"""OpenVINO models: a folder with model.xml and model.bin, made of the ONNX file."""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from mnv2vision.deploy.formats import onnx
from mnv2vision.deploy.graph import ExportGraph
from mnv2vision.deploy.written import ExportOptions, Written
from mnv2vision.inference.runtimes.graph import import_runtime


def export(graph: ExportGraph, path: Path, options: ExportOptions) -> Written:
    """Write an OpenVINO model.

    Args:
        graph: What it computes.
        path: Of the folder, which is written whole or not at all; one that is there is replaced.
        options: Precision, input type, batch, calibration images.

    Returns:
        The model's edges.

    Raises:
        ConfigError: Where openvino or what writes ONNX files is missing.
    """
    openvino = import_runtime("openvino")
    halved = options.precision == "fp16"  # when it is saved
    model, written = onnx.convert(graph, replace(options, precision="float") if halved else options, half_range=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        onnx.write(model, Path(folder) / "model.onnx")
        with onnx.quiet():
            converted = openvino.convert_model(Path(folder) / "model.onnx")
        whole = Path(folder) / "whole"
        whole.mkdir()
        openvino.save_model(converted, whole / "model.xml", compress_to_fp16=halved)
        shutil.rmtree(path, ignore_errors=True)
        whole.replace(path)
    return written
