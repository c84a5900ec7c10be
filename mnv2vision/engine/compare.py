"""A model with several heads beside models with one, on the same images; and its answers, all on one picture."""

import logging
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from mnv2vision.common import draw
from mnv2vision.common.atomic import write_text
from mnv2vision.common.tables import write_rows
from mnv2vision.data.sample import SampleSource
from mnv2vision.errors import DataError
from mnv2vision.inference.describe import Describer
from mnv2vision.inference.predictor import Predictor
from mnv2vision.inference.torch_engine import TorchEngine
from mnv2vision.models.complexity import complexity
from mnv2vision.models.vision_model import VisionModel

log = logging.getLogger(__name__)

ROUNDS = 15
"""Of timing, in turns; the median counts."""
COSTS = ("multiply-adds", "parameters", "ms")
PICTURES = 12
Evaluate = Callable[[str, VisionModel, Path], Mapping[str, float]]
"""Measures a model with one head on what a head of the joint model is measured on, in a folder of its own."""


class Row(NamedTuple):
    """What the joint model has and a single one has."""

    metric: str
    joint: str
    single: str
    difference: str
    ratio: str
    model: str


def compare(
    joint: VisionModel,
    metrics: Mapping[str, float],
    others: Mapping[str, VisionModel],
    evaluate: Evaluate,
    folder: Path,
) -> None:
    """Write `compare.md` and `compare.csv`: a row for each metric that both have, and what each model costs.

    Args:
        joint: The model with several heads.
        metrics: Its metrics.
        others: Models with one head, by their files' names.
        evaluate: Measures one.
        folder: Of the run.
    """
    rows: list[Row] = []
    for number, (source, model) in enumerate(others.items()):
        head = joint.config.head_like(model.task, model.task)
        if head is None:
            log.warning("compare: %s is a model for %s, which the joint model has no one head for", source, model.task)
            continue
        for name, value in evaluate(head, model, folder / f"compare_{number}").items():
            if (ours := metrics.get(f"{head}/{name}")) is not None:
                rows.append(_row(f"{head}/{name}", ours, value, source))
    models = {"joint": joint, **others}
    costs = {name: _cost(model) for name, model in models.items()}
    times = _times(models)
    for index, what in enumerate(COSTS):
        values = {name: (*costs[name], times[name])[index] for name in models}
        rows += [_row(what, values["joint"], values[source], source) for source in others]
        rows.append(_row(what, values["joint"], sum(values[source] for source in others), "all of these"))
    write_rows(folder / "compare.csv", rows)
    lines = ["| | joint | single | difference | ratio | single model |", "|---|---|---|---|---|---|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    write_text(folder / "compare.md", "\n".join(lines) + "\n")
    log.info("%s: joint against %d single models", folder / "compare.md", len(others))


def _row(what: str, joint: float, single: float, source: str) -> Row:
    exact = isinstance(joint, int)
    shown = (str(joint), str(single)) if exact else (f"{joint:.4f}", f"{single:.4f}")
    ratio = f"{joint / single:.3f}" if single else ""
    difference = f"{joint - single:+d}" if exact else f"{joint - single:+.4f}"
    return Row(what, *shown, difference, ratio, source)


def _cost(model: VisionModel) -> tuple[int, int]:
    found = complexity(model, model.preprocessing.image_size)
    return found.madds, found.params


def _times(models: Mapping[str, VisionModel]) -> dict[str, float]:
    """Milliseconds of a pass of one image on the CPU, prepared as for prediction; measured in turns."""
    options: dict[str, object] = {"score_threshold": 0.3, "max_detections": None, "inference": None}
    ready = {name: TorchEngine(model, "cpu", options).model for name, model in models.items()}
    images = {
        name: torch.zeros(1, 3, *model.preprocessing.image_size).contiguous(memory_format=torch.channels_last)
        for name, model in models.items()
    }
    taken: dict[str, list[float]] = {name: [] for name in models}
    with torch.inference_mode():
        for turn in range(ROUNDS + 2):
            for name, model in ready.items():
                start = time.perf_counter()
                model(images[name])
                if turn >= 2:  # the first passes are slower
                    taken[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in taken.items()}


def draw_answers(model: VisionModel, samples: SampleSource, path: Path) -> None:
    """Draw what all heads of a model answer to some photos.

    Args:
        model: Left as it is.
        samples: Of which some, evenly spread, are drawn.
        path: The PNG file.
    """
    predictor = Predictor(model, runtime="torch")
    describe = Describer(predictor.heads, top=1)
    count = min(PICTURES, len(samples))
    photos = []
    for index in range(count):
        with suppress(DataError):  # unreadable ones, which the evaluation has told of
            photos.append(samples[index * len(samples) // count].image)
    if not photos:
        return
    pictures = [
        np.asarray(describe(photo, prediction)[0])
        for photo, prediction in zip(photos, predictor.predict_batch(photos), strict=True)
    ]
    draw.contact_sheet(pictures, [""] * len(pictures), path, columns=4)
