"""Mobile DeepLabv3 on any backbone of the house (paper, section 6.3)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor

from mnv2vision.backbones import Backbone
from mnv2vision.backbones.layers import Activation, check_choice, initialize
from mnv2vision.backbones.mobilenet_v2 import stage_lengths
from mnv2vision.errors import ConfigError
from mnv2vision.segmentation.head import AsppHead, LrAsppHead
from mnv2vision.segmentation.inference import upsample
from mnv2vision.vision_model import VisionModel

Head = Literal["aspp", "lraspp"]

_ASPP_TAPS = {"mobilenet_v1": "block12", "mobilenet_v3_large": "last"}
_STRIDE_8_TAPS = {
    "mobilenet_v1": "block4",
    "mobilenet_v3_large": "block3",
    "mobilenet_v3_small": "block1",
}


class DeepLabV3(VisionModel):
    """Semantic segmentation by a classifier on features of stride 16 (or 8, or 32) that see the whole image."""

    default_num_classes = 21
    default_image_size = 513
    default_resize = "letterbox"
    default_output_stride = 16
    class_layers = "head.classifier.", "head.low_classifier.", "head.high_classifier."

    def __init__(
        self,
        backbone: Backbone,
        *,
        num_classes: int,
        head: Head = "aspp",
        atrous_rates: Sequence[int] = (),
        head_channels: int | None = None,
        head_norm_eps: float | None = None,
        head_activation: Activation = "relu",
        dropout: float = 0.1,
    ) -> None:
        """Put the head on a backbone.

        Args:
            backbone: Its only tap for "aspp"; for "lraspp" one of stride 8 and a deep one.
            num_classes: Number of classes, with the background where there is one.
            head: "aspp" (DeepLabv3) or "lraspp" (MobileNetV3's).
            atrous_rates: Of "aspp" at output stride 16, such as (6, 12, 18); the paper recommends none for MobileNetV2.
            head_channels: 256 for "aspp" and 128 for "lraspp" if None.
            head_norm_eps: Of the head's batch norms; the backbone's if None. TensorFlow's DeepLab has 1e-5.
            head_activation: "relu" (TensorFlow's code), or "relu6" (by which the released logits come out).
            dropout: Before the classifier of "aspp".
        """
        super().__init__()
        check_choice("head", head, ("aspp", "lraspp"))
        if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            raise ConfigError(f"dropout={dropout!r} is no probability below 1")
        is_list = isinstance(atrous_rates, Sequence) and not isinstance(atrous_rates, str)
        if not is_list or any(type(rate) is not int or rate < 1 for rate in atrous_rates):
            shown = list(atrous_rates) if is_list else repr(atrous_rates)
            raise ConfigError(f"atrous_rates={shown} is no list of positive whole numbers")
        if head_channels is not None and (type(head_channels) is not int or head_channels < 1):
            raise ConfigError(f"head_channels={head_channels!r} is no positive whole number")
        if head_norm_eps is not None and not head_norm_eps > 0:
            raise ConfigError(f"head_norm_eps={head_norm_eps!r} must be above 0")
        if len(backbone.taps) != (1 if head == "aspp" else 2):
            wanted = "one feature map" if head == "aspp" else "two feature maps, one of stride 8 and a deep one"
            raise ConfigError(f"taps={list(backbone.taps)}: head={head} takes {wanted}")
        if head == "lraspp" and atrous_rates:
            raise ConfigError(f"atrous_rates={list(atrous_rates)} are an option of head=aspp, not of head=lraspp")
        self.backbone = backbone
        check_choice("head_activation", head_activation, ("relu", "relu6"))
        options = replace(backbone.options, activation=head_activation)
        if head_norm_eps is not None:
            options = replace(options, norm_eps=head_norm_eps)
        specs = [backbone.feature_specs[tap] for tap in backbone.taps]
        self.head: AsppHead | LrAsppHead
        if head == "aspp":
            self.head = AsppHead(
                specs[0].channels,
                num_classes,
                atrous_rates=atrous_rates,
                channels=head_channels or 256,
                dropout=dropout,
                options=options,
            )
            layers = [self.head.pooling, self.head.pointwise, *self.head.atrous, self.head.project]
        else:
            self.head = LrAsppHead(
                specs[0].channels, specs[1].channels, num_classes, channels=head_channels or 128, options=options
            )
            layers = [self.head.project]
        for layer in layers:
            initialize(layer, "kaiming")
        self.head.set_output_stride(backbone.output_stride)

    @classmethod
    def default_taps(cls, backbone: str, options: Mapping[str, Any]) -> tuple[str, ...] | None:
        """V2's last bottleneck (320 channels, linear) for "aspp"; for "lraspp" the deepest features and stride 8's."""
        if backbone == "mobilenet_v2":
            lengths = stage_lengths(options.get("depth", 1.0))
            final, stride_8 = f"block{sum(lengths) - 1}", f"block{sum(lengths[:3]) - 1}"
            return (final,) if options.get("head", "aspp") == "aspp" else (stride_8, "last")
        if options.get("head", "aspp") == "aspp":
            return (_ASPP_TAPS.get(backbone, "last"),)
        return _STRIDE_8_TAPS[backbone], "last" if backbone != "mobilenet_v1" else "block12"

    def set_output_stride(self, output_stride: int) -> None:
        """Change it in place, between training and evaluation, say; the weights stay.

        Args:
            output_stride: 32, 16 or 8.
        """
        self.backbone.set_output_stride(output_stride)
        self.head.set_output_stride(output_stride)
        self.config["output_stride"] = output_stride

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, C, h, w), at the features' size, of normalised images (N, 3, H, W)."""
        features = self.backbone(images)
        logits: Tensor = self.head([features[tap] for tap in self.backbone.taps])
        return logits

    def to_pixels(self, logits: Tensor, size: Sequence[int]) -> Tensor:
        """Logits (N, C, *size) at the input's pixels, of those that `forward` gives for an input of that size."""
        stride = self.backbone.feature_specs[self.backbone.taps[0]].stride
        return upsample(logits, size, stride=stride, padding=self.backbone.options.padding)

    def pixel_logits(self, images: Tensor) -> Tensor:
        """Logits (N, C, H, W) at the pixels of normalised images (N, 3, H, W)."""
        return self.to_pixels(self(images), images.shape[-2:])
