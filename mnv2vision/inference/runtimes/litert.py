"""LiteRT (TensorFlow Lite) models, run on the CPU."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
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
        path: Of the .tflite file.
        bundle: That describes it.
        threads: All usable cores by default.

    Raises:
        ConfigError: Where ai-edge-litert is not installed.
        WeightsError: For a file that it cannot read.
    """
    import_runtime("litert")
    from ai_edge_litert.interpreter import Interpreter

    outputs = [f"output_{index}" for index in range(len(bundle.outputs))]  # the signature's names of them
    try:
        # From bytes: the interpreter opens no path with letters that the system's encoding lacks.
        with silent():
            interpreter = Interpreter(model_content=path.read_bytes(), num_threads=threads or usable_cores())
            interpreter.allocate_tensors()
            runner = interpreter.get_signature_runner()
        if runner.get_output_details().keys() != {*outputs}:
            raise ValueError(f"it has other outputs than {', '.join(outputs)}")
    except Exception as error:  # ValueError and RuntimeError for most
        message = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsError(f"{path}: ai-edge-litert cannot read it ({message})") from error

    def call(images: NDArray[Any]) -> Sequence[NDArray[Any]]:
        answers = runner(**{bundle.input.name: images})
        return [answers[output] for output in outputs]

    return GraphRuntime(bundle, call)


@contextmanager
def silent() -> Iterator[None]:
    """Keep from the screen what LiteRT's libraries print, and what their C++ writes past Python's streams."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    kept = [os.dup(descriptor) for descriptor in (1, 2)]
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            for descriptor in (1, 2):
                os.dup2(nowhere.fileno(), descriptor)
            yield
    finally:
        for descriptor, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, descriptor)
            os.close(copy)
