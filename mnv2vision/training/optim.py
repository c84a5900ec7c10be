"""Optimisers and learning-rate schedules, including TensorFlow's RMSProp."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.optimizer import ParamsT

from mnv2vision.backbones import Backbone
from mnv2vision.errors import ConfigError


class RMSpropTF(Optimizer):
    """RMSProp as computed by TensorFlow 1, for which the paper's recipes were tuned.

    It differs from PyTorch's in three points (TF: tensorflow/core/kernels/training_ops.cc, ApplyRMSProp): epsilon is
    added inside the root, the mean square starts at 1, and momentum accumulates steps already scaled by the learning
    rate.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        *,
        decay: float = 0.9,
        momentum: float = 0.9,
        eps: float = 1.0,
        weight_decay: float = 0.0,
    ) -> None:
        """Set up the optimiser.

        Args:
            params: Parameters or groups of them.
            lr: Learning rate.
            decay: Of the mean square.
            momentum: Of the scaled steps.
            eps: Added to the mean square; TF-slim's and the detection configs' default is 1.
            weight_decay: L2 penalty, added to the gradients.
        """
        super().__init__(
            params, {"lr": lr, "decay": decay, "momentum": momentum, "eps": eps, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; all parameters of a group at once."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not params:
                continue
            for parameter in params:
                if not self.state[parameter]:
                    self.state[parameter]["mean_square"] = torch.ones_like(parameter)
                    self.state[parameter]["momentum"] = torch.zeros_like(parameter)
            gradients = [parameter.grad for parameter in params if parameter.grad is not None]
            squares = [self.state[parameter]["mean_square"] for parameter in params]
            steps = [self.state[parameter]["momentum"] for parameter in params]
            if group["weight_decay"]:
                gradients = list(torch._foreach_add(gradients, params, alpha=group["weight_decay"]))
            torch._foreach_lerp_(squares, torch._foreach_mul(gradients, gradients), 1 - group["decay"])
            roots = torch._foreach_add(squares, group["eps"])
            torch._foreach_sqrt_(roots)
            torch._foreach_mul_(steps, group["momentum"])
            torch._foreach_addcdiv_(steps, gradients, roots, value=group["lr"])
            torch._foreach_sub_(params, steps)
        return loss


ParameterGroup = dict[str, list[Tensor] | float]
"""Parameters (`params`) with their `weight_decay` and `LAYER_RATE`, as torch's optimisers take them."""
LAYER_RATE = "layer_rate"
"""Key of a group's factor of the learning rate, which the optimiser keeps and saves."""


def parameter_groups(
    model: nn.Module, weight_decay: float, decay_depthwise: bool, layer_rates: Sequence[float] | None = None
) -> list[ParameterGroup]:
    """Groups of the trainable parameters: with weight decay, and without; for each of the learning rates.

    Args:
        model: The model.
        weight_decay: For weights of convolutions and linear layers.
        decay_depthwise: Whether depthwise kernels decay as well; in TF-slim's recipes they do not.
        layer_rates: See `layer_factors`.
    """
    factors = layer_factors(model, layer_rates) if layer_rates else {}
    found: dict[tuple[float, bool], list[Tensor]] = {}
    for module in model.modules():
        depthwise = isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            # One-dimensional parameters are norms and biases.
            decays = name == "weight" and parameter.ndim > 1 and (decay_depthwise or not depthwise)
            found.setdefault((factors.get(parameter, 1.0), not decays), []).append(parameter)
    return [
        {"params": found[factor, free], "weight_decay": 0.0 if free else weight_decay, LAYER_RATE: factor}
        for factor, free in sorted(found)
    ]


def layer_factors(model: nn.Module, layer_rates: Sequence[float]) -> dict[Tensor, float]:
    """The factor of the learning rate of each trainable parameter of the backbone; all others learn at the full rate.

    After distillation, PaddleClas fine-tunes the lower layers at lower rates: MobileNetV3's 15 blocks in fives at 0.25,
    0.25, 0.5, 0.5 and 0.75 (docs/en/advanced_tutorials/distillation/distillation_en.md, section 4.1).

    Args:
        model: With a backbone.
        layer_rates: Factors of as many groups of the backbone's layers, from the stem on, alike in size up to one.

    Raises:
        ConfigError: For more groups than layers, or where all layers are frozen.
    """
    backbone = next(module for module in model.modules() if isinstance(module, Backbone))
    layers = [layer for _, layer in backbone.layers()]
    if len(layer_rates) > len(layers):
        raise ConfigError(
            f"optimizer.layer_rates has {len(layer_rates)} values, but the backbone has {len(layers)} layers"
        )
    factors: dict[Tensor, float] = {
        parameter: layer_rates[index * len(layer_rates) // len(layers)]
        for index, layer in enumerate(layers)
        for parameter in layer.parameters()
        if parameter.requires_grad
    }
    if not factors:
        raise ConfigError("optimizer.layer_rates: all layers of the backbone are frozen, so none has a rate")
    return factors


def group_rate(group: Mapping[str, object]) -> float:
    """A group's factor of the learning rate; 1 for those of checkpoints from before there were any."""
    rate = group.get(LAYER_RATE, 1.0)
    assert isinstance(rate, float)
    return rate


def build_optimizer(
    model: nn.Module,
    *,
    name: str,
    lr: float,
    weight_decay: float,
    decay_depthwise: bool,
    momentum: float,
    nesterov: bool,
    rms_decay: float,
    eps: float | None,
    layer_rates: Sequence[float] | None = None,
    fused: bool = True,
) -> Optimizer:
    """Build the optimiser of a training run.

    Args:
        model: Its trainable parameters are optimised.
        name: "sgd", "rmsprop_tf" or "adamw".
        lr: Learning rate for the batch size in use.
        weight_decay: See `parameter_groups`.
        decay_depthwise: See `parameter_groups`.
        momentum: For sgd and rmsprop_tf; for adamw, of the mean gradient (its first beta).
        nesterov: For sgd.
        rms_decay: For rmsprop_tf, decay of the mean square.
        eps: For rmsprop_tf (None: 1.0) and adamw (None: 1e-8).
        layer_rates: See `layer_factors`; None for one rate.
        fused: Whether sgd and adamw may update all parameters in one pass on a CPU.
    """
    groups = parameter_groups(model, weight_decay, decay_depthwise, layer_rates)
    for group in groups:
        group["lr"] = lr * group_rate(group)
    if not (lr >= 0 and weight_decay >= 0 and momentum >= 0):
        raise ConfigError(f"optimizer: lr={lr}, weight_decay={weight_decay} and momentum={momentum} must be 0 or more")
    # torch does not fuse on a CPU by default; on a GPU it chooses well.
    on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
    fuse = True if fused and on_cpu else None
    if name == "sgd":
        if nesterov and not momentum:
            raise ConfigError("optimizer.nesterov=true requires optimizer.momentum above 0")
        return SGD(groups, lr, momentum=momentum, nesterov=nesterov, fused=fuse)
    if name == "rmsprop_tf":
        return RMSpropTF(groups, lr, decay=rms_decay, momentum=momentum, eps=1.0 if eps is None else eps)
    if name == "adamw":
        if momentum >= 1:
            raise ConfigError(f"optimizer.momentum={momentum} must be below 1 for optimizer.name=adamw")
        return AdamW(groups, lr, betas=(momentum, 0.999), eps=1e-8 if eps is None else eps, fused=fuse)
    raise ConfigError(f"optimizer.name={name!r} is unknown; valid: sgd, rmsprop_tf, adamw")


WARMUP_SHARE = 0.2
"""Largest share of a run's steps for warm-up, so that a shortened run still reaches its learning rate."""


def warmup_steps(warmup_epochs: float, total_steps: int, steps_per_epoch: float) -> int:
    """Steps of a warm-up of `warmup_epochs` epochs, at most `WARMUP_SHARE` of the run."""
    return min(round(warmup_epochs * steps_per_epoch), int(WARMUP_SHARE * total_steps))


def schedule(
    *,
    name: str,
    total_steps: int,
    steps_per_epoch: float,
    warmup_epochs: float = 0.0,
    decay_rate: float = 0.98,
    decay_epochs: float = 1.0,
    power: float = 0.9,
    final: float = 0.0,
) -> Callable[[int], float]:
    """The learning-rate factor as a function of the step.

    Args:
        name: "constant"; "exponential" (times `decay_rate` every `decay_epochs` epochs, in steps, as TF-slim);
            "cosine" (half a cosine to `final`); "poly" ((1 - t) ** power, as DeepLab).
        total_steps: Optimiser steps of the run.
        steps_per_epoch: Optimiser steps of an epoch.
        warmup_epochs: Epochs of linear warm-up from 0 before the schedule, at most a fifth of the run; part of
            `total_steps`.
        decay_rate: For exponential.
        decay_epochs: For exponential.
        power: For poly.
        final: For cosine and poly: the factor at the end.
    """
    if name not in ("constant", "exponential", "cosine", "poly"):
        raise ConfigError(f"schedule.name={name!r} is unknown; valid: constant, exponential, cosine, poly")
    warmup = warmup_steps(warmup_epochs, total_steps, steps_per_epoch)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if name == "constant":
            return 1.0
        if name == "exponential":
            return decay_rate ** math.floor((step - warmup) / (decay_epochs * steps_per_epoch))
        time = min(1.0, (step - warmup) / max(1, total_steps - warmup))
        shape = 0.5 * (1 + math.cos(math.pi * time)) if name == "cosine" else (1 - time) ** power
        return final + (1 - final) * shape

    return factor
