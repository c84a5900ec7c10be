"""Cross entropy against its formula, written out in NumPy."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mnv2vision.classification.loss import classification_loss

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(0, 4, (6, 5))


def cross_entropy(targets: NDArray[np.float64], smoothing: float) -> float:
    """Mean over the batch of -sum_k q(k) log p(k), q smoothed as in arXiv 1512.00567, section 7."""
    log_p = LOGITS - np.log(np.exp(LOGITS).sum(1, keepdims=True))
    q = (1 - smoothing) * targets + smoothing / LOGITS.shape[1]
    return float(-(q * log_p).sum(1).mean())


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_labels(smoothing: float) -> None:
    labels = np.array([0, 4, 2, 2, 1, 3])
    loss = classification_loss(torch.tensor(LOGITS), torch.tensor(labels), smoothing)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(cross_entropy(np.eye(5)[labels], smoothing), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_probabilities(smoothing: float) -> None:
    targets = RANDOM.dirichlet(np.ones(5), 6)
    loss = classification_loss(torch.tensor(LOGITS), torch.tensor(targets, dtype=torch.float32), smoothing)
    assert loss.item() == pytest.approx(cross_entropy(targets, smoothing), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_shares_of_images_that_count(smoothing: float) -> None:
    """As of an image mixed with one whose class is not known: each counts by the sum of its target."""
    shares = np.array([1, 0.25, 0, 0.75, 1, 0])
    targets = RANDOM.dirichlet(np.ones(5), 6)
    mixed = torch.tensor(targets * shares[:, None], dtype=torch.float32)
    log_p = LOGITS - np.log(np.exp(LOGITS).sum(1, keepdims=True))
    each = -(((1 - smoothing) * targets + smoothing / 5) * log_p).sum(1)
    loss = classification_loss(torch.tensor(LOGITS), mixed, smoothing)
    assert loss.item() == pytest.approx((each * shares).sum() / shares.sum(), rel=1e-5)
    assert classification_loss(torch.tensor(LOGITS), torch.zeros(6, 5), smoothing).item() == 0


def test_without_smoothing_by_default_and_in_float32() -> None:
    labels = torch.tensor([0, 4, 2, 2, 1, 3])
    logits = torch.tensor(LOGITS, dtype=torch.bfloat16, requires_grad=True)
    loss = classification_loss(logits, labels)
    assert loss.dtype == torch.float32
    exact = torch.nn.functional.nll_loss(logits.detach().double().log_softmax(1), labels)
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
