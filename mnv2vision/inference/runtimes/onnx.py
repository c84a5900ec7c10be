"""ONNX models, run by ONNX Runtime on the CPU."""

from pathlib import Path

from mnv2vision.common.threads import usable_cores
from mnv2vision.errors import WeightsError
from mnv2vision.inference.bundle import Bundle
from mnv2vision.inference.runtimes.base import Runtime
from mnv2vision.inference.runtimes.graph import GraphRuntime, import_runtime

_ERRORS_ONLY = 3  # of onnxruntime's levels of logging


def open_model(path: Path, bundle: Bundle, threads: int | None = None) -> Runtime:
    """Open a model.

    Args:
        path: Of the .onnx file.
        bundle: That describes it.
        threads: All usable cores by default. They sleep while they wait: a spinning thread takes the core that
            another process, or the thread it waits for, needs.

    Raises:
        ConfigError: Where onnxruntime is not installed.
        WeightsError: For a file that it cannot read.
    """
    onnxruntime = import_runtime("onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or usable_cores()
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Without VNNI, int8 products would overflow.
    options.add_session_config_entry("session.x64quantprecision", "1")
    names = [output.name for output in bundle.outputs]
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        if missing := {*names} - {output.name for output in session.get_outputs()}:
            raise ValueError(f"it has no outputs {', '.join(sorted(missing))}")
    except Exception as error:  # its own, of many kinds
        message = str(error).splitlines()[0]
        raise WeightsError(f"{path}: onnxruntime {onnxruntime.__version__} cannot read it ({message})") from error
    return GraphRuntime(bundle, lambda images: session.run(names, {bundle.input.name: images}))
