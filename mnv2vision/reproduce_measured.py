"""Accuracy and latency of the rows of a table, as measured here."""

import re
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mnv2vision.benchmark import seconds, settle
from mnv2vision.config import load_config
from mnv2vision.data.sources import create_source
from mnv2vision.errors import ConfigError
from mnv2vision.models import MODELS
from mnv2vision.paper.counts import build
from mnv2vision.paper.published import Row, Table
from mnv2vision.predictor import Predictor
from mnv2vision.run import TASKS, evaluate
from mnv2vision.weights import file

Measured = dict[tuple[str, str], str]

# Of the tables' columns in metrics.json; the tables' mAP is COCO's.
_METRICS = {"top1": "top1", "top5": "top5", "mAP": "AP", "mIoU": "mIoU"}
# What tells the models of a table apart, with the defaults of `create_model`.
_IDENTITY: dict[str, Any] = {
    "backbone": "mobilenet_v2",
    "width": 1.0,
    "depth": 1.0,
    "divisor": 8,
    "variant": "slim",
    "minimalistic": False,
    "head": None,
    "atrous_rates": (),
    "num_classes": None,
}
_DEFAULT_HEADS = ("ssdlite", "aspp")


def measure(tables: Sequence[Table], given: Mapping[str, str], arguments: Sequence[str]) -> Measured:
    """What tools/reproduce.py is asked to measure.

    Args:
        tables: One table; measuring takes long.
        given: evaluate=, weights= and latency= of the command line.
        arguments: Those for the evaluation.
    """
    if len(tables) != 1:
        raise ConfigError("evaluate= and latency= need table=<one table>")
    measured: Measured = {}
    if "evaluate" in given:
        if not given.get("weights"):
            raise ConfigError("evaluate= needs weights=<model.safetensors or a folder of them>")
        measured |= accuracy(tables[0], given["evaluate"], given["weights"], arguments)
    if given.get("latency", "false") not in ("true", "false"):
        raise ConfigError(f"latency={given['latency']} is neither true nor false")
    return measured | latency(tables[0]) if given.get("latency") == "true" else measured


def accuracy(table: Table, dataset: str, weights: str, arguments: Sequence[str]) -> Measured:
    """Evaluate the rows whose weights are at hand, each as its row says: output stride, scales, flips, input size.

    Args:
        table: With rows of models of the house.
        dataset: "imagenet", "coco" or "voc".
        weights: Model files, or folders of them, separated by commas; a file belongs to the rows of its architecture,
            or, of these, to the one that stands before it, as in "1.0_192:file".
        arguments: Further key=value pairs of tools/eval.py, such as dataset.root=...

    Returns:
        "22.1 (5000 images of val)" by row and column.

    Raises:
        ConfigError: For a file that belongs to no row, with the rows there are; for one of several rows that are alike,
            such as trainings of one network; for two files of one row; and for limited batches, whose figures would
            stand beside those of a whole data set.
    """
    measured: Measured = {}
    for row, path in _assign(table, weights).items():
        assert row.model is not None
        config = load_config("eval", [f"dataset={dataset}", *arguments])
        if config["trainer"]["limit_val_batches"] is not None:
            raise ConfigError("trainer.limit_val_batches is not for evaluate=: a smaller data set has its own folder")
        slug = re.sub(r"\W+", "_", f"table_{table.name}_{row.name}").strip("_")
        config |= {"checkpoint": str(path), "run_dir": str(Path(config["run_dir"] or "runs/reproduce") / slug)}
        options = dict(row.model.options)
        config["model"] |= {"image_size": list(row.model.size), "output_stride": options.get("output_stride")}
        config["inference"] |= {"scales": list(row.model.scales), "flip": len(row.model.scales) > 1}
        metrics = evaluate(config)
        images = len(create_source(config["dataset"], "val", TASKS[row.model.kind].target))
        split = config["dataset"].get("val_split", "val")
        for column in row.figures.keys() & _METRICS.keys():
            if _METRICS[column] in metrics:
                measured[row.name, column] = f"{100 * metrics[_METRICS[column]]:.2f} ({images} images of {split})"
    return measured


