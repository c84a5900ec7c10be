"""Figure 1 of the paper: a spiral embedded in n dimensions, after ReLU, projected back to the plane."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mnv2vision.paper.plots import write

DIMENSIONS = (2, 3, 5, 15, 30)
_SEEDS = 100

Points = NDArray[np.float64]


class Loss(NamedTuple):
    """The information lost in n dimensions, over many random embeddings.

    Attributes:
        error: Relative RMS distance from the original after the best scaling, by seed: 0 is the spiral itself, 1 is
            as bad as a single point.
        lost: Share of the spiral, by seed, where fewer than two of the n values pass ReLU, so that the map cannot be
            inverted.
    """

    error: Points
    lost: Points


def spiral(points: int = 1000, turns: float = 2.5) -> Points:
    """(points, 2) coordinates of an Archimedean spiral around the origin, with a radius up to 1."""
    t = np.linspace(0.02, 1, points)
    angle = 2 * np.pi * turns * t
    return np.stack([t * np.cos(angle), t * np.sin(angle)], axis=1)


def embed_and_return(points: Points, dimension: int, seed: int) -> tuple[Points, NDArray[np.bool_]]:
    """Embed by a random matrix T, apply ReLU, and return by T's pseudo-inverse.

    Args:
        points: (N, 2).
        dimension: n, of the embedding.
        seed: For T, whose n x 2 values are normally distributed.

    Returns:
        The points (N, 2) back in the plane, and which of the n values (N, n) passed ReLU.
    """
    matrix = np.random.default_rng(seed).standard_normal((dimension, 2))
    embedded = points @ matrix.T
    return np.maximum(embedded, 0) @ np.linalg.pinv(matrix).T, embedded > 0


def relative_error(points: Points, returned: Points) -> float:
    """Relative RMS distance after scaling `returned` by the best factor, as ReLU halves symmetric values."""
    factor = np.sum(points * returned) / np.sum(returned**2)
    return float(np.linalg.norm(points - factor * returned) / np.linalg.norm(points))


def loss(dimension: int, seeds: int = _SEEDS) -> Loss:
    """The loss in `dimension` dimensions, for seeds from 0 on."""
    points = spiral()
    results = [embed_and_return(points, dimension, seed) for seed in range(seeds)]
    error = np.array([relative_error(points, returned) for returned, _ in results])
    lost = np.array([np.mean(passed.sum(1) < 2) for _, passed in results])
    return Loss(error, lost)


def draw(output: Path) -> list[str]:
    """Draw figure1.png and figure1.svg.

    Args:
        output: The folder.

    Returns:
        A line for each dimension, with means and standard deviations over the seeds.
    """
    points = spiral()
    colors = np.linspace(0, 1, len(points))
    losses = {dimension: loss(dimension) for dimension in DIMENSIONS}
    figure = Figure(figsize=(11, 2.6), layout="constrained")
    panels = figure.subplots(1, 1 + len(DIMENSIONS))
    panels[0].scatter(*points.T, c=colors, cmap="viridis", s=3, rasterized=True)
    panels[0].set_title("input", fontsize=10)
    for axes, (dimension, found) in zip(panels[1:], losses.items(), strict=True):
        # The embedding with the median error, so that no panel is a lucky one.
        seed = int(np.argsort(found.error)[_SEEDS // 2])
        axes.scatter(*embed_and_return(points, dimension, seed)[0].T, c=colors, cmap="viridis", s=3, rasterized=True)
        axes.set_title(f"n = {dimension}, error {found.error[seed]:.2f}", fontsize=10)
    for axes in panels:
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_xticks([])
        axes.set_yticks([])
    figure.supxlabel(
        "A spiral, embedded in n dimensions by a random matrix, through ReLU, and back (arXiv 1801.04381, figure 1);\n"
        f"of {_SEEDS} matrices the one of median error; relative RMS error after the best scaling; scales differ",
        fontsize=8,
    )
    write(figure, output / "figure1")
    return [
        f"n = {dimension:2}: error {found.error.mean():.2f} ± {found.error.std():.2f}, "
        f"not invertible on {found.lost.mean():.0%} ± {found.lost.std():.0%} of the spiral ({_SEEDS} seeds)"
        for dimension, found in losses.items()
    ]
