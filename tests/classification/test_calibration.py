"""Calibration against torchmetrics, and the temperature against LBFGS and against one that is known."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_calibration_error

from mnv2vision.classification import evaluator as module
from mnv2vision.classification.calibration import calibration_bins, confidences, fit_temperature
from mnv2vision.classification.evaluator import ClassificationEvaluator
from mnv2vision.data.sample import Sample

PIXEL = np.zeros((1, 1, 3), np.uint8)


def data(count: int, classes: int, seed: int = 0, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Logits, and labels drawn with the probabilities that the logits have where they are not scaled."""
    generator = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn(count, classes, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    return logits * scale, labels


def evaluated(logits: Tensor, labels: Tensor, images: int = 0) -> tuple[ClassificationEvaluator, dict[str, float]]:
    evaluator = ClassificationEvaluator(logits.shape[1], images=images)
    samples = [Sample(PIXEL, index, "", label) for index, label in enumerate(labels.tolist())]
    for start in range(0, len(samples), 7):
        evaluator.update(logits[start : start + 7], samples[start : start + 7])
    return evaluator, evaluator.compute()


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
@pytest.mark.parametrize("scale", [0.3, 1.0, 2.0])
def test_equals_torchmetrics(classes: int, scale: float) -> None:
    logits, labels = data(501, classes, classes, scale)
    wanted = multiclass_calibration_error(logits.softmax(1), labels, num_classes=classes, n_bins=15, norm="l1")
    evaluator, metrics = evaluated(logits, labels)
    assert metrics["ece"] == pytest.approx(wanted.item(), abs=1e-6)
    divided = (logits / metrics["temperature"]).softmax(1)
    wanted = multiclass_calibration_error(divided, labels, num_classes=classes, n_bins=15, norm="l1")
    assert metrics["ece_calibrated"] == pytest.approx(wanted.item(), abs=1e-6)
    assert evaluator.bins().images.sum() == evaluator.calibrated().images.sum() == 501


@pytest.mark.parametrize("scale", [0.4, 1.0, 3.0])
def test_temperature(scale: float) -> None:
    logits, labels = data(4000, 10, 1, scale)
    found = fit_temperature(logits.numpy(), labels.numpy())
    assert found == pytest.approx(scale, rel=0.05)  # by which the logits are too large
    exponent = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([exponent], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(logits.double() / exponent.exp(), labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert found == pytest.approx(exponent.exp().item(), rel=1e-3)
    np.testing.assert_allclose(
        confidences(logits.numpy(), found), (logits / found).softmax(1).max(1).values.numpy(), atol=1e-6
    )


def test_certain_ones() -> None:
    bins = calibration_bins(np.array([1.0, 1.0, 0.0]), np.array([True, False, False]))
    assert bins.images[[0, -1]].tolist() == [1, 2]
    assert bins.error == pytest.approx((0 + 2 * 0.5) / 3)


def test_nothing_and_no_numbers() -> None:
    _, metrics = evaluated(torch.empty(0, 3), torch.empty(0, dtype=torch.long))
    assert all(np.isnan(metrics[key]) for key in ("ece", "ece_calibrated", "temperature"))
    assert np.isnan(fit_temperature(np.array([[np.nan, 0]], np.float32), np.array([0])))


def test_many_images_are_fitted_to_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_LOGITS", 1000)
    logits, labels = data(900, 5, 3, 2.0)
    evaluator, metrics = evaluated(logits, labels, images=900)  # of 4500 logits every fifth image's
    kept = len(evaluator.fitted[1])
    assert 120 < kept < 240
    assert evaluator.images == 900
    assert metrics["temperature"] == pytest.approx(2.0, rel=0.2)
