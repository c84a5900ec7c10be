"""One loss of several: against arithmetic of its own."""

import pytest
import torch
from torch import Tensor

from mnv2vision.errors import ConfigError
from mnv2vision.training.balance import Balance, cosines, gradients


def losses(shared: Tensor) -> dict[str, Tensor]:
    """Their gradients are (3, 0), (0, 4) and (-1, 0)."""
    return {"a": 3 * shared[0], "b": 4 * shared[1], "c": -shared[0]}


@pytest.fixture
def shared() -> Tensor:
    return torch.tensor([2.0, 1.0], requires_grad=True)


def test_fixed(shared: Tensor) -> None:
    total = Balance({"a": 1, "b": 0.5, "c": 2})(losses(shared))
    assert total.item() == 6 + 0.5 * 4 - 2 * 2


def test_gradients_of_equal_norm(shared: Tensor) -> None:
    balance = Balance({"a": 1, "b": 1, "c": 0.5}, "gradient")
    (gradient,) = torch.autograd.grad(balance(losses(shared), shared), shared)
    mean = (3 + 4 + 1) / 3
    torch.testing.assert_close(gradient, torch.tensor([mean - 0.5 * mean, mean]))


def test_a_head_without_a_gradient_takes_no_part(shared: Tensor) -> None:
    balance = Balance({"a": 1, "b": 1}, "gradient")
    total = balance({"a": 3 * shared[0], "b": 0 * shared[1]}, shared)
    (gradient,) = torch.autograd.grad(total, shared)
    assert gradient.tolist() == [3, 0]


def test_learned_by_uncertainty(shared: Tensor) -> None:
    """d/ds (exp(-s) L + s) = 1 - L at s = 0: a large loss raises its variance, a small one lowers it."""
    balance = Balance({"a": 1, "b": 1}, "uncertainty")
    assert balance.log_variances is not None
    total = balance({"a": 3 * shared[0], "b": 0.5 * shared[1]}, None)
    assert total.item() == pytest.approx(6.5)
    total.backward()
    assert balance.log_variances.grad is not None
    assert balance.log_variances.grad.tolist() == [1 - 6, 1 - 0.5]


def test_cosines(shared: Tensor) -> None:
    found = {name: value.item() for name, value in cosines(losses(shared), shared).items()}
    assert found == {"cosine/a-b": 0, "cosine/a-c": -1, "cosine/b-c": 0}
    assert gradients(losses(shared), shared)["b"].tolist() == [0, 4]


@pytest.mark.parametrize(
    ("weights", "mode", "message"),
    [
        ({"a": 1}, "magic", "loss.balance='magic' is unknown; valid: fixed, uncertainty, gradient"),
        ({"a": -1}, "fixed", "loss.weights.a=-1 must not be negative"),
    ],
)
def test_what_cannot_be(weights: dict[str, float], mode: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Balance(weights, mode)
