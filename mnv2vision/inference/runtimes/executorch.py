"""ExecuTorch models, run by XNNPACK on the CPU; on a computer, unlike on a phone, its runtime needs torch."""

import importlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mnv2vision.common.threads import usable_cores
from mnv2vision.errors import WeightsError
from mnv2vision.inference.bundle import Bundle
from mnv2vision.inference.runtimes.base import Runtime
from mnv2vision.inference.runtimes.graph import Call, GraphRuntime, import_runtime

_HEAD = 40  # bytes that say what the file is and how long


def open_model(path: Path, bundle: Bundle, threads: int | None = None) -> Runtime:
    """Open a model.

    Args:
        path: Of the .pte file.
        bundle: That describes it.
        threads: All usable cores by default. One pool serves all models of the process: the last call decides.

    Raises:
        ConfigError: Where executorch is not installed.
        WeightsError: For a file that it cannot read.
    """
    import_runtime("executorch")
    pool = importlib.import_module("executorch.extension.pybindings.portable_lib")
    try:
        _check_length(path)
        with _quiet():
            if pool._threadpool_get_thread_count() != (count := threads or usable_cores()):
                pool._unsafe_reset_threadpool(count)
        call = load(path, len(bundle.outputs))
    except Exception as error:  # RuntimeError, with numbers of errors
        message = str(error).strip().splitlines()[0]
        raise WeightsError(f"{path}: ExecuTorch cannot read it ({message})") from error
    return GraphRuntime(bundle, call)


def load(program: Path | bytes, outputs: int) -> Call:
    """What computes a graph.

    Args:
        program: A file, or its content.
        outputs: How many it must have.

    Raises:
        RuntimeError: Of the library, for a damaged graph and for one that it has no kernels for.
        ValueError: For another number of outputs.
    """
    import torch

    library = importlib.import_module("executorch.runtime")
    with _quiet():
        method = library.Runtime.get().load_program(program).load_method("forward")
    if (found := method.metadata.num_outputs()) != outputs:
        raise ValueError(f"it has {found} outputs, not {outputs}")

    def call(images: NDArray[Any]) -> Sequence[NDArray[Any]]:
        return [output.numpy() for output in method.execute([torch.from_numpy(images)])]

    return call


def _check_length(path: Path) -> None:
    """Raise ValueError for a file that is cut or foreign: the library reads beyond its end, and the process dies.

    After flatbuffers' root offset and the name of the schema comes a header: its name and its length (32 bits each),
    the length of the program, the beginning of the weights and their length (64 bits each, from byte 16).
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if len(head) < _HEAD or head[4:6] != b"ET" or head[8:12] != b"eh00":
        raise ValueError("it does not begin as ExecuTorch's files do")
    program, start, weights = (int.from_bytes(head[at : at + 8], "little") for at in (16, 24, 32))
    if (size := path.stat().st_size) < (expected := max(program, start + weights)):
        raise ValueError(f"it is cut: {size} of {expected} bytes")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep from the screen what native code writes to sys.stderr, and to stderr by its number."""
    stderr = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
