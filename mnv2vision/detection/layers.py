"""The extra feature maps and predictors of SSDLite (paper, section 6.2) and of SSD's variants."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mnv2vision.backbones.layers import Conv2d, ConvNormAct, LayerOptions


class Kind(NamedTuple):
    """Which convolutions are depthwise-separable.

    Attributes:
        extras: Those of the extra maps are.
        predictors: Those of the predictors are.
        kernel: Side of the predictors' kernels.
    """

    extras: bool
    predictors: bool
    kernel: int


KINDS = {
    "ssdlite": Kind(extras=True, predictors=True, kernel=3),
    "ssd": Kind(extras=False, predictors=False, kernel=3),
    "ssd_mobilenet_v1": Kind(extras=False, predictors=False, kernel=1),
    "ssd_mobilenet_v2": Kind(extras=True, predictors=False, kernel=3),
}
"""The paper's two (table 5), and those of TensorFlow's ssd_mobilenet_v1_coco and ssd_mobilenet_v2_coco.

Source: TF object_detection/samples/configs/ssd_mobilenet_v1_coco.config and ssd_mobilenet_v2_coco.config.
"""

EXTRA_CHANNELS = (512, 256, 256, 128)
MIN_CHANNELS = 16


class ExtraMap(nn.Module):
    """The next coarser feature map: 1x1 to half the channels, 3x3 of stride 2 (depthwise, then 1x1; or full).

    Source: TF object_detection/models/feature_map_generators.py (multi_resolution_feature_maps).
    """

    def __init__(
        self, in_channels: int, squeezed: int, out_channels: int, *, separable: bool, options: LayerOptions
    ) -> None:
        super().__init__()
        self.squeeze = ConvNormAct(in_channels, squeezed, options=options)
        self.depthwise: ConvNormAct | None = None
        if separable:
            self.depthwise = ConvNormAct(squeezed, squeezed, 3, stride=2, groups=squeezed, options=options)
            self.project = ConvNormAct(squeezed, out_channels, options=options)
        else:
            self.project = ConvNormAct(squeezed, out_channels, 3, stride=2, options=options)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, ceil(H / 2), ceil(W / 2))."""
        x = self.squeeze(x)
        if self.depthwise is not None:
            x = self.depthwise(x)
        out: Tensor = self.project(x)
        return out


class MapPredictor(nn.Module):
    """Predictions of one feature map: depthwise with batch norm and ReLU6, then 1x1; or one full convolution.

    Source: TF object_detection/predictors/heads (use_depthwise, kernel_size; no layers before the predictor).
    """

    def __init__(self, in_channels: int, out_channels: int, *, kind: Kind, options: LayerOptions) -> None:
        super().__init__()
        self.depthwise: ConvNormAct | None = None
        kernel = kind.kernel
        if kind.predictors:
            self.depthwise = ConvNormAct(in_channels, in_channels, kernel, groups=in_channels, options=options)
            kernel = 1
        self.conv = Conv2d(in_channels, out_channels, kernel)
        self.conv.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H, W)."""
        if self.depthwise is not None:
            x = self.depthwise(x)
        out: Tensor = self.conv(x)
        return out