def _assign(table: Table, weights: str) -> dict[Row, Path]:
    """Rows with their model files."""
    rows = [row for row in table.rows if row.model is not None and row.model.kind in TASKS]
    names = ", ".join(row.name for row in rows)
    if not rows:
        raise ConfigError(f"table={table.name} has no row with a model to evaluate")
    assigned: dict[Row, Path] = {}
    for item in weights.split(","):
        name, colon, path = item.rpartition(":")
        if colon and name not in [row.name for row in rows]:
            raise ConfigError(f"weights={item}: table={table.name} has no row {name!r}; valid: {names}")
        if not path:
            raise ConfigError(f"weights={weights}: a file is missing")
        paths = sorted(Path(path).glob("*.safetensors")) if Path(path).is_dir() else [Path(path)]
        if not paths:
            raise ConfigError(f"weights={item}: the folder holds no .safetensors file")
        for model_file in paths:
            stored = file.read(model_file)
            fitting = [row for row in rows if _fits(row, stored, named=bool(colon)) and name in ("", row.name)]
            if not fitting:
                whose = f"not the model of {name!r}" if colon else f"the model of no row of table={table.name}: {names}"
                raise ConfigError(f"{model_file}: {stored.config} is {whose}")
            alike = [row.name for row in fitting if row.model == fitting[0].model]
            if len(alike) > 1:
                choices = " or ".join(f"'{row}:{model_file}'" for row in alike)
                raise ConfigError(f"{model_file} fits rows that differ in training only: weights={choices}")
            for row in fitting:
                if row in assigned:
                    raise ConfigError(f"{assigned[row]} and {model_file} are both for the row {row.name!r}")
                assigned[row] = model_file
    return assigned


def _fits(row: Row, stored: file.ModelFile, *, named: bool) -> bool:
    """Whether a file holds the model of a row."""
    assert row.model is not None
    if stored.config["task"] != row.model.kind:
        return False
    # Classifiers are trained for one input size, which only a named row may change; detectors and segmenters take any.
    trained = tuple(stored.preprocessing["image_size"])
    if row.model.kind == "classification" and trained != row.model.size and not named:
        return False
    return _identity(stored.config) == _identity(dict(row.model.options) | {"task": row.model.kind})


def _identity(config: Mapping[str, Any]) -> dict[str, Any]:
    identity = {key: config.get(key, default) for key, default in _IDENTITY.items()}
    identity["atrous_rates"] = tuple(identity["atrous_rates"])
    identity["head"] = None if identity["head"] in _DEFAULT_HEADS else identity["head"]
    classes = identity["num_classes"] or MODELS[config["task"]].default_num_classes
    identity["num_classes"] = 1000 if classes == 1001 else classes  # TensorFlow's classifiers have a background
    return identity


def latency(table: Table, rounds: int = 9) -> Measured:
    """Time the rows that have a published latency, on this machine's CPU, photo to prediction, one at a time.

    Args:
        table: With rows of models of the house.
        rounds: Photos, after one that does not count; the median is told.

    Returns:
        "16.5ms (photo to prediction, 2 threads)" by row and column.

    Raises:
        ConfigError: For a table without such rows.
    """
    measured: Measured = {}
    for row in table.rows:
        if row.model is None or row.model.kind not in TASKS or "latency" not in row.figures:
            continue
        model = build(row.model.kind, **dict(row.model.options), image_size=row.model.size)
        settle(model, row.model.size[0])
        predictor = Predictor(model, device="cpu")
        photo = np.random.default_rng(0).integers(0, 256, (*row.model.size, 3), dtype=np.uint8)
        predictor(photo)
        median = statistics.median(seconds(partial(predictor, photo)) for _ in range(rounds))
        threads = torch.get_num_threads()
        measured[row.name, "latency"] = (
            f"{1000 * median:.1f}ms (photo to prediction, {threads} thread{'s' if threads > 1 else ''})"
        )
    if not measured:
        raise ConfigError(f"table={table.name} has no published latency of a model of the house")
    return measured
