"""The heads of Mobile DeepLabv3 (paper, section 6.3) and of MobileNetV3 (LR-ASPP, arXiv 1905.02244, section 6.4)."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mnv2vision.backbones.layers import Activation, Conv2d, ConvNormAct, check_choice, initialize
from mnv2vision.backbones.mobilenet_v2 import stage_lengths
from mnv2vision.contracts import Features, Head, HeadKind, Network, Taps
from mnv2vision.errors import ConfigError
from mnv2vision.segmentation.inference import upsample

Kind = Literal["aspp", "lraspp"]

_STRIDE_OF_RATES = 16
_ASPP_TAPS = {"mobilenet_v1": "block12", "mobilenet_v3_large": "last"}
_STRIDE_8_TAPS = {
    "mobilenet_v1": "block4",
    "mobilenet_v3_large": "block3",
    "mobilenet_v3_small": "block1",
}


class SegmentationHead(Head):
    """A head whose logits belong to the pixels of the input, one cell to `stride` of them."""

    def __init__(self, features: Features) -> None:
        super().__init__()
        self.padding = features.options.padding
        self.stride = features.specs[0].stride

    def set_features(self, features: Features) -> None:
        """See `Head.set_features`."""
        self.stride = features.specs[0].stride

    def to_pixels(self, logits: Tensor, size: Sequence[int]) -> Tensor:
        """Logits (N, C, *size) at the input's pixels, of those that the head gives for an input of that size."""
        return upsample(logits, size, stride=self.stride, padding=self.padding)

    def by_pixel(self, network: Network) -> Callable[[Tensor], Tensor]:
        """From normalised images (N, 3, H, W) to logits (N, C, H, W) at their pixels.

        Args:
            network: Gives the head's raw outputs.
        """

        def by_pixel(images: Tensor) -> Tensor:
            logits = network(images)
            assert isinstance(logits, Tensor)
            return self.to_pixels(logits, images.shape[-2:])

        return by_pixel


