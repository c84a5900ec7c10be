"""Other runtimes than torch for model files: each file is exported once, and its export kept in the cache."""

import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from mnv2vision.common.cache import home
from mnv2vision.common.processes import run_module
from mnv2vision.errors import ConfigError, WeightsError
from mnv2vision.inference.bundle import Bundle, digest
from mnv2vision.inference.runtimes.base import FORMATS
from mnv2vision.version import __version__

log = logging.getLogger(__name__)

RUNTIMES = {"onnxruntime": "onnx", "openvino": "openvino"}
"""Those that may take torch's place, and the format that each runs."""
CHOICES = ("auto", "torch", *RUNTIMES)


def check_runtime(runtime: str, choices: Sequence[str] = CHOICES) -> str:
    """The runtime; ConfigError for one that is not there to choose."""
    if runtime not in choices:
        raise ConfigError(f"runtime={runtime}: unknown; valid: {', '.join(choices)}")
    return runtime


def fastest_export(model: Path) -> Path | None:
    """The fastest of a model file's exports that are in the cache and can run here, by the time each took for an image.

    Args:
        model: The file.

    Returns:
        Its folder; None where there is none.
    """
    if not model.is_file() or not (home() / "exports").is_dir():
        return None
    folders = [_folder(model) / kind for kind in RUNTIMES.values() if _runs_here(kind)]
    there = {folder: bundle for folder in folders if (bundle := _whole(folder)) is not None}
    return min(there, key=lambda folder: _time(there[folder]), default=None)


def export_once(model: Path, runtime: str) -> Path:
    """A model file's export for a runtime, made unless it is in the cache.

    It is made by the command `export` in a process of its own: a float file, measured beside the model, and kept only
    where it computes the same.

    Args:
        model: The file.
        runtime: A key of `RUNTIMES`.

    Returns:
        Its folder.

    Raises:
        ConfigError: Where the runtime, or what writes its files, is not installed, or the export fails.
        WeightsError: Where there is no such file.
    """
    if not model.is_file():
        raise WeightsError(f"{model}: no such model file")
    kind = RUNTIMES[runtime]
    parent = _folder(model)
    if _whole(parent / kind) is None:
        parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{parent}.lock"):  # all who ask for the same file
            if _whole(parent / kind) is None:
                log.info("runtime=%s: exporting %s, once", runtime, model)
                _export(model, kind, parent)
    return parent / kind


def _export(model: Path, kind: str, output: Path) -> None:
    given = [f"checkpoint={model}", f"formats=[{kind}]", f"output={output}"]
    done = run_module("mnv2vision.cli.main", "export", *given)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"]
        raise ConfigError(f"{model}: cannot be exported to {kind}: {said[-1].removeprefix('error: ')}")


def _folder(model: Path) -> Path:
    """Of a file's exports, by what the file holds."""
    return home() / "exports" / __version__ / digest(model)


def _runs_here(kind: str) -> bool:
    return importlib.util.find_spec(FORMATS[kind].runs_with[0]) is not None


def _whole(folder: Path) -> Bundle | None:
    try:
        return Bundle.read(folder)
    except WeightsError:  # absent, or damaged: it is made again
        return None


def _time(bundle: Bundle) -> float:
    speed = bundle.report.get("speed")
    return float(speed["batch_1_p50_ms"]) if isinstance(speed, dict) else float("inf")
