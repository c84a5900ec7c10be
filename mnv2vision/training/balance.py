"""One loss of those of several heads, and what their gradients have to do with one another."""

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from mnv2vision.errors import ConfigError

Mode = Literal["fixed", "uncertainty", "gradient"]
MODES = ("fixed", "uncertainty", "gradient")


class Balance(nn.Module):
    """The weighted sum of the heads' losses.

    Attributes:
        weights: By head.
        mode: "fixed": these weights; "uncertainty": times 1 / variance, each head's learned with the network (arXiv
            1705.07115, eq. 10, as exp(-s) L + s); "gradient": times what gives all heads' gradients on the features
            the mean norm of them, anew each step.
    """

    def __init__(self, weights: Mapping[str, float], mode: str = "fixed") -> None:
        """Set it up.

        Args:
            weights: By head, not below 0.
            mode: See `Balance.mode`.
        """
        super().__init__()
        if mode not in MODES:
            raise ConfigError(f"loss.balance={mode!r} is unknown; valid: {', '.join(MODES)}")
        for name, weight in weights.items():
            if not weight >= 0:
                raise ConfigError(f"loss.weights.{name}={weight} must not be negative")
        self.weights, self.mode = dict(weights), mode
        self.log_variances = nn.Parameter(torch.zeros(len(weights))) if mode == "uncertainty" else None
        self.factors: dict[str, Tensor] = {}

    def forward(self, losses: Mapping[str, Tensor], shared: Tensor | None = None) -> Tensor:
        """The loss to descend on; `factors` tells what each head's was multiplied with.

        Args:
            losses: Scalars by head.
            shared: The features on which gradients are compared; needed for "gradient".
        """
        self.factors = {name: loss.new_tensor(self.weights[name]) for name, loss in losses.items()}
        extra = torch.zeros((), device=next(iter(losses.values())).device)
        if self.log_variances is not None:
            for name, log_variance in zip(losses, self.log_variances.unbind(), strict=True):
                self.factors[name] = self.factors[name] * (-log_variance).exp()
            extra = self.log_variances.sum()
        elif self.mode == "gradient" and shared is not None:
            norms = torch.stack([gradient.norm() for gradient in gradients(losses, shared).values()])
            if dist.is_available() and dist.is_initialized():
                dist.all_reduce(norms)
                norms = norms / dist.get_world_size()
            there = norms > 0
            wanted = norms.sum() / there.sum().clamp(min=1)
            ratios = torch.where(there, wanted / norms.clamp(min=torch.finfo(norms.dtype).tiny), 1.0)
            self.factors = {name: self.factors[name] * ratio for name, ratio in zip(losses, ratios, strict=True)}
        return torch.stack([self.factors[name] * loss for name, loss in losses.items()]).sum() + extra


def gradients(losses: Mapping[str, Tensor], shared: Tensor) -> dict[str, Tensor]:
    """The gradient of each head's loss on the features that all stand on, flat, in float32."""
    found = {}
    for name, loss in losses.items():
        (gradient,) = torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True)
        found[name] = (torch.zeros_like(shared) if gradient is None else gradient).float().flatten()
    return found


def cosines(losses: Mapping[str, Tensor], shared: Tensor) -> dict[str, Tensor]:
    """The cosine between the gradients of each two heads, in -1..1: below 0 they pull against each other."""
    found = gradients(losses, shared)
    pairs = combinations(found.values(), 2)
    return {name: F.cosine_similarity(*pair, dim=0) for name, pair in zip(cosine_names(found), pairs, strict=True)}


def cosine_names(heads: Iterable[str]) -> list[str]:
    """What `cosines` calls those of some heads."""
    return [f"cosine/{one}-{other}" for one, other in combinations(heads, 2)]
