"""Export a model, measure each file, and keep those that do what the model does: what `export` and `mv.export` call."""

import logging
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mnv2vision.config.schema import Export
from mnv2vision.deploy.export import Target, check_folder, check_formats, finish, placed, remove_partial, write
from mnv2vision.deploy.graph import ExportGraph, only_heads
from mnv2vision.deploy.parity import FIXED_AGREEMENT, FLOAT_TOLERANCE
from mnv2vision.deploy.report import Proof, size_of
from mnv2vision.deploy.sensitivity import Trial, rank_layers, search
from mnv2vision.deploy.timing import time_model
from mnv2vision.deploy.written import ExportOptions
from mnv2vision.engine.accuracy import HeadCheck
from mnv2vision.engine.export_data import draw, has_data
from mnv2vision.engine.parts import Own
from mnv2vision.engine.run_folder import claimed
from mnv2vision.errors import ConfigError, ExportError
from mnv2vision.inference.bundle import Bundle, is_bundle
from mnv2vision.inference.exported import open_runtime
from mnv2vision.inference.runtimes.base import FORMATS
from mnv2vision.models.vision_model import VisionModel
from mnv2vision.weights import file, registry

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exported:
    """A file that was exported.

    Attributes:
        folder: With the model, `model.json`, `predict.py`, `report.md` and `report.json`.
        proof: What was measured of it.
    """

    folder: Path
    proof: Proof


def export(config: Export, model: VisionModel | None = None, own: Own | None = None) -> list[Exported]:
    """Export a model to several formats.

    Args:
        config: Of the command `export`.
        model: Instead of the key `checkpoint`.
        own: Training and validation samples; those of the sections `dataset` and `data` by default.

    Returns:
        The files, in the formats' order.

    Raises:
        ConfigError: For options that cannot work, before anything is computed.
        DataError: For data that cannot be used.
        WeightsError: For weights that cannot be used.
        ExportError: At the end: for float files that differ from the model, which are not kept, and for others that
            lose more than `allow_drop`, which are.
    """
    targets = check_formats(config.formats, "float" if config.quantize == "none" else config.quantize)
    output = Path(config.output)
    for target in targets:
        check_folder(output / target.name)
    if config.quantize == "int8" and not has_data(config):
        raise ConfigError(
            "quantize=int8 is calibrated with photos: give dataset= and dataset.root= (in Python: data=),"
            f" of whose training part images={config.images} are drawn"
        )
    found, problems = [], []
    with claimed(output, "output"):
        remove_partial(output)
        exporter = Exporter(config, model, own)
        for target in targets:
            try:
                exported = exporter.export(target, output / target.name)
            except ExportError as error:
                problems.append(str(error))
                continue
            found.append(exported)
            log.info("%s  (%s)", summary(exported.proof), exported.folder)
            if exported.proof.drop > exporter.allowed:
                problems.append(
                    f"{exported.folder}: {exported.proof.drop:.2f} points are lost, more than"
                    f" allow_drop={exporter.allowed:g}; it is written, with its report"
                )
    if problems:
        raise ExportError("; ".join(problems))
    return found


