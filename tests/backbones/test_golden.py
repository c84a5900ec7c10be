"""Published figures against ours. Everything runs on the meta device: nothing is computed, only counted."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mnv2vision as mv


class Classifier(nn.Module):
    """Mean of the deepest features, then linear layers: MobileNetV3 has a hidden one."""

    def __init__(self, name: str, classes: int, hidden: int | None = None, **options: Any) -> None:
        super().__init__()
        self.backbone = mv.create_backbone(name, **options)
        (self.tap,) = self.backbone.taps
        channels = self.backbone.feature_specs[self.tap].channels
        if hidden is None:
            self.head: nn.Module = nn.Linear(channels, classes)
        else:
            self.head = nn.Sequential(nn.Linear(channels, hidden), nn.Hardswish(), nn.Linear(hidden, classes))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(images)[self.tap].mean((2, 3)))
        return logits


def costs(name: str, classes: int, size: int = 224, hidden: int | None = None, **options: Any) -> mv.Complexity:
    with torch.device("meta"):
        model = Classifier(name, classes, hidden, **options)
    return mv.complexity(model, (size, size))


def truncated(value: float, decimals: int) -> float:
    return math.floor(value * 10**decimals) / 10**decimals


# ---- MobileNetV2 ----

# tensorflow/models, research/slim/nets/mobilenet/README.md: million parameters, million MACs by image size.
V2_SIZES = (224, 192, 160, 128, 96)
V2_TABLE = {
    1.4: (6.06, (582,)),
    1.3: (5.34, (509,)),
    1.0: (3.47, (300, 221, 154, 99, 56)),
    0.75: (2.61, (209, 153, 107, 69, 39)),
    0.5: (1.95, (97, 71, 50, 32, 18)),
    0.35: (1.66, (59, 43, 30, 20, 11)),
}
V2_ROWS = [
    (width, size, madds, params)
    for width, (params, row) in V2_TABLE.items()
    for size, madds in zip(V2_SIZES, row, strict=False)
]


def test_the_table_of_mobilenet_v2_is_complete() -> None:
    assert len(V2_ROWS) == 22


@pytest.mark.parametrize(("width", "size", "madds", "params"), V2_ROWS)
def test_mobilenet_v2_as_tensorflow_counts(width: float, size: int, madds: int, params: float) -> None:
    # 1001 classes, bias counted, batch norm not; the table truncates.
    ours = costs("mobilenet_v2", 1001, size, width=width)
    assert ours.madds // 1_000_000 == madds
    assert truncated(ours.params_without_norm / 1e6, 2) == params


def test_mobilenet_v2_as_torchvision_counts() -> None:
    ours = costs("mobilenet_v2", 1000)
    assert ours.params == 3_504_872
    assert round(ours.madds / 1e9, 3) == 0.301


@pytest.mark.parametrize(("width", "params"), [(1.0, 3.504), (0.75, 2.636), (0.5, 1.968), (0.35, 1.677), (0.25, 1.519)])
def test_mobilenet_v2_as_another_author_counts(width: float, params: float) -> None:
    # d-li14/mobilenetv2.pytorch, README: 1000 classes, batch norm counted, truncated.
    assert truncated(costs("mobilenet_v2", 1000, width=width).params / 1e6, 3) == params


@pytest.mark.parametrize(
    ("width", "total"), [(0.25, 1.53), (0.5, 1.98), (0.75, 2.65), (1.0, 3.54), (1.5, 6.90), (2.0, 11.33)]
)
def test_mobilenet_v2_as_paddle_counts(width: float, total: float) -> None:
    # PaddleClas counts the running statistics, too; the table rounds.
    ours = costs("mobilenet_v2", 1000, width=width, variant="paddle")
    assert round((ours.params + ours.buffers) / 1e6, 2) == total


def test_channels_of_deeplabs_half_width_model() -> None:
    # mobilenetv2_dm05 of DeepLab's model zoo is made with divisible_by=1: 24 * 0.5 is 12, not 16.
    taps = ("stem", "block0", "block1", "block3", "block6", "block10", "block13", "block16")
    backbone = mv.create_backbone("mobilenet_v2", width=0.5, divisor=1, taps=taps)
    assert [spec.channels for spec in backbone.feature_specs.values()] == [16, 8, 12, 16, 32, 48, 80, 160]


def test_taps_of_ssdlite() -> None:
    # TF's layer_15/expansion_output and layer_19; Conv2d_11_pointwise and Conv2d_13_pointwise of MobileNetV1.
    v2 = mv.create_backbone("mobilenet_v2", taps=("block13.expand", "last"))
    assert list(v2.feature_specs.values()) == [(576, 16), (1280, 32)]
    v1 = mv.create_backbone("mobilenet_v1", taps=("block10", "block12"))
    assert list(v1.feature_specs.values()) == [(512, 16), (1024, 32)]


# ---- MobileNetV1 ----

V1_SIZES = (224, 192, 160, 128)
# tensorflow/models, research/slim/nets/mobilenet_v1.md: million parameters with batch norm, million MACs by size.
V1_TABLE = {
    1.0: (4.24, (569, 418, 291, 186)),
    0.75: (2.59, (317, 233, 162, 104)),
    0.5: (1.34, (150, 110, 77, 49)),
    0.25: (0.47, (41, 34, 21, 14)),
}
# (published, ours) where the table contradicts the architecture. The rows of width 0.75 are 2.6 % low throughout, while
# arXiv 1704.04861 (table 6) gives 325 at 224. At 0.25 the 34 breaks the ratio (192 / 224)^2 that the other widths keep.
# 150 is 149.498 rounded twice.
V1_MISPRINTED_MADDS = {
    (0.75, 224): (317, 325),
    (0.75, 192): (233, 239),
    (0.75, 160): (162, 166),
    (0.75, 128): (104, 107),
    (0.5, 224): (150, 149),
    (0.25, 192): (34, 30),
}
# 0.2 % and 0.6 % above the arithmetic, by no rule that fits the two exact rows.
V1_MISPRINTED_PARAMS = {1.0: (4.24, 4.23), 0.5: (1.34, 1.33)}


@pytest.mark.parametrize("size", V1_SIZES)
@pytest.mark.parametrize("width", V1_TABLE)
def test_mobilenet_v1_as_tensorflow_counts(width: float, size: int) -> None:
    params, row = V1_TABLE[width]
    madds = row[V1_SIZES.index(size)]
    ours = costs("mobilenet_v1", 1001, size, width=width)
    assert (madds, round(ours.madds / 1e6)) == V1_MISPRINTED_MADDS.get((width, size), (madds, madds))
    assert (params, round(ours.params / 1e6, 2)) == V1_MISPRINTED_PARAMS.get(width, (params, params))


# ---- MobileNetV3 ----

# tensorflow/models, research/slim/nets/mobilenet/README.md, float rows: million MACs, million parameters with norms.
# The classifier has a hidden layer of 1280.
V3_TABLE = [
    ("mobilenet_v3_large", 1.0, False, 217, 5.4),
    ("mobilenet_v3_large", 0.75, False, 155, 4.0),
    ("mobilenet_v3_large", 1.0, True, 209, 3.9),
    ("mobilenet_v3_small", 0.75, False, 44, 2.4),
]


@pytest.mark.parametrize(("name", "width", "minimalistic", "madds", "params"), V3_TABLE)
def test_mobilenet_v3_as_tensorflow_counts(
    name: str, width: float, minimalistic: bool, madds: int, params: float
) -> None:
    ours = costs(name, 1001, hidden=1280, width=width, minimalistic=minimalistic)
    assert round(ours.madds / 1e6) == madds
    # Within a unit of the last digit: the table truncates 5.48 and rounds 3.99.
    assert abs(ours.params / 1e6 - params) < 0.1


@pytest.mark.parametrize(
    ("minimalistic", "published_madds", "published_params", "madds", "params", "hidden"),
    [
        # The parameters of one row ask for a hidden layer of 1280, those of the other for the 1024 that TF's graphs,
        # torchvision and timm have (2.54 and 2.05 M). The MACs come out at neither, nor at any: a hidden layer costs
        # 0.6 + 1 kMACs per channel, and torchvision counts 57 M as well.
        (False, 66, 2.9, (56.92, 56.51), (2.95, 2.54), 1280),
        (True, 65, 2.0, (52.69, 52.29), (2.45, 2.05), 1024),
    ],
)
def test_rows_of_mobilenet_v3_small_that_do_not_add_up(
    minimalistic: bool,
    published_madds: int,
    published_params: float,
    madds: tuple[float, float],
    params: tuple[float, float],
    hidden: int,
) -> None:
    ours = {h: costs("mobilenet_v3_small", 1001, hidden=h, minimalistic=minimalistic) for h in (1280, 1024)}
    assert tuple(round(cost.madds / 1e6, 2) for cost in ours.values()) == madds
    assert tuple(round(cost.params / 1e6, 2) for cost in ours.values()) == params
    assert [h for h, cost in ours.items() if abs(cost.params / 1e6 - published_params) < 0.1] == [hidden]
    assert published_madds > max(madds) + 8


@pytest.mark.parametrize(
    ("name", "hidden", "params", "gmadds"),
    [("mobilenet_v3_large", 1280, 5_483_032, 0.217), ("mobilenet_v3_small", 1024, 2_542_856, 0.057)],
)
def test_mobilenet_v3_as_torchvision_counts(name: str, hidden: int, params: int, gmadds: float) -> None:
    ours = costs(name, 1000, hidden=hidden)
    assert ours.params == params
    assert round(ours.madds / 1e9, 3) == gmadds


# ---- memory ----


@pytest.mark.parametrize(
    ("name", "tap", "channels", "size", "kilobytes"),
    [
        # Table 3 of the paper, 16 bit, kB of 1000 bytes: MobileNetV2 needs 400 at most, MobileNetV1 1600.
        ("mobilenet_v2", "block0", 16, 112, 401.4),
        ("mobilenet_v1", "block0", 64, 112, 1605.6),
        ("mobilenet_v1", "block2", 128, 56, 802.8),
        ("mobilenet_v1", "block4", 256, 28, 401.4),
        ("mobilenet_v1", "block10", 512, 14, 200.7),
        ("mobilenet_v1", "block12", 1024, 7, 100.4),  # the table has 199, twice what 1024 channels at 7x7 take
    ],
)
def test_memory_of_feature_maps(name: str, tap: str, channels: int, size: int, kilobytes: float) -> None:
    spec = mv.create_backbone(name, taps=(tap,)).feature_specs[tap]
    assert (spec.channels, 224 // spec.stride) == (channels, size)
    assert round(spec.channels * (224 // spec.stride) ** 2 * 2 / 1000, 1) == kilobytes


def test_the_first_bottleneck_is_the_largest() -> None:
    # The paper's point: between blocks nothing larger than 400 kB has to be kept.
    taps = tuple(f"block{index}" for index in range(17))
    specs = mv.create_backbone("mobilenet_v2", taps=taps).feature_specs.values()
    assert max(spec.channels * (224 // spec.stride) ** 2 * 2 for spec in specs) == 401_408


@pytest.mark.parametrize(
    ("name", "alive"),
    [
        # In block1's depthwise convolution: the image, the block's input, its expansion, the convolution's output.
        ("mobilenet_v2", 3 * 224**2 + 16 * 112**2 + 96 * 112**2 + 96 * 56**2),
        # In block0's pointwise convolution: the image, the stem's output, the depthwise output, the block's output.
        ("mobilenet_v1", 3 * 224**2 + 32 * 112**2 + 32 * 112**2 + 64 * 112**2),
        # As for MobileNetV2, with an expansion to 64.
        ("mobilenet_v3_large", 3 * 224**2 + 16 * 112**2 + 64 * 112**2 + 64 * 56**2),
    ],
)
def test_peak_activation_memory(name: str, alive: int) -> None:
    ours = mv.complexity(mv.create_backbone(name), (224, 224))
    assert ours.peak_activation_bytes == 4 * alive
    assert costs(name, 1000).peak_activation_bytes == 4 * alive  # a caller of the backbone keeps nothing more alive
