"""Charts of reports."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnv2vision.common.draw import new_figure, write_figure
from mnv2vision.common.fonts import legible

Values = NDArray[np.float64]


def history(rows: Sequence[Mapping[str, float]], metric: str, path: Path) -> None:
    """Draw losses and a metric by epoch, with the best epoch.

    Args:
        rows: Of epochs, with `epoch`, at least one.
        metric: Its name; the larger the better.
        path: The PNG file.
    """
    figure = new_figure(9, 3.2)
    losses = dict.fromkeys(name for row in rows for name in row if name == "loss" or name.endswith("/loss"))
    for place, names in enumerate((list(losses), [metric])):
        axes = figure.add_subplot(1, 2, place + 1)
        for name in names:
            points = [(row["epoch"], row[name]) for row in rows if row.get(name) is not None]
            if points:
                epochs, values = zip(*points, strict=True)
                axes.plot(epochs, values, marker="." if len(points) < 40 else None, label=name, linewidth=1.5)
                if name == metric and np.isfinite(values).any():
                    best = int(np.nanargmax(values))
                    axes.axvline(epochs[best], color="grey", linestyle=":", label=f"best: epoch {epochs[best]:.0f}")
        axes.set(xlabel="epoch")
        axes.grid(alpha=0.3)
        if names:
            axes.legend(fontsize=8)
    write_figure(figure, path)


def over_scores(
    curves: Mapping[str, tuple[Values, Values, Values, Values]],
    thresholds: Mapping[str, float],
    averages: Mapping[str, float],
    path: Path,
) -> None:
    """Draw precision over recall, and F1 over the score; dots are at the thresholds.

    Args:
        curves: Scores from the highest on, with precision, recall and F1 there, by class name.
        thresholds: Scores by class name, of those that have one.
        averages: Average precisions by class name, for the legend.
        path: The PNG file.
    """
    names = list(curves)
    shown = dict(zip(names, legible(names), strict=True))
    figure = new_figure(9, 3.8)
    left, right = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
    for name, (scores, precision, recall, f1) in curves.items():
        label = f"{shown[name]}: {averages[name]:.3f}" if name in averages else shown[name]
        (line,) = left.plot(recall, precision, label=label, linewidth=1.3)
        right.plot(scores, f1, linewidth=1.3, color=line.get_color())
        if name in thresholds:
            at = int((scores >= thresholds[name]).sum()) - 1
            left.plot(recall[at], precision[at], "o", color=line.get_color())
            right.plot(thresholds[name], f1[at], "o", color=line.get_color())
    left.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    highest = max((scores.max(initial=0.0) for scores, *_ in curves.values()), default=1.0)
    right.set(xlabel="score", ylabel="F1", xlim=(0, highest), ylim=(0, 1.02))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    if curves:
        left.legend(fontsize=8, title="average precision" if averages else None, title_fontsize=8)
    write_figure(figure, path, names)


def reliability(groups: Mapping[str, tuple[NDArray[np.int64], Values, Values]], path: Path) -> None:
    """Draw accuracy over confidence.

    Args:
        groups: Of bins the numbers of images, mean confidence and accuracy, by what they are.
        path: The PNG file.
    """
    figure = new_figure(4.6, 4)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="as it should be")
    for name, (images, confidence, accuracy) in groups.items():
        there = images > 0
        axes.plot(confidence[there], accuracy[there], marker="o", label=name)
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    write_figure(figure, path)


def bars(values: Mapping[str, float], label: str, path: Path) -> None:
    """Draw a bar for each name."""
    figure = new_figure(6, 0.4 + 0.35 * len(values))
    axes = figure.add_subplot()
    axes.barh(list(values), list(values.values()), color="tab:red")
    axes.invert_yaxis()
    axes.set(xlabel=label)
    axes.grid(alpha=0.3, axis="x")
    write_figure(figure, path)
