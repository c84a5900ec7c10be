"""`report.html`: what a run or an evaluation found, in one file that opens anywhere."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from markupsafe import Markup

from mnv2vision.common import charts
from mnv2vision.common.atomic import write_text
from mnv2vision.common.html import Section, listed, page, picture, table, text
from mnv2vision.engine import advice
from mnv2vision.models.complexity import complexity
from mnv2vision.models.vision_model import VisionModel
from mnv2vision.tasks.base import Task


class _Figure(NamedTuple):
    metric: str
    value: float


class _Size(NamedTuple):
    head: str
    image_size: str
    parameters: str
    multiply_adds: str
    peak_activations: str


def write_page(task: Task, folder: Path) -> None:
    """Write `report.html`, after the tables and pictures of an evaluation.

    Args:
        task: That was evaluated.
        folder: Of the run or evaluation; its `metrics.csv`, where there is one, is the history.
    """
    rows = read_history(folder / "metrics.csv")
    heads = list(task.reports(folder))
    several = len(heads) > 1
    told = advice.of_history(rows, task.monitor)
    told += [f"{place}: {line}" if several else line for place, _, lines in heads for line in lines]
    sections = [
        Section("Figures", table([_Figure(name, value) for name, value in task.metrics.items()])),
        Section("What to try next", listed(told) if told else text("No rule applies.")),
        _curves(rows, task.monitor, folder),
        *(
            section._replace(title=f"{place}: {section.title}") if several else section
            for place, own, _ in heads
            for section in own
        ),
        _sizes(task.model),
    ]
    write_text(folder / "report.html", page(f"{', '.join(task.model.heads)}: {folder.name}", sections))


def read_history(path: Path) -> list[dict[str, float]]:
    """The rows of a `metrics.csv`, without what is not a number; none where there is no such file."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    return [{name: value for name, value in row.items() if math.isfinite(value)} for row in rows]


def _curves(rows: Sequence[Mapping[str, float]], metric: str, folder: Path) -> Section:
    if not rows:
        return Section("Epochs", Markup())
    charts.history(rows, metric, folder / "epochs.png")
    return Section("Epochs", picture(folder / "epochs.png"))


def _sizes(model: VisionModel) -> Section:
    """Costs, of several heads of each alone too."""
    size, heads = model.preprocessing.image_size, model.config.heads
    choices = {"all": heads} if len(heads) > 1 else {}
    rows = []
    for name, chosen in {**choices, **{name: {name: head} for name, head in heads.items()}}.items():
        with torch.device("meta"):  # an exported one has no layers of use
            part = VisionModel(replace(model.config, heads=chosen))
        found = complexity(part, size, int(str(model.config.backbone_options.get("in_channels", 3))))
        rows.append(
            _Size(
                name,
                "x".join(map(str, size)),
                f"{found.params / 1e6:.3f} M",
                f"{found.madds / 1e6:.1f} M",
                f"{found.peak_activation_bytes / 2**20:.1f} MB",
            )
        )
    return Section("Size", table(rows))
