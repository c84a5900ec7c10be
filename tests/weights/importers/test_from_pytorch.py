"""d-li14's and tonylins's layouts: modules written here after their names, the same outputs, the published counts."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mnv2vision.errors import WeightsError
from mnv2vision.weights.importers.from_pytorch import convert, import_classifier

pytestmark = pytest.mark.slow

Randomize = Callable[[nn.Module], None]

STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def unit(cin: int, cout: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(cout)]


class Block(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int, t: int, expand: bool) -> None:
        super().__init__()
        self.residual = stride == 1 and cin == cout
        layers = [*unit(cin, cin * t), nn.ReLU6()] if expand else []
        layers += [*unit(cin * t, cin * t, 3, stride, cin * t), nn.ReLU6(), *unit(cin * t, cout)]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


def rounded(count: float, divisor: int) -> int:
    nearest = max(divisor, int(count + divisor / 2) // divisor * divisor)
    return nearest if nearest >= 0.9 * count else nearest + divisor


class Theirs(nn.Module):
    """Its `project` is d-li14, tonylins, or tonylins's earlier module, whose block 0 has an expansion, too."""

    def __init__(self, project: str, width: float = 1.0, classes: int = 1000) -> None:
        super().__init__()
        divisor = 4 if width == 0.1 else 8
        current = rounded(32 * width, divisor)
        features: list[nn.Module] = [nn.Sequential(*unit(3, current, 3, 2), nn.ReLU6())]
        for t, c, n, s in STAGES:
            for i in range(n):
                expand = t > 1 or project == "earlier"
                out = rounded(c * width, divisor)
                features.append(Block(current, out, 1 if i else s, t, expand))
                current = out
        wide = rounded(1280 * width, divisor) if width > 1 else 1280
        last = nn.Sequential(*unit(current, wide), nn.ReLU6())
        if project == "d-li14":
            self.features, self.conv = nn.Sequential(*features), last
        else:
            self.features, self.conv = nn.Sequential(*features, last), nn.Sequential()
        linear = nn.Linear(wide, classes)
        self.classifier: nn.Module = nn.Sequential(nn.Dropout(), linear) if project == "earlier" else linear

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.conv(self.features(x)).mean((2, 3)))
        return logits


# At 0.1, the stem and the first two stages have 4 channels, so that block 0 has a shortcut.
@pytest.mark.parametrize(
    ("project", "width"),
    [("d-li14", 1.0), ("d-li14", 0.35), ("d-li14", 0.1), ("tonylins", 1.0), ("tonylins", 0.5), ("earlier", 1.0)],
)
def test_outputs(project: str, width: float, tmp_path: Path, randomize: Randomize) -> None:
    theirs = Theirs(project, width, classes=11).eval()
    randomize(theirs)
    path = tmp_path / "mobilenet_v2.pth.tar"
    state = {f"module.{name}": tensor for name, tensor in theirs.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, path, _use_new_zipfile_serialization=project == "d-li14")
    ours = convert("classification", path)
    assert ours.config.arguments.get("width", 1.0) == width
    # In double precision, as random weights amplify the rounding, which other kernels do otherwise.
    x = torch.randn(2, 3, 65, 82, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    with torch.no_grad():
        a, b = ours.double()(x), theirs.double()(x)
    assert b.std() > 1e-3
    assert (a - b).abs().max() <= 1e-5 * b.abs().max()


# d-li14/mobilenetv2.pytorch, README.md.
@pytest.mark.parametrize(
    ("width", "millions"), [(1.0, 3.504), (0.75, 2.636), (0.5, 1.968), (0.35, 1.677), (0.25, 1.519), (0.1, 1.356)]
)
def test_published_counts(width: float, millions: float) -> None:
    with torch.device("meta"):
        state = Theirs("d-li14", width).state_dict()
    model = import_classifier({name: torch.zeros_like(value, device="cpu") for name, value in state.items()}, "x")
    count = sum(parameter.numel() for parameter in model.parameters())
    assert int(count / 1e3) == round(1e3 * millions)  # truncated there, not rounded: 3,504,872


def test_what_does_not_fit_is_named() -> None:
    state = Theirs("d-li14", 0.25, classes=7).state_dict()
    for changes, message in (
        ({"features.3.conv.4.bias": None}, "lacks features.3.conv.4.bias (48,)"),
        ({"conv.0.weight": torch.zeros(3, 2)}, "conv.0.weight is (3, 2), but the model has (1280, 80, 1, 1)"),
        ({"features.18.weight": torch.zeros(5)}, "features.18.weight (5,) has no place in the model"),
    ):
        broken = {name: tensor for name, tensor in (state | changes).items() if tensor is not None}
        with pytest.raises(WeightsError, match=rf"^x: {re.escape(message)}.*width=0\.25"):
            import_classifier(broken, "x")
    with pytest.raises(WeightsError, match="not a state of d-li14's or tonylins's"):
        import_classifier({"fc.weight": torch.zeros(3, 2)}, "x")
