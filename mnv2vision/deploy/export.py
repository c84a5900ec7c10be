"""The folders that ship: which can be written, how one is filled, and how it comes to its place whole or not at all."""

import importlib.metadata
import importlib.util
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

import torch

from mnv2vision.common.atomic import write_text
from mnv2vision.contracts import Head, class_names
from mnv2vision.deploy.graph import ExportGraph
from mnv2vision.deploy.predict_script import predict_script
from mnv2vision.deploy.report import Proof, size_of, write_report
from mnv2vision.deploy.steps import steps
from mnv2vision.deploy.written import ExportOptions, Written
from mnv2vision.errors import ConfigError
from mnv2vision.inference.bundle import Bundle, HeadSpec, Precision, digest, is_bundle
from mnv2vision.inference.runtimes.base import FORMATS
from mnv2vision.models.tasks import TASKS
from mnv2vision.version import __version__

_PARTIAL = ".partial"


@dataclass(frozen=True)
class Target:
    """A file to write.

    Attributes:
        format: A key of `FORMATS`.
        precision: Of weights and activations.
    """

    format: str
    precision: Precision

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.format if self.precision == "float" else f"{self.format}-{self.precision}"


def check_formats(names: Sequence[str], precision: Precision) -> list[Target]:
    """What is to be written, each once.

    Args:
        names: Keys of `FORMATS`, or "all".
        precision: Of all of them.

    Raises:
        ConfigError: For formats that are unknown, that lack the precision, or whose extra is not installed.
    """
    formats = list(FORMATS) if list(names) == ["all"] else list(dict.fromkeys(names))
    if unknown := [name for name in formats if name not in FORMATS]:
        raise ConfigError(f"formats=[{','.join(unknown)}]: unknown; valid: {', '.join(FORMATS)}, all")
    if lacking := [name for name in formats if precision not in FORMATS[name].precisions]:
        valid = "; ".join(f"{name} has {', '.join(FORMATS[name].precisions)}" for name in lacking)
        raise ConfigError(f"formats=[{','.join(lacking)}]: cannot be written in {precision}: {valid}")
    if missing := [name for name in formats if not is_installed(name)]:
        extras = ",".join(FORMATS[name].extra for name in missing)
        raise ConfigError(f"formats=[{','.join(missing)}]: not installed: pip install 'mnv2vision[{extras}]'")
    return [Target(name, precision) for name in formats]


def is_installed(name: str) -> bool:
    """Whether what writes a format is there; without importing it."""
    return all(importlib.util.find_spec(module) for module in FORMATS[name].written_with)


def check_folder(folder: Path) -> None:
    """Raise ConfigError for a folder that cannot be replaced because it is not an export."""
    if folder.is_dir() and (is_bundle(folder) or not any(folder.iterdir())):
        return
    if folder.exists():
        raise ConfigError(f"{folder}: exists, and is not an exported model (no model.json): give another output")


@contextmanager
def placed(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder`, which takes its place on success and is removed on failure."""
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=_PARTIAL, dir=folder.parent))
    try:
        yield partial
        partial.chmod(0o755)
        if folder.exists():
            old = partial.with_name(f".old{partial.name}")
            folder.rename(old)
            partial.rename(folder)
            shutil.rmtree(old)
        else:
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_partial(parent: Path) -> None:
    """Remove what killed exports left in a folder that no other export is in."""
    for left in parent.iterdir():
        if left.name.startswith(".") and left.name.endswith(_PARTIAL):
            shutil.rmtree(left, ignore_errors=True)


def write(
    graph: ExportGraph,
    folder: Path,
    target: Target,
    options: ExportOptions,
    *,
    provenance: Mapping[str, object],
    calibrated_on: Mapping[str, Sequence[int | str]] | None = None,
) -> Bundle:
    """Write the model's file.

    Args:
        graph: What it computes.
        folder: Where to.
        target: Format and precision.
        options: Of the format's exporter.
        provenance: Where the weights came from.
        calibrated_on: Ids of the images of `ExportOptions.calibration`, by what they are of, in words.

    Returns:
        The description of the file, which `finish` completes.
    """
    path = folder / FORMATS[target.format].file
    exporter = import_module(f"mnv2vision.deploy.formats.{target.format}")
    written: Written = exporter.export(graph, path, options)
    config, preprocessing = graph.model.config, graph.model.preprocessing
    versions = {module: importlib.metadata.version(module) for module in FORMATS[target.format].written_with}
    bundle = Bundle(
        format=target.format,
        precision=target.precision,
        file=path.name,
        sha256=digest(path),
        input=written.input,
        layout=graph.layout,
        post=graph.post,
        outputs=written.outputs,
        heads=_heads(graph, written),
        preprocessing=preprocessing.to_dict(),
        steps=steps(preprocessing, graph.layout, written.input.dtype, written.input.scale),
        model=config.to_dict(),
        provenance=provenance,
        versions={
            "mnv2vision": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            **versions,
        },
        quantisation=_quantisation(options, calibrated_on or {}),
    )
    bundle.write(folder)
    return bundle


def finish(folder: Path, bundle: Bundle, proof: Proof) -> Bundle:
    """Complete a folder with what was measured of its file."""
    bundle = replace(bundle, report=proof.to_dict())
    path = folder / bundle.file
    exporter = import_module(f"mnv2vision.deploy.formats.{bundle.format}")
    if hasattr(exporter, "embed"):
        exporter.embed(path, replace(bundle, sha256="").to_json())
        bundle = replace(bundle, sha256=digest(path))
    bundle.write(folder)
    if (script := predict_script(bundle)) is not None:
        write_text(folder / "predict.py", script)
    write_report(folder, bundle, replace(proof, size=size_of(path)))
    return bundle


def _heads(graph: ExportGraph, written: Written) -> dict[str, HeadSpec]:
    """The heads, each with the tensors that are its outputs."""
    tensors = dict(zip(graph.output_names, (output.name for output in written.outputs), strict=True))
    with torch.no_grad():
        raws = graph.raw(graph.example(1))
    found = {}
    for name, config in graph.model.config.heads.items():
        head = graph.model.heads[name]
        assert isinstance(head, Head)
        kind = TASKS[config.task].export
        if graph.post == "raw":
            outputs = kind.outputs(raws[name])
        else:
            outputs = kind.fixed(head, raws[name], graph.model.preprocessing.image_size)
        named = {output: tensors[graph.tensor_name(name, output)] for output in outputs}
        parameters = kind.parameters(head, raws[name])
        if config.thresholds:
            parameters["thresholds"] = list(config.thresholds)
        found[name] = HeadSpec(config.task, class_names(config), named, parameters)
    return found


def _quantisation(options: ExportOptions, calibrated_on: Mapping[str, Sequence[int | str]]) -> dict[str, object]:
    if options.precision != "int8":
        return {}
    return {
        "scheme": "static: weights per channel, symmetric; activations per tensor, calibrated",
        "layers_left_in_float": sorted(options.keep_float),
        "calibrated_with": [f"{len(ids)} images of {words}" for words, ids in calibrated_on.items()],
        "calibration_images": [image_id for ids in calibrated_on.values() for image_id in ids],
    }
