"""TensorFlow variables, read from any of their file formats."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnv2vision.errors import WeightsError
from mnv2vision.weights.importers.tf_checkpoint import read_checkpoint
from mnv2vision.weights.importers.tf_graph import read_graph, read_saved_model
from mnv2vision.weights.importers.tf_lite import read_tflite
from mnv2vision.weights.importers.tf_variables import Variables


def _read_npz(path: Path) -> dict[str, NDArray[np.generic]]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _read_safetensors(path: Path) -> dict[str, NDArray[np.generic]]:
    from safetensors.numpy import load_file

    return dict(load_file(path))


_READERS: dict[str, Callable[[Path], Mapping[str, NDArray[np.generic]]]] = {
    ".safetensors": _read_safetensors,
    ".npz": _read_npz,
    ".pb": read_graph,
    ".tflite": read_tflite,
}


def read_variables(path: str | os.PathLike[str]) -> Variables:
    """Read TensorFlow variables; TensorFlow itself is not needed.

    Args:
        path: A .safetensors or .npz file (name -> array), a frozen graph (.pb), a TensorFlow Lite model (.tflite;
            needs the `tflite` extra), a SavedModel's folder, or a checkpoint by its prefix or its .index file.

    Raises:
        WeightsError: For a missing, unreadable or unsuitable file.
    """
    path = Path(path)
    read = _READERS.get(path.suffix, read_checkpoint)
    file = path
    if path.is_dir():
        read = read_saved_model
    elif read is read_checkpoint:
        file = path.with_suffix("") if path.suffix == ".index" else path
        if not file.with_name(f"{file.name}.index").is_file():
            raise WeightsError(
                f"{path}: no such {', '.join(_READERS)} file or SavedModel, and no checkpoint {file.name}.index"
            )
    elif not path.is_file():
        raise WeightsError(f"{path}: no such file")
    try:
        return Variables(read(file), str(path))
    except WeightsError:
        raise
    except Exception as error:  # the readers raise many kinds for corrupt files
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "damaged, or of another format"
        raise WeightsError(f"{path}: cannot be read ({reason})") from error
