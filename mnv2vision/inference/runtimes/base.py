"""What runs an exported model, and the table of formats; nothing here imports torch."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mnv2vision.inference.bundle import Precision


class Runtime(Protocol):
    """A model ready to run."""

    def run(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Real-valued outputs by their `TensorSpec` names, of (N, H, W, 3) uint8 images of the network's size.

        Any N: a graph of a fixed batch is run as often as needed.
        """
        ...


@dataclass(frozen=True)
class Format:
    """A format of exported files.

    Attributes:
        name: As the key `formats` says it.
        extra: Of the package, which installs what writes it.
        file: The model's name in its folder: of a file, or of a folder (OpenVINO's model.xml and model.bin).
        precisions: That can be written.
        written_with: Modules that write it.
        runs_with: The module that runs it, and the package to install for that alone.
        devices: What it is for, in words.
        limits: What to know, in words.
        mixed: Whether int8 can leave single layers in float.
        runs_on: `sys.platform` of the only system that runs it; empty for any.
    """

    name: str
    extra: str
    file: str
    precisions: tuple[Precision, ...]
    written_with: tuple[str, ...]
    runs_with: tuple[str, str]
    devices: str
    limits: str = ""
    runs_on: str = ""
    mixed: bool = True


FORMATS = {
    entry.name: entry
    for entry in (
        Format(
            "onnx",
            "onnx",
            "model.onnx",
            ("float", "fp16", "int8"),
            ("onnx", "onnxscript", "onnxruntime"),
            ("onnxruntime", "onnxruntime"),
            "any CPU or GPU with ONNX Runtime; OpenVINO, TensorRT and browsers read it too",
        ),
        Format(
            "openvino",
            "openvino",
            "model",
            ("float", "fp16", "int8"),
            ("openvino", "onnx", "onnxscript", "onnxruntime"),
            ("openvino", "openvino"),
            "Intel and AMD CPUs, Intel GPUs and NPUs, ARM CPUs",
        ),
        Format(
            "litert",
            "litert",
            "model.tflite",
            ("float", "fp16", "int8"),
            ("litert_torch", "ai_edge_litert", "ai_edge_quantizer"),
            ("ai_edge_litert", "ai-edge-litert"),
            "Android, iOS, microcontrollers with Linux, Coral",
            "the batch is fixed; no post=fixed of detectors; int8 keeps no single layers in float",
            mixed=False,
        ),
        Format(
            "executorch",
            "executorch",
            "model.pte",
            ("float", "int8"),
            ("executorch", "torchao"),
            ("executorch", "executorch"),
            "Android and iOS by XNNPACK",
            "its Python runtime needs torch; a phone's does not",
        ),
        Format(
            "coreml",
            "coreml",
            "model.mlpackage",
            ("float", "fp16"),
            ("coremltools",),
            ("coremltools", "coremltools"),
            "iOS and macOS",
            "runs on Apple's systems alone: elsewhere it is converted and its graph is checked, not measured",
            "darwin",
        ),
    )
}


def formats_table() -> str:
    """The formats in Markdown, as docs/deployment.md has them."""
    lines = ["| `formats=` | for | precisions | to write | to run | |", "|---|---|---|---|---|---|"]
    for entry in FORMATS.values():
        extra, package = f"`pip install 'mnv2vision[{entry.extra}]'`", f"`{entry.runs_with[1]}`"
        cells = [f"`{entry.name}`", entry.devices, ", ".join(entry.precisions), extra, package, entry.limits]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