class Exporter:
    """A model with the photos that its files are calibrated and measured with."""

    def __init__(self, config: Export, model: VisionModel | None, own: Own | None = None) -> None:
        """Read the photos, and compute what the model gives for them.

        Args:
            config: Of the command `export`.
            model: Instead of the key `checkpoint`; it stays as it is.
            own: See `export`.
        """
        self.config = config
        self.allowed = math.inf if config.allow_drop is None else config.allow_drop
        model, self.provenance = _model(config, model)
        self.graph = ExportGraph(model, layout=config.layout, post=config.post)
        self.data = draw(config, model, own)
        self.checks = [
            HeadCheck(model, name, photos, config.seed, f"{name}/{part}" if len(by_part) > 1 else name)
            for name, by_part in self.data.photos.items()
            for part, photos in by_part.items()
        ]

    def export(self, target: Target, folder: Path, *, timed: bool = True) -> Exported:
        """Write a file and measure it.

        Args:
            target: Format and precision.
            folder: Its folder, which is replaced when all is done.
            timed: Whether to measure speed and memory.

        Raises:
            ExportError: For a float file that differs from the model, of which nothing is left.
        """
        log.info("%s: writing and measuring", target.name)
        with placed(folder) as partial:
            bundle = self._write(target, partial)
            proof = self._prove(bundle, partial)
            if target.precision == "int8" and FORMATS[target.format].mixed and proof.drop > self.allowed:
                log.info("%s: %.2f points are lost: looking for layers to leave in float", target.name, proof.drop)
                chosen, trials = self._search(target, proof.drop)
                _empty(partial)
                bundle = self._write(target, partial, chosen.keep_float)
                tried = [f"{len(trial.keep_float)} layers in float: {trial.drop:.2f} points lost" for trial in trials]
                bundle = replace(bundle, quantisation={**bundle.quantisation, "sensitivity_search": tried})
                proof = self._prove(bundle, partial)
            if target.precision == "float" and (problem := _difference(proof)):
                raise ExportError(f"{folder}: not kept: {problem}")
            if timed and proof.heads:
                proof = replace(proof, timing=time_model(partial))
            finish(partial, bundle, proof)
            proof = replace(proof, size=size_of(partial / bundle.file))  # some hold their description now
        return Exported(folder, proof)

    def _write(self, target: Target, folder: Path, keep_float: frozenset[str] = frozenset()) -> Bundle:
        options = ExportOptions(
            target.precision,
            "uint8" if self.config.input == "uint8" else "float32",
            self.config.batch,
            self.data.calibration if target.precision == "int8" else (),
            keep_float,
        )
        return write(
            self.graph,
            folder,
            target,
            options,
            provenance=self.provenance,
            calibrated_on=self.data.calibrated_on,
        )

    def _prove(self, bundle: Bundle, folder: Path) -> Proof:
        size = size_of(folder / bundle.file)
        if FORMATS[bundle.format].runs_on not in ("", sys.platform):
            return Proof({}, size, None, (f"Not run here: {FORMATS[bundle.format].limits}.",))
        runtime = open_runtime(folder, bundle)
        return Proof({check.place: check.prove(runtime, bundle) for check in self.checks}, size, None)

    def _search(self, target: Target, drop: float) -> tuple[Trial, list[Trial]]:
        """Layers that int8 leaves in float, so that what is lost is allowed or least; and what was tried.

        Args:
            target: Format and precision.
            drop: Points that are lost with all layers in int8.
        """

        def measure(keep: frozenset[str]) -> float:
            if not keep:
                return drop
            with tempfile.TemporaryDirectory() as folder:
                bundle = self._write(target, Path(folder), keep)
                runtime = open_runtime(folder, bundle)
                return max(check.drop(runtime, bundle) for check in self.checks)

        trials = search(measure, rank_layers(self.graph, self.data.calibration), self.allowed)
        return min(trials, key=lambda trial: max(trial.drop, self.allowed)), trials


def summary(proof: Proof) -> str:
    """The main figures, in a line."""
    told = []
    for head in proof.heads.values():
        if head.main:
            compared = head.metrics[head.main]
            told.append(f"{head.main} {compared.file:.4f} (model {compared.model:.4f})")
        elif head.outputs:
            told.append(f"largest difference {max(output.largest for output in head.outputs.values()):.1e}")
    told.append(f"{proof.size / 1e6:.2f} MB")
    if proof.timing is not None:
        told.append(f"{np.median(proof.timing.single) * 1e3:.2f} ms an image")
    return "  ".join(told)


def _model(config: Export, model: VisionModel | None) -> tuple[VisionModel, Mapping[str, object]]:
    """The model in inference mode, of the heads that are wanted, and where its weights came from."""
    provenance: Mapping[str, object] = {}
    if model is None:
        if not config.checkpoint:
            raise ConfigError("checkpoint=<model.safetensors> is required")
        if is_bundle(config.checkpoint):
            raise ConfigError(f"checkpoint={config.checkpoint}: is exported already; give the model it came from")
        path = registry.resolve(config.checkpoint)
        model, provenance = file.load(path), file.read(path).provenance
    if (channels := model.config.backbone_options.get("in_channels", 3)) != 3:
        raise ConfigError(f"in_channels={channels}: photos have 3 channels, and exported models are for them")
    # A copy on the CPU and in inference mode, whatever the user's is in.
    return only_heads(model, config.heads or tuple(model.config.heads)), provenance


def _difference(proof: Proof) -> str | None:
    """In what a float file differs from its model, if it does."""
    for name, head in proof.heads.items():
        if not head.outputs and head.agreement < FIXED_AGREEMENT:
            return f"{name} agrees in {head.agreement:.2%} of the answers; {FIXED_AGREEMENT:.0%} is required"
        for output, difference in head.outputs.items():
            if difference.largest > FLOAT_TOLERANCE:
                return (
                    f"{name}'s {output} differ by up to {difference.largest:.1e} of their range;"
                    f" {FLOAT_TOLERANCE:.0e} is allowed"
                )
        for metric, compared in head.metrics.items():
            if abs(compared.difference) > FLOAT_TOLERANCE:
                return f"{name}'s {metric} is {compared.file:.5f} instead of {compared.model:.5f}"
    return None


def _empty(folder: Path) -> None:
    for item in folder.iterdir():
        if item.is_dir():
            shutil.rmtree(item)
        else:
            os.unlink(item)
