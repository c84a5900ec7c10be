"""What a student is told of its teacher's answers: distances of class probabilities, and of features."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mnv2vision.backbones import Backbone
from mnv2vision.errors import ConfigError

Kind = Literal["kl", "js", "dist"]


class Divergence:
    """A distance of two softmaxes, see `contracts.Distance`; times the square of the temperature.

    Which keeps the gradients' size, as temperatures divide them by that much (arXiv 1503.02531, section 2).
    """

    def __init__(self, kind: Kind = "kl", temperature: float = 1.0) -> None:
        """Choose one.

        Args:
            kind: "kl", the Kullback-Leibler divergence of the student from the teacher (arXiv 1503.02531); "js", the
                Jensen-Shannon divergence, as in SSLD (arXiv 2103.05959); both in nats. "dist", 1 - Pearson's
                correlation of each row's probabilities, plus 1 - that of each class's over all rows (arXiv 2205.10536,
                equations 9 and 10).
            temperature: Both sides' logits are divided by it.

        Raises:
            ConfigError: For an unknown kind.
        """
        if kind not in (kinds := get_args(Kind)):
            raise ConfigError(f"distill.loss={kind} is unknown; valid: {', '.join(kinds)}")
        self.kind, self.temperature = kind, temperature

    def by_row(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See `contracts.Distance`; of "dist", what rows say alone."""
        scale = self.temperature**2
        logs, wanted = ((logits / self.temperature).log_softmax(-1) for logits in (student, teacher))
        if self.kind == "dist":
            return scale * (1 - _correlation(logs.exp(), wanted.exp(), -1))
        if self.kind == "kl":
            return scale * F.kl_div(logs, wanted, reduction="none", log_target=True).sum(-1)
        middle = torch.logaddexp(logs, wanted) - math.log(2)
        own, other = (F.kl_div(middle, side, reduction="none", log_target=True).sum(-1) for side in (logs, wanted))
        return scale * (own + other) / 2

    def mean(self, student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
        """See `contracts.Distance`."""
        total = weights.sum().clamp(min=1e-6)
        by_row = (self.by_row(student, teacher) * weights).sum() / total
        if self.kind != "dist":
            return by_row
        own, other = ((logits / self.temperature).softmax(-1) for logits in (student, teacher))
        by_class = 1 - _correlation(own, other, 0, weights[:, None] / total)
        return by_row + self.temperature**2 * by_class.mean() * (weights.sum() > 0)


def _correlation(a: Tensor, b: Tensor, dim: int, weights: Tensor | None = None) -> Tensor:
    """Pearson's, along a dimension; weights sum to 1 there, and are all alike by default."""
    if weights is None:
        weights = torch.full((), 1 / a.shape[dim], device=a.device)
    a, b = (x - (x * weights).sum(dim, keepdim=True) for x in (a, b))
    covariance, own, other = ((x * y * weights).sum(dim) for x, y in ((a, b), (a, a), (b, b)))
    # The root of the product of tiny variances would have an infinite gradient.
    return covariance / (own.clamp(min=1e-16).sqrt() * other.clamp(min=1e-16).sqrt())


class FeatureImitation(nn.Module):
    """Features like a teacher's: those of each tap, by a 1x1 convolution, have its values (arXiv 1412.6550).

    The teacher's are normalised by channel, so that none of them and no tap counts for more by its scale alone. The
    convolutions, a student's and a teacher's channels being different ones, are of no use afterwards.
    """

    def __init__(self, student: Backbone, teacher: Backbone, taps: Sequence[str]) -> None:
        """Set it up; both backbones give these features from now on, too.

        Args:
            student: That learns.
            teacher: That it learns from.
            taps: Of both, in layers that they have.

        Raises:
            ConfigError: For a tap that one of them lacks.
        """
        super().__init__()
        self.taps = tuple(taps)
        specs = []
        for whose, backbone in (("student", student), ("teacher", teacher)):
            try:
                specs.append(backbone.also_give(self.taps))
            except ConfigError as error:
                raise ConfigError(f"distill.features: of the {whose}: {error}") from error
        mine, theirs = specs
        self.adapters = nn.ModuleList(nn.Conv2d(mine[tap].channels, theirs[tap].channels, 1) for tap in self.taps)

    def forward(self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], wanted: Tensor) -> Tensor:
        """The mean squared difference, summed over the taps.

        Args:
            student: Features (N, C, H, W) by tap.
            teacher: Likewise; of another size where it sees another one.
            wanted: (N,) bool, which images count.
        """
        loss = torch.zeros((), device=wanted.device)
        for tap, adapter in zip(self.taps, self.adapters, strict=True):
            own, goal = adapter(student[tap]).float(), teacher[tap].float()
            if goal.shape[-2:] != own.shape[-2:]:
                goal = F.interpolate(goal, own.shape[-2:], mode="bilinear", align_corners=False)
            error = (own - F.batch_norm(goal, None, None, training=True)).square().mean((1, 2, 3))
            loss = loss + error.where(wanted, 0).sum() / wanted.sum().clamp(min=1)
        return loss