class AsppHead(SegmentationHead):
    """Image pooling and a 1x1 branch, and atrous branches where rates are given; projection, dropout, classifier.

    Without rates it is what TensorFlow's model zoo calls "no ASPP": the form the paper recommends for MobileNetV2.
    Source: TF research/deeplab/model.py (concat order: pooling, 1x1, then the atrous branches).
    """

    class_layers = ("classifier.",)

    def __init__(
        self,
        features: Features,
        num_classes: int,
        *,
        atrous_rates: Sequence[int] = (),
        channels: int = 256,
        dropout: float = 0.1,
    ) -> None:
        """Build the head.

        Args:
            features: One feature map, and conventions of the head's own layers, the activation among them.
            num_classes: Number of classes.
            atrous_rates: Dilations of 3x3 branches at output stride 16; they follow the output stride.
            channels: Of every branch and of the projection.
            dropout: Before the classifier.
        """
        super().__init__(features)
        options, in_channels = features.options, features.specs[0].channels
        self.rates = tuple(atrous_rates)
        self.pooling = ConvNormAct(in_channels, channels, options=options)
        self.pointwise = ConvNormAct(in_channels, channels, options=options)
        self.atrous = nn.ModuleList(ConvNormAct(in_channels, channels, 3, options=options) for _ in self.rates)
        self.project = ConvNormAct(channels * (2 + len(self.rates)), channels, options=options)
        self.dropout = nn.Dropout(dropout)
        self.classifier = _classifier(channels, num_classes)
        for layer in (self.pooling, self.pointwise, *self.atrous, self.project):
            initialize(layer, "kaiming")
        self.set_features(features)

    def set_features(self, features: Features) -> None:
        """Keep the atrous branches' reach in pixels: rates double at output stride 8 (TF model_zoo)."""
        super().set_features(features)
        for rate, branch in zip(self.rates, self.atrous, strict=True):
            assert isinstance(branch, ConvNormAct)
            branch.set_stride(1, max(1, rate * _STRIDE_OF_RATES // self.stride))

    def forward(self, features: Sequence[Tensor], image_size: tuple[int, int]) -> Tensor:
        """Logits (N, num_classes, h, w) of one feature map (N, in_channels, h, w)."""
        (x,) = features
        pooled = self.pooling(F.adaptive_avg_pool2d(x, 1)).expand(-1, -1, *x.shape[-2:])
        branches = [pooled, self.pointwise(x), *(branch(x) for branch in self.atrous)]
        logits: Tensor = self.classifier(self.dropout(self.project(torch.cat(branches, dim=1))))
        return logits


class LrAsppHead(SegmentationHead):
    """Lite reduced ASPP: deep features gated by their mean, upsampled, plus a classifier on features of stride 8.

    Source: arXiv 1905.02244, figure 10; the gate pools over the whole map, as torchvision's does, which any size fits.
    """

    class_layers = ("low_classifier.", "high_classifier.")

    def __init__(self, features: Features, num_classes: int, *, channels: int = 128) -> None:
        """Build the head.

        Args:
            features: Of stride 8, and deep ones.
            num_classes: Number of classes.
            channels: Of the projection and the gate.
        """
        super().__init__(features)
        low, high = features.specs
        self.project = ConvNormAct(high.channels, channels, options=features.options)
        self.gate = Conv2d(high.channels, channels)
        self.low_classifier = _classifier(low.channels, num_classes)
        self.high_classifier = _classifier(channels, num_classes)
        initialize(self.project, "kaiming")

    def forward(self, features: Sequence[Tensor], image_size: tuple[int, int]) -> Tensor:
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


def build_head(
    features: Features,
    num_classes: int,
    *,
    head: Kind = "aspp",
    atrous_rates: Sequence[int] = (),
    head_channels: int | None = None,
    head_norm_eps: float | None = None,
    head_activation: Activation = "relu",
    dropout: float = 0.1,
) -> SegmentationHead:
    """Build one of the heads.

    Args:
        features: One feature map for "aspp"; for "lraspp" one of stride 8 and a deep one.
        num_classes: Number of classes, with the background where there is one.
        head: "aspp" (DeepLabv3) or "lraspp" (MobileNetV3's).
        atrous_rates: Of "aspp" at output stride 16, such as (6, 12, 18); the paper recommends none for MobileNetV2.
        head_channels: 256 for "aspp" and 128 for "lraspp" if None.
        head_norm_eps: Of the head's batch norms; the backbone's if None. TensorFlow's DeepLab has 1e-5.
        head_activation: "relu" (TensorFlow's code), or "relu6" (by which the released logits come out).
        dropout: Before the classifier of "aspp".
    """
    check_choice("head", head, ("aspp", "lraspp"))
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise ConfigError(f"dropout={dropout!r} must be at least 0 and below 1")
    is_list = isinstance(atrous_rates, Sequence) and not isinstance(atrous_rates, str)
    if not is_list or any(type(rate) is not int or rate < 1 for rate in atrous_rates):
        shown = list(atrous_rates) if is_list else repr(atrous_rates)
        raise ConfigError(f"atrous_rates={shown} must be a list of positive integers")
    if head_channels is not None and (type(head_channels) is not int or head_channels < 1):
        raise ConfigError(f"head_channels={head_channels!r} must be a positive integer")
    if head_norm_eps is not None and not head_norm_eps > 0:
        raise ConfigError(f"head_norm_eps={head_norm_eps!r} must be above 0")
    if len(features.specs) != (1 if head == "aspp" else 2):
        wanted = "one feature map" if head == "aspp" else "two feature maps, one of stride 8 and a deep one"
        raise ConfigError(f"taps: {len(features.specs)} feature maps given, but head={head} takes {wanted}")
    if head == "lraspp" and atrous_rates:
        raise ConfigError(f"atrous_rates={list(atrous_rates)} are an option of head=aspp, not of head=lraspp")
    check_choice("head_activation", head_activation, ("relu", "relu6"))
    options = replace(features.options, activation=head_activation)
    if head_norm_eps is not None:
        options = replace(options, norm_eps=head_norm_eps)
    features = features._replace(options=options)
    if head == "lraspp":
        return LrAsppHead(features, num_classes, channels=head_channels or 128)
    return AsppHead(features, num_classes, atrous_rates=atrous_rates, channels=head_channels or 256, dropout=dropout)


def _default_taps(taps: Taps) -> tuple[str, ...]:
    """V2's last bottleneck (320 channels, linear) for "aspp"; for "lraspp" the deepest features and stride 8's."""
    is_aspp = taps.options.get("head", "aspp") == "aspp"
    if taps.backbone == "mobilenet_v2":
        lengths = stage_lengths(taps.backbone_options.get("depth", 1.0))
        final, stride_8 = f"block{sum(lengths) - 1}", f"block{sum(lengths[:3]) - 1}"
        return (final,) if is_aspp else (stride_8, "last")
    if is_aspp:
        return (_ASPP_TAPS.get(taps.backbone, "last"),)
    return _STRIDE_8_TAPS[taps.backbone], "last" if taps.backbone != "mobilenet_v1" else "block12"


SEGMENTATION_HEAD = HeadKind(
    build=build_head,
    default_taps=_default_taps,
    num_classes=21,
    image_size=513,
    resize="letterbox",
    output_stride=16,
)
