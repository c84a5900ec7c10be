"""Optimisers and schedules against TensorFlow's and the papers' formulas, written out in float64."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import mnv2vision as mv
from mnv2vision.errors import ConfigError
from mnv2vision.training.optim import RMSpropTF, build_optimizer, parameter_groups, schedule, warmup_steps

SHAPES = ((3, 4), (5,), (2, 1, 3, 3))
OPTIONS: dict[str, Any] = {
    "name": "sgd",
    "lr": 0.1,
    "weight_decay": 4e-5,
    "decay_depthwise": False,
    "momentum": 0.9,
    "nesterov": False,
    "rms_decay": 0.9,
    "eps": None,
}


def reference(
    start: NDArray[np.float64],
    gradients: list[NDArray[np.float64]],
    rates: list[float],
    decay: float,
    momentum: float,
    eps: float,
    weight_decay: float,
) -> NDArray[np.float64]:
    """tf.train.RMSPropOptimizer, not centred: the formulas of the op's documentation (ApplyRMSProp).

    ms <- rho * ms + (1 - rho) * g * g;  mom <- momentum * mom + lr * g / sqrt(ms + epsilon);  var <- var - mom,
    with ms starting at 1 and mom at 0 (rmsprop.py, _create_slots).
    """
    variable = start.copy()
    mean_square, step = np.ones_like(start), np.zeros_like(start)
    for gradient, rate in zip(gradients, rates, strict=True):
        g = gradient + weight_decay * variable  # the gradient of slim.l2_regularizer: scale * sum(w ** 2) / 2
        mean_square = decay * mean_square + (1 - decay) * g * g
        step = momentum * step + rate * g / np.sqrt(mean_square + eps)
        variable = variable - step
    return variable


@pytest.mark.parametrize(("decay", "momentum", "eps"), [(0.9, 0.9, 1.0), (0.99, 0.0, 1e-10), (0.5, 0.5, 0.01)])
def test_rmsprop_is_tensorflows(decay: float, momentum: float, eps: float) -> None:
    random = np.random.default_rng(0)
    starts = [random.normal(size=shape) for shape in SHAPES]
    gradients = [[random.normal(size=shape) * 10 ** random.uniform(-3, 1) for shape in SHAPES] for _ in range(60)]
    rates = [0.045 * 0.98 ** (step // 7) for step in range(60)]
    parameters = [nn.Parameter(torch.tensor(start)) for start in starts]
    groups = [{"params": parameters[:1], "weight_decay": 0.02}, {"params": parameters[1:]}]
    optimizer = RMSpropTF(groups, 0.045, decay=decay, momentum=momentum, eps=eps)
    plain = [nn.Parameter(torch.tensor(start)) for start in starts]
    pytorch = torch.optim.RMSprop(plain, 0.045, alpha=decay, momentum=momentum, eps=eps)
    for step, rate in enumerate(rates):
        for choice in (optimizer, pytorch):
            for group in choice.param_groups:
                group["lr"] = rate
        for parameter, other, gradient in zip(parameters, plain, gradients[step], strict=True):
            parameter.grad, other.grad = torch.tensor(gradient), torch.tensor(gradient)
        optimizer.step()
        pytorch.step()
    for index, parameter in enumerate(parameters):
        own = [step[index] for step in gradients]
        wanted = reference(starts[index], own, rates, decay, momentum, eps, 0.02 if index == 0 else 0.0)
        np.testing.assert_allclose(parameter.detach().numpy(), wanted, rtol=1e-10)
        # What would be easier, and is something else: eps outside the root, a mean square that starts at 0, momentum
        # that is scaled by today's learning rate.
        if index:
            assert np.abs(plain[index].detach().numpy() - wanted).max() > 1e-2


def test_rmsprop_leaves_parameters_without_gradients_and_takes_closures() -> None:
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = RMSpropTF([used, unused], 0.1, weight_decay=0.5)

    def closure() -> float:
        optimizer.zero_grad()
        loss = (used**2).sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 2
    assert (used != 1).all()
    assert (unused == 1).all()


def build(name: str, model: nn.Module) -> torch.optim.Optimizer:
    return build_optimizer(model, **(OPTIONS | {"name": name}))


@pytest.mark.parametrize("name", ["sgd", "rmsprop_tf", "adamw"])
def test_state_goes_on_bit_for_bit(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, groups=4))
    batches = torch.randn(10, 2, 3, 8, 8)

    def train(model: nn.Module, optimizer: torch.optim.Optimizer, batches: torch.Tensor) -> None:
        for x in batches:
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()

    optimizer = build(name, model)
    train(model, optimizer, batches[:6])
    other = copy.deepcopy(model)
    resumed = build(name, other)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    fresh = copy.deepcopy(model)
    train(model, optimizer, batches[6:])
    train(other, resumed, batches[6:])
    train(fresh, build(name, fresh), batches[6:])
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(model.parameters(), fresh.parameters(), strict=True))


# ---- which parameters decay ----


def test_groups_of_mobilenet_v2() -> None:
    with torch.device("meta"):
        model = mv.create_model("classification")
    decayed, free = parameter_groups(model, 4e-5, decay_depthwise=False)
    assert (decayed["weight_decay"], free["weight_decay"]) == (4e-5, 0.0)
    # Table 2: a stem, 16 expansions, 17 projections, the last convolution and the classifier decay; 17 depthwise
    # kernels, scale and shift of 52 norms, and the classifier's bias do not.
    assert len(decayed["params"]) == 1 + 16 + 17 + 1 + 1
    assert len(free["params"]) == 17 + 2 * 52 + 1
    assert all(parameter.ndim >= 2 for parameter in decayed["params"])
    kernels = [parameter for parameter in free["params"] if parameter.ndim == 4]
    assert {tuple(kernel.shape[1:]) for kernel in kernels} == {(1, 3, 3)}
    assert len(kernels) == 17

    with_depthwise, without_norms = parameter_groups(model, 4e-5, decay_depthwise=True)
    assert len(with_depthwise["params"]) == 36 + 17
    assert len(without_norms["params"]) == 2 * 52 + 1


def test_each_trainable_parameter_is_in_one_group() -> None:
    model: Any = mv.create_model("classification", backbone="mobilenet_v3_small", num_classes=2)
    model.backbone.freeze(3)
    groups = parameter_groups(model, 1e-4, decay_depthwise=False)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters() if parameter.requires_grad)
    assert len(grouped) < len(list(model.parameters()))
    assert all(group["params"] for group in parameter_groups(nn.BatchNorm2d(3), 1e-4, decay_depthwise=False))


def test_build_optimizer() -> None:
    model = nn.Conv2d(3, 4, 3)
    sgd = build_optimizer(model, **(OPTIONS | {"nesterov": True}))
    assert isinstance(sgd, torch.optim.SGD)
    assert [group["weight_decay"] for group in sgd.param_groups] == [4e-5, 0]
    assert all(group["nesterov"] and group["momentum"] == 0.9 and group["lr"] == 0.1 for group in sgd.param_groups)
    rmsprop = build_optimizer(model, **(OPTIONS | {"name": "rmsprop_tf", "rms_decay": 0.8}))
    assert isinstance(rmsprop, RMSpropTF)
    assert (rmsprop.defaults["eps"], rmsprop.defaults["decay"]) == (1.0, 0.8)
    adamw = build_optimizer(model, **(OPTIONS | {"name": "adamw", "eps": 1e-3}))
    assert isinstance(adamw, torch.optim.AdamW)
    assert adamw.defaults["eps"] == 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "rmsprop"}, r"optimizer\.name='rmsprop' is unknown; valid: sgd, rmsprop_tf, adamw"),
        ({"lr": -1.0}, r"lr=-1"),
        ({"lr": math.nan}, r"lr=nan"),
        ({"weight_decay": -1e-5}, r"weight_decay=-1e-05"),
        ({"momentum": -0.9}, r"momentum=-0\.9"),
        ({"nesterov": True, "momentum": 0.0}, r"nesterov"),
    ],
)
def test_bad_optimizers(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_optimizer(nn.Linear(2, 2), **(OPTIONS | options))


# ---- schedules ----


def test_constant() -> None:
    factor = schedule(name="constant", total_steps=10, steps_per_epoch=5)
    assert [factor(step) for step in (0, 5, 9, 99)] == [1, 1, 1, 1]


def test_exponential_is_slims_staircase() -> None:
    # tf.train.exponential_decay(lr, step, decay_steps, 0.98, staircase=True): lr * 0.98 ** (step // decay_steps)
    factor = schedule(name="exponential", total_steps=1000, steps_per_epoch=40, decay_rate=0.98, decay_epochs=2.5)
    for step in (0, 1, 99, 100, 101, 199, 200, 999):
        assert factor(step) == pytest.approx(0.98 ** (step // 100))


def test_cosine() -> None:
    # arXiv 1608.03983, equation 5
    factor = schedule(name="cosine", total_steps=80, steps_per_epoch=10, final=0.1)
    for step in range(81):
        assert factor(step) == pytest.approx(0.1 + 0.5 * (1 - 0.1) * (1 + math.cos(math.pi * step / 80)))
    assert factor(500) == pytest.approx(0.1)


def test_poly() -> None:
    # DeepLab: (1 - step / total) ** 0.9
    factor = schedule(name="poly", total_steps=30, steps_per_epoch=10)
    for step in range(31):
        assert factor(step) == pytest.approx((1 - step / 30) ** 0.9)
    assert factor(31) == 0
    assert schedule(name="poly", total_steps=30, steps_per_epoch=10, power=2.0)(15) == pytest.approx(0.25)


@pytest.mark.parametrize("name", ["constant", "exponential", "cosine", "poly"])
def test_warmup_rises_evenly_to_where_the_schedule_begins(name: str) -> None:
    factor = schedule(name=name, total_steps=100, steps_per_epoch=10, warmup_epochs=2.0, decay_rate=0.5)
    rise = [factor(step) for step in range(21)]
    np.testing.assert_allclose(np.diff(rise), 1 / 21)
    assert 0 < rise[0] < 0.06
    assert rise[20] == pytest.approx(1)
    assert all(factor(step + 1) <= factor(step) for step in range(20, 120))
    if name in ("cosine", "poly"):  # warm-up and schedule share the time
        assert factor(100) == pytest.approx(0)
        assert factor(60) == pytest.approx(0.5 if name == "cosine" else 0.5**0.9)


def test_warmup_is_a_fifth_of_the_run_at_most() -> None:
    factor = schedule(name="constant", total_steps=100, steps_per_epoch=10, warmup_epochs=5.0)
    assert [factor(step) < 1 for step in (0, 18, 19, 20)] == [True, True, True, False]
    assert (warmup_steps(5.0, 350, 10), warmup_steps(5.0, 80, 10)) == (50, 16)


def test_degenerate_lengths() -> None:
    for name in ("cosine", "poly", "exponential"):
        assert 0 <= schedule(name=name, total_steps=0, steps_per_epoch=1)(0) <= 1
        assert 0 < schedule(name=name, total_steps=5, steps_per_epoch=5, warmup_epochs=3)(0) < 1
    with pytest.raises(ConfigError, match=r"schedule\.name='step' is unknown; valid: constant, exponential"):
        schedule(name="step", total_steps=1, steps_per_epoch=1)


# ---- rates by layer ----


def test_rates_of_groups_of_layers() -> None:
    """MobileNetV2 has a stem, 17 blocks and a last convolution: 19 layers, in threes of 7, 6 and 6."""
    with torch.device("meta"):
        model = mv.create_model("classification")
    wanted = {"stem": 0.1} | {
        f"block{number}": 0.1 if number < 6 else 0.3 if number < 12 else 1.0 for number in range(17)
    }
    wanted |= {"last": 1.0}
    optimizer = build_optimizer(model, **(OPTIONS | {"layer_rates": [0.1, 0.3, 1.0], "lr": 0.2}))
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    plain = build_optimizer(model, **OPTIONS)
    plain_decays = {id(p): group["weight_decay"] for group in plain.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        room, layer, *_ = name.split(".")
        factor = wanted[layer] if room == "backbone" else 1.0
        assert rates[id(parameter)] == pytest.approx(0.2 * factor), name
    assert decays == plain_decays
    assert len(optimizer.param_groups) == 6
    assert [group["lr"] for group in plain.param_groups] == [0.1, 0.1]  # without rates, what there was before


@pytest.mark.parametrize("name", ["sgd", "rmsprop_tf", "adamw"])
def test_a_rate_is_the_rate_of_an_optimiser_of_its_own(name: str) -> None:
    """Each group moves as if it were optimised alone at its rate, with the schedule that all share."""
    torch.manual_seed(0)
    model: Any = mv.create_model("classification", width=0.35, num_classes=2, image_size=32)
    gradients = {key: torch.randn_like(parameter) for key, parameter in model.named_parameters()}
    start = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    factor = schedule(name="cosine", total_steps=5, steps_per_epoch=5)

    def run(rates: list[float] | None, lr: float) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                parameter.copy_(start[key])
        optimizer = build_optimizer(model, **(OPTIONS | {"name": name, "layer_rates": rates, "lr": lr}))
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        for _ in range(4):
            for key, parameter in model.named_parameters():
                parameter.grad = gradients[key].clone()
            optimizer.step()
            scheduler.step()
        return {key: parameter.detach().clone() for key, parameter in model.named_parameters()}

    by_layer, low, full = run([0.25, 1.0], 0.1), run(None, 0.025), run(None, 0.1)
    for key, parameter in by_layer.items():
        lower = key.startswith("backbone.") and (key.split(".")[1] in {"stem", *(f"block{n}" for n in range(9))})
        torch.testing.assert_close(parameter, (low if lower else full)[key], rtol=1e-6, atol=1e-7)
        assert not torch.equal(low[key], full[key])


def test_frozen_layers_have_no_rate() -> None:
    model: Any = mv.create_model("classification", width=0.35, num_classes=2)
    model.backbone.freeze(3)  # the stem and the first three blocks
    groups = parameter_groups(model, 1e-4, False, [0.1, 0.5])
    grouped = {id(parameter): group["layer_rate"] for group in groups for parameter in group["params"]}  # type: ignore[union-attr]
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert grouped.keys() == {id(parameter) for parameter in trained.values()}
    # The groups are of all layers, frozen or not: the tenth of 19 still ends the first half.
    assert grouped[id(trained["backbone.block8.project.conv.weight"])] == 0.1
    assert grouped[id(trained["backbone.block9.project.conv.weight"])] == 0.5
    model.backbone.freeze(99)
    with pytest.raises(ConfigError, match=r"optimizer\.layer_rates: all layers of the backbone are frozen"):
        parameter_groups(model, 1e-4, False, [0.1])
    model.backbone.freeze(0)
    with pytest.raises(ConfigError, match=r"optimizer\.layer_rates has 20 values, but the backbone has 19 layers"):
        parameter_groups(model, 1e-4, False, [0.1] * 20)


def test_momentum_is_adamws_first_beta() -> None:
    adamw = build_optimizer(nn.Linear(2, 2), **(OPTIONS | {"name": "adamw", "momentum": 0.6}))
    assert adamw.defaults["betas"] == (0.6, 0.999)
    with pytest.raises(ConfigError, match=r"optimizer\.momentum=1\.0 must be below 1 for optimizer\.name=adamw"):
        build_optimizer(nn.Linear(2, 2), **(OPTIONS | {"name": "adamw", "momentum": 1.0}))
