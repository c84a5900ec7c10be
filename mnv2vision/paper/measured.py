"""Accuracy and latency of the rows of a table, as measured here."""

import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from mnv2vision.benchmarks.speed import seconds, settle
from mnv2vision.config.compose import load_config
from mnv2vision.config.schema import Eval
from mnv2vision.data.sources import create_source
from mnv2vision.engine.evaluate import evaluate
from mnv2vision.errors import ConfigError
from mnv2vision.inference.predictor import Predictor
from mnv2vision.models.create import create_model
from mnv2vision.models.tasks import TASKS
from mnv2vision.models.vision_model import VisionModel
from mnv2vision.paper.published import Row, Table
from mnv2vision.weights import file

Measured = dict[tuple[str, str], str]

# Columns of the tables, by name in metrics.json; the tables' mAP is COCO's.
_METRICS = {"top1": "top1", "top5": "top5", "mAP": "AP", "mIoU": "mIoU"}
# The options that distinguish the models of a table, with `create_model`'s defaults.
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


def measure(
    tables: Sequence[Table], dataset: str | None, weights: str | None, arguments: Sequence[str], *, latencies: bool
) -> Measured:
    """What the command `reproduce` is asked to measure.

    Args:
        tables: One table; measuring takes long.
        dataset: For `accuracy`; None for none.
        weights: For `accuracy`.
        arguments: Those for the evaluation.
        latencies: Whether to measure them.
    """
    if len(tables) != 1:
        raise ConfigError("evaluate= and latency= require table=<one table>")
    measured: Measured = {}
    if dataset is not None:
        if not weights:
            raise ConfigError("evaluate= requires weights=<model.safetensors or a folder of them>")
        measured |= accuracy(tables[0], dataset, weights, arguments)
    return measured | latency(tables[0]) if latencies else measured


def accuracy(table: Table, dataset: str, weights: str, arguments: Sequence[str]) -> Measured:
    """Evaluate the rows whose weights are given, with the row's output stride, scales, flips and input size.

    Args:
        table: A table with rows that this package can build.
        dataset: "imagenet", "coco" or "voc".
        weights: Model files, or folders of them, separated by commas. A file is used for the rows of its
            architecture, or for one named row among them, as in "1.0_192:file".
        arguments: Further key=value pairs of mnv2vision eval, such as dataset.root=...

    Returns:
        "22.1 (5000 images of val)" by row and column.

    Raises:
        ConfigError: For a file that fits no row, listing the rows; for a file that fits several rows of one network
            with different training; for two files for one row; and for limited batches, whose figures cannot be
            compared with those of a whole data set.
    """
    measured: Measured = {}
    for row, path in _assign(table, weights).items():
        assert row.model is not None
        config = load_config(Eval, [f"dataset={dataset}", *arguments])
        if config.trainer.limit_val_batches is not None:
            raise ConfigError("trainer.limit_val_batches cannot be used with evaluate=; give a smaller data set")
        slug = re.sub(r"\W+", "_", f"table_{table.name}_{row.name}").strip("_")
        stride: Any = dict(row.model.options).get("output_stride")
        config = replace(
            config,
            checkpoint=str(path),
            run_dir=str(Path(config.run_dir or "runs/reproduce") / slug),
            model=replace(config.model, image_size=row.model.size, output_stride=stride),
            inference=replace(config.inference, scales=row.model.scales, flip=len(row.model.scales) > 1),
        )
        metrics = evaluate(config)
        images = len(create_source(config.dataset, "val", TASKS[row.model.kind].target))
        split = config.dataset.get("val_split", "val")
        for column in row.figures.keys() & _METRICS.keys():
            if _METRICS[column] in metrics:
                measured[row.name, column] = f"{100 * metrics[_METRICS[column]]:.2f} ({images} images of {split})"
    return measured


def _assign(table: Table, weights: str) -> dict[Row, Path]:
    """Assign model files to rows."""
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
            raise ConfigError(f"weights={weights}: a path is empty")
        paths = sorted(Path(path).glob("*.safetensors")) if Path(path).is_dir() else [Path(path)]
        if not paths:
            raise ConfigError(f"weights={item}: the folder contains no .safetensors file")
        for model_file in paths:
            stored = file.read(model_file)
            fitting = [row for row in rows if _fits(row, stored, named=bool(colon)) and name in ("", row.name)]
            if not fitting:
                whose = f"not the model of {name!r}" if colon else f"the model of no row of table={table.name}: {names}"
                raise ConfigError(f"{model_file}: {stored.config.arguments} is {whose}")
            alike = [row.name for row in fitting if row.model == fitting[0].model]
            if len(alike) > 1:
                choices = " or ".join(f"'{row}:{model_file}'" for row in alike)
                raise ConfigError(f"{model_file} fits rows that differ only in training: give weights={choices}")
            for row in fitting:
                if row in assigned:
                    raise ConfigError(f"{assigned[row]} and {model_file} both fit the row {row.name!r}")
                assigned[row] = model_file
    return assigned


def _fits(row: Row, stored: file.ModelFile, *, named: bool) -> bool:
    """Whether a file contains the model of a row."""
    assert row.model is not None
    if stored.config.head.task != row.model.kind:
        return False
    # Classifiers are trained for one input size, which only a named row may change; detectors and segmenters take any.
    trained = stored.config.preprocessing.image_size
    if row.model.kind == "classification" and trained != row.model.size and not named:
        return False
    return _identity(stored.config.arguments) == _identity(dict(row.model.options) | {"task": row.model.kind})


def _identity(config: Mapping[str, Any]) -> dict[str, Any]:
    identity = {key: config.get(key, default) for key, default in _IDENTITY.items()}
    identity["atrous_rates"] = tuple(identity["atrous_rates"])
    identity["head"] = None if identity["head"] in _DEFAULT_HEADS else identity["head"]
    classes = identity["num_classes"] or TASKS[config["task"]].head.num_classes
    identity["num_classes"] = 1000 if classes == 1001 else classes  # TensorFlow's classifiers have a background
    return identity


def latency(table: Table, rounds: int = 9) -> Measured:
    """Time the rows that have a published latency, on this machine's CPU, photo to prediction, one at a time.

    Args:
        table: A table with rows that this package can build.
        rounds: Photos, after one for warm-up; the median is reported.

    Returns:
        "16.5ms (photo to prediction, 2 threads)" by row and column.

    Raises:
        ConfigError: For a table without such rows.
    """
    measured: Measured = {}
    for row in table.rows:
        if row.model is None or row.model.kind not in TASKS or "latency" not in row.figures:
            continue
        create = cast(Callable[..., VisionModel], create_model)  # which checks its options
        model = create(row.model.kind, **dict(row.model.options), image_size=row.model.size)
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
        raise ConfigError(f"table={table.name} has no row with a published latency and a model to time")
    return measured
