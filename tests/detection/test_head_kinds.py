"""The heads of SSD's variants: what they cost and what they are built of."""

from typing import Any

import pytest
import torch
from torch import nn

import mnv2vision as mv
from mnv2vision.errors import ConfigError


def on_meta(**options: Any) -> Any:
    with torch.device("meta"):
        return mv.create_model("detection", **options).eval()


def test_parameters_of_tensorflows_detectors() -> None:
    """16.838 M with 91 columns (paper_facts 2.2), where extra maps are depthwise and predictors full."""
    model = on_meta(head="ssd_mobilenet_v2", num_classes=90)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 3) == 16.838


def test_parameters_of_ssd_mobilenet_v1() -> None:
    """Extra maps full, predictors 1x1 (ssd_mobilenet_v1_coco.config): written out by layer."""
    model = on_meta(backbone="mobilenet_v1", head="ssd_mobilenet_v1", num_classes=90)
    extras = sum(
        inputs * out // 2 + out + 9 * out // 2 * out + 2 * out
        for inputs, out in ((1024, 512), (512, 256), (256, 256), (256, 128))
    )
    predictors = sum(
        (channels + 1) * anchors * (4 + 91)
        for channels, anchors in ((512, 3), (1024, 6), (512, 6), (256, 6), (256, 6), (128, 6))
    )
    assert sum(p.numel() for p in model.head.parameters()) == extras + predictors


@pytest.mark.parametrize(
    ("head", "extras", "predictors"),
    [
        ("ssdlite", [1, 3, 1], [3, 1]),
        ("ssd", [1, 3], [3]),
        ("ssd_mobilenet_v1", [1, 3], [1]),
        ("ssd_mobilenet_v2", [1, 3, 1], [3]),
    ],
)
def test_kernels(head: str, extras: list[int], predictors: list[int]) -> None:
    def kernels(module: nn.Module) -> list[int]:
        return [layer.kernel_size[0] for layer in module.modules() if isinstance(layer, nn.Conv2d)]

    model = on_meta(head=head, width=0.35)
    assert [kernels(extra) for extra in model.head.extras] == [extras] * 4
    assert [kernels(part) for part in (*model.head.boxes, *model.head.classes)] == [predictors] * 12
    with torch.no_grad():
        raw = model(torch.empty(1, 3, 96, 96, device="meta"))
    assert raw.class_logits.shape[1] == raw.box_codes.shape[1] > 200
    assert model.config.head.options["head"] == head


def test_unknown_heads_are_named() -> None:
    with pytest.raises(ConfigError, match="head='ssd_v1' is unknown; valid: ssdlite, ssd, ssd_mobilenet_v1, ssd_mobi"):
        on_meta(head="ssd_v1")
