"""OpenVINO models, run on the CPU."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mnv2vision.common.threads import usable_cores
from mnv2vision.errors import WeightsError
from mnv2vision.inference.bundle import Bundle
from mnv2vision.inference.runtimes.base import Runtime
from mnv2vision.inference.runtimes.graph import GraphRuntime, import_runtime


def open_model(path: Path, bundle: Bundle, threads: int | None = None) -> Runtime:
    """Open a model.

    Args:
        path: Of the folder with model.xml and model.bin.
        bundle: That describes it.
        threads: All usable cores by default.

    Raises:
        ConfigError: Where openvino is not installed.
        WeightsError: For files that it cannot read.
    """
    openvino = import_runtime("openvino")
    settings = {
        "INFERENCE_NUM_THREADS": threads or usable_cores(),
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # other processes may be on those cores
        # Where a processor has bfloat16, OpenVINO would use it unasked, and a float model would differ from torch.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    try:
        model = openvino.Core().compile_model(str(path / "model.xml"), "CPU", settings)
        outputs = [model.output(output.name) for output in bundle.outputs]
    except Exception as error:  # its own are RuntimeErrors of many lines, the last of which says why
        message = str(error).strip().splitlines()[-1]
        raise WeightsError(f"{path}: openvino {openvino.__version__} cannot read it ({message})") from error
    request = model.create_infer_request()

    def call(images: NDArray[Any]) -> Sequence[NDArray[Any]]:
        answers = request.infer({bundle.input.name: images}, share_inputs=True)
        return [answers[output] for output in outputs]

    return GraphRuntime(bundle, call)
