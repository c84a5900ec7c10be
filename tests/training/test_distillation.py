"""Distances of class probabilities, against SciPy's and NumPy's arithmetic."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax
from scipy.stats import entropy, pearsonr

from mnv2vision.errors import ConfigError
from mnv2vision.training.distillation import Divergence

RANDOM = np.random.default_rng(0)
STUDENT, TEACHER = (RANDOM.normal(size=(5, 7)) * 2 for _ in range(2))


def both(kind: Any, temperature: float, weights: list[float]) -> float:
    distance = Divergence(kind, temperature)
    return distance.mean(*map(torch.from_numpy, (STUDENT, TEACHER)), torch.tensor(weights).double()).item()


def probabilities(temperature: float) -> tuple[Any, Any]:
    return softmax(STUDENT / temperature, 1), softmax(TEACHER / temperature, 1)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kullback_leibler(temperature: float) -> None:
    student, teacher = probabilities(temperature)
    by_row = temperature**2 * entropy(teacher, student, axis=1)
    assert both("kl", temperature, [1] * 5) == pytest.approx(by_row.mean())
    assert both("kl", temperature, [0, 1, 0, 1, 0]) == pytest.approx(by_row[[1, 3]].mean())


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_jensen_shannon(temperature: float) -> None:
    student, teacher = probabilities(temperature)
    by_row = temperature**2 * jensenshannon(teacher, student, axis=1) ** 2
    assert both("js", temperature, [1] * 5) == pytest.approx(by_row.mean())
    assert both("js", temperature, [0, 0, 2, 0, 0]) == pytest.approx(by_row[2])


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_correlations(temperature: float) -> None:
    """Within each image over the classes, and of each class over the images; those left out count nowhere."""
    for rows in (range(5), (0, 2, 3)):
        student, teacher = (values[list(rows)] for values in probabilities(temperature))
        inter = np.mean([1 - pearsonr(*pair)[0] for pair in zip(student, teacher, strict=True)])
        intra = np.mean([1 - pearsonr(*pair)[0] for pair in zip(student.T, teacher.T, strict=True)])
        weights = [float(row in rows) for row in range(5)]
        assert both("dist", temperature, weights) == pytest.approx(temperature**2 * (inter + intra), rel=1e-5)


@pytest.mark.parametrize("kind", ["kl", "js", "dist"])
def test_of_nothing_and_of_equals(kind: Any) -> None:
    """Zero, with gradients that are finite, sure as both sides may be."""
    assert both(kind, 1.0, [0] * 5) == 0
    for logits in (torch.from_numpy(STUDENT), torch.eye(4) * 500, torch.zeros(1, 3)):
        student = logits.clone().requires_grad_(True)
        found = Divergence(kind).mean(student, logits, torch.ones(len(logits)))
        if logits.abs().sum() and kind != "dist":
            assert found.item() == pytest.approx(0, abs=1e-6)
        found.backward()  # type: ignore[no-untyped-call]
        assert student.grad is not None
        assert student.grad.isfinite().all()


def test_an_unknown_one() -> None:
    with pytest.raises(ConfigError, match=r"distill\.loss"):
        Divergence("mse")  # type: ignore[arg-type]
