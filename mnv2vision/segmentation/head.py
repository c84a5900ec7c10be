"""The heads of Mobile DeepLabv3 (paper, section 6.3) and of MobileNetV3 (LR-ASPP, arXiv 1905.02244, section 6.4)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mnv2vision.backbones.layers import Conv2d, ConvNormAct, LayerOptions

_STRIDE_OF_RATES = 16


class PoolingNorm(nn.BatchNorm2d):
    """Batch norm of pooled features; a batch of one has nothing to normalise by, and uses the running statistics."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (N, C, 1, 1)."""
        if self.training and input.numel() == input.shape[1]:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        return super().forward(input)


class AsppHead(nn.Module):
    """Image pooling and a 1x1 branch, and atrous branches where rates are given; projection, dropout, classifier.

    Without rates it is what TensorFlow's model zoo calls "no ASPP": the form the paper recommends for MobileNetV2.
    Source: TF research/deeplab/model.py (concat order: pooling, 1x1, then the atrous branches).
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        atrous_rates: Sequence[int],
        channels: int,
        dropout: float,
        options: LayerOptions,
    ) -> None:
        """Build the head.

        Args:
            in_channels: Of the backbone's features.
            num_classes: Number of classes.
            atrous_rates: Dilations of 3x3 branches at output stride 16; they follow the output stride.
            channels: Of every branch and of the projection.
            dropout: Before the classifier.
            options: Conventions of its layers, the activation among them.
        """
        super().__init__()
        self.rates = tuple(atrous_rates)
        self.pooling = ConvNormAct(in_channels, channels, options=options)
        self.pooling.norm = PoolingNorm(channels, eps=options.norm_eps, momentum=options.norm_momentum)
        self.pointwise = ConvNormAct(in_channels, channels, options=options)
        self.atrous = nn.ModuleList(ConvNormAct(in_channels, channels, 3, options=options) for _ in self.rates)
        self.project = ConvNormAct(channels * (2 + len(self.rates)), channels, options=options)
        self.dropout = nn.Dropout(dropout)
        self.classifier = _classifier(channels, num_classes)

    def set_output_stride(self, output_stride: int) -> None:
        """Keep the atrous branches' reach in pixels: rates double at output stride 8 (TF model_zoo)."""
        for rate, branch in zip(self.rates, self.atrous, strict=True):
            assert isinstance(branch, ConvNormAct)
            branch.set_stride(1, max(1, rate * _STRIDE_OF_RATES // output_stride))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Logits (N, num_classes, h, w) of one feature map (N, in_channels, h, w)."""
        (x,) = features
        pooled = self.pooling(F.adaptive_avg_pool2d(x, 1)).expand(-1, -1, *x.shape[-2:])
        branches = [pooled, self.pointwise(x), *(branch(x) for branch in self.atrous)]
        logits: Tensor = self.classifier(self.dropout(self.project(torch.cat(branches, dim=1))))
        return logits


class LrAsppHead(nn.Module):
    """Lite reduced ASPP: deep features gated by their mean, upsampled, plus a classifier on features of stride 8.

    Source: arXiv 1905.02244, figure 10; the gate pools over the whole map, as torchvision's does, which any size fits.
    """

    def __init__(
        self, low_channels: int, high_channels: int, num_classes: int, *, channels: int, options: LayerOptions
    ) -> None:
        super().__init__()
        self.project = ConvNormAct(high_channels, channels, options=options)
        self.gate = Conv2d(high_channels, channels)
        self.low_classifier = _classifier(low_channels, num_classes)
        self.high_classifier = _classifier(channels, num_classes)

    def set_output_stride(self, output_stride: int) -> None:
        """Nothing here depends on it."""

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Logits (N, num_classes, h, w) of features of stride 8 (N, low_channels, h, w) and deeper ones."""
        low, high = features
        gated = self.project(high) * self.gate(F.adaptive_avg_pool2d(high, 1)).sigmoid()
        gated = F.interpolate(gated, size=low.shape[-2:], mode="bilinear", align_corners=False)
        logits: Tensor = self.low_classifier(low) + self.high_classifier(gated)
        return logits


def _classifier(in_channels: int, num_classes: int) -> Conv2d:
    layer = Conv2d(in_channels, num_classes)
    layer.bias = nn.Parameter(torch.zeros(num_classes))
    if not layer.weight.is_meta:
        nn.init.trunc_normal_(layer.weight, std=0.01, a=-0.02, b=0.02)  # as TensorFlow's DeepLab has it
    return layer
