"""Networks in the paper's tables: structures to count, not to train."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import get_model

from mnv2vision.backbones import FeatureSpec
from mnv2vision.backbones.layers import LayerOptions
from mnv2vision.contracts import Features
from mnv2vision.paper.nasnet import NasNetA
from mnv2vision.segmentation.head import AsppHead

_VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512)  # up to conv4_3; 0 is a pooling


class SsdVgg(nn.Module):
    """SSD300 or SSD512 on VGG-16 (arXiv 1512.02325, figure 2 and section 3.3); torchvision's ssd300_vgg16."""

    def __init__(self, maps: int, columns: int) -> None:
        """Build it.

        Args:
            maps: 6 for SSD300, 7 for SSD512.
            columns: Classes with the background.
        """
        super().__init__()
        layers: list[nn.Module] = []
        current = 3
        for count in _VGG16:
            if count:
                layers.append(nn.Conv2d(current, count, 3, padding=1))
                current = count
            else:
                layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.conv4 = nn.Sequential(*layers)
        self.scale = nn.Parameter(torch.ones(512))  # of conv4_3's normalised channels
        self.conv7 = nn.Sequential(
            nn.MaxPool2d(2, ceil_mode=True),
            *(nn.Conv2d(512, 512, 3, padding=1) for _ in range(3)),
            nn.MaxPool2d(3, 1, padding=1),
            nn.Conv2d(512, 1024, 3, padding=6, dilation=6),
            nn.Conv2d(1024, 1024, 1),
        )
        # Channels of the 1x1, channels, kernel, stride and padding of the convolution behind it.
        extras: tuple[tuple[int, int, int, int, int], ...]
        anchors: tuple[int, ...]
        if maps == 6:
            extras = ((256, 512, 3, 2, 1), (128, 256, 3, 2, 1), (128, 256, 3, 1, 0), (128, 256, 3, 1, 0))
            anchors = (4, 6, 6, 6, 4, 4)
        else:
            extras = ((256, 512, 3, 2, 1), *((128, 256, 3, 2, 1),) * 3, (128, 256, 4, 1, 1))
            anchors = (4, 6, 6, 6, 6, 4, 4)
        channels = [512, 1024]
        self.extras = nn.ModuleList()
        for squeezed, count, kernel, stride, padding in extras:
            self.extras.append(
                nn.Sequential(nn.Conv2d(channels[-1], squeezed, 1), nn.Conv2d(squeezed, count, kernel, stride, padding))
            )
            channels.append(count)
        self.heads = nn.ModuleList(
            nn.Conv2d(count, boxes * (4 + columns), 3, padding=1)
            for count, boxes in zip(channels, anchors, strict=True)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Predictions (N, anchors * (4 + columns), h, w) of every map."""
        features = [self.conv4(x)]
        features.append(self.conv7(features[0]))
        for extra in self.extras:
            features.append(extra(features[-1]))
        return [head(feature) for head, feature in zip(self.heads, features, strict=True)]


class YoloV2(nn.Module):
    """Darknet-19 with a passthrough (arXiv 1612.08242, table 6 and section 2), five anchors, no class but objects'."""

    def __init__(self, classes: int, squeeze: bool) -> None:
        """Build it.

        Args:
            classes: Number of classes.
            squeeze: Whether a 1x1 convolution to 64 channels stands in the passthrough (darknet's later yolov2.cfg).
        """
        super().__init__()
        self.fine = _darknet(3, (32, 0, 64, 0, 128, 64, 128, 0, 256, 128, 256, 0, 512, 256, 512, 256, 512))
        self.coarse = _darknet(512, (0, 1024, 512, 1024, 512, 1024))
        self.coarse.extend([_conv_norm(1024, 1024, 3), _conv_norm(1024, 1024, 3)])
        self.squeeze = _conv_norm(512, 64, 1) if squeeze else nn.Identity()
        self.last = _conv_norm(1024 + 4 * (64 if squeeze else 512), 1024, 3)
        self.predict = nn.Conv2d(1024, 5 * (5 + classes), 1)

    def forward(self, x: Tensor) -> Tensor:
        """Predictions (N, 5 * (5 + classes), H / 32, W / 32)."""
        fine = self.fine(x)
        passed = F.pixel_unshuffle(self.squeeze(fine), 2)
        out: Tensor = self.predict(self.last(torch.cat((passed, self.coarse(fine)), 1)))
        return out


def _conv_norm(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
    )


def _darknet(in_channels: int, plan: Sequence[int]) -> nn.Sequential:
    """3x3 convolutions, with a 1x1 between two wherever the channels fall; 0 is a pooling."""
    layers = nn.Sequential()
    current = in_channels
    for count in plan:
        if count:
            layers.append(_conv_norm(current, count, 1 if count < current else 3))
            current = count
        else:
            layers.append(nn.MaxPool2d(2))
    return layers


class ShuffleNet(nn.Module):
    """ShuffleNet (arXiv 1707.01083, table 1 and figure 2); the shuffles move values and cost nothing."""

    def __init__(self, scale: float, groups: int, stem: int) -> None:
        """Build it.

        Args:
            scale: Channel multiplier of the units.
            groups: g, 2 or 3.
            stem: Channels of the first convolution; the published multiply-adds come out with 24 at 1 and 1.5, and
                with 48 at 2.
        """
        super().__init__()
        current = stem
        self.stem = _conv_norm(3, current, 3, 2)
        self.pool = nn.MaxPool2d(3, 2, padding=1)
        self.units = nn.Sequential()
        base = {2: 200, 3: 240}[groups]
        for stage, repeats in enumerate((4, 8, 4)):
            channels = int(base * scale) * 2**stage
            for unit in range(repeats):
                stride = 2 if unit == 0 else 1
                # The first 1x1 is not grouped: its input has few channels (section 3.2).
                first_groups = 1 if stage == unit == 0 else groups
                self.units.append(_ShuffleUnit(current, channels, stride, first_groups, groups))
                current = channels
        self.classifier = nn.Linear(current, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 1000)."""
        logits: Tensor = self.classifier(self.units(self.pool(self.stem(x))).mean((2, 3)))
        return logits


class _ShuffleUnit(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int, first_groups: int, groups: int) -> None:
        super().__init__()
        self.stride = stride
        hidden = out_channels // 4
        out = out_channels - in_channels if stride == 2 else out_channels  # the pooled input makes up the rest
        self.branch = nn.Sequential(
            _conv_norm(in_channels, hidden, 1, groups=first_groups),
            _conv_norm(hidden, hidden, 3, stride, groups=hidden),
            _conv_norm(hidden, out, 1, groups=groups),
        )

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.branch(x)
        if self.stride == 2:
            return torch.cat((F.avg_pool2d(x, 3, 2, padding=1), branch), 1)
        return x + branch


class ResNet101DeepLab(nn.Module):
    """DeepLabv3 with ASPP on resnet_v1_101_beta (TF: research/deeplab/core/resnet_v1_beta.py, feature_extractor.py).

    The root is three 3x3 convolutions, a block's stride is in its last unit, and the last block's rates are 1, 2, 4
    times what the output stride asks for.
    """

    def __init__(self, output_stride: int, classes: int = 21) -> None:
        """Build it.

        Args:
            output_stride: 16 or 8.
            classes: With the background.
        """
        super().__init__()
        self.root = nn.Sequential(
            _conv_norm(3, 64, 3, 2), _conv_norm(64, 64, 3), _conv_norm(64, 128, 3), nn.MaxPool2d(3, 2, padding=1)
        )
        self.units = nn.Sequential()
        current, reached, rate = 128, 4, 1
        for hidden, repeats, last_stride in ((64, 3, 2), (128, 4, 2), (256, 23, 2), (512, 3, 1)):
            for unit in range(repeats):
                stride = last_stride if unit == repeats - 1 else 1
                grid = (1, 2, 4)[unit] if hidden == 512 else 1
                kept = stride if reached < output_stride else 1
                self.units.append(_Bottleneck(current, hidden, kept, rate * grid))
                reached, rate = reached * kept, rate * stride // kept
                current = 4 * hidden
        features = Features((FeatureSpec(current, output_stride),), 1.0, LayerOptions(activation="relu"))
        self.head = AsppHead(features, classes, atrous_rates=(6, 12, 18))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes, h, w)."""
        logits: Tensor = self.head([self.units(self.root(x))], (x.shape[-2], x.shape[-1]))
        return logits


class _Bottleneck(nn.Module):
    def __init__(self, in_channels: int, hidden: int, stride: int, rate: int) -> None:
        super().__init__()
        self.stride = stride
        out = 4 * hidden
        self.shortcut = _conv_norm(in_channels, out, 1, stride) if in_channels != out else nn.MaxPool2d(1, stride)
        self.branch = nn.Sequential(
            _conv_norm(in_channels, hidden, 1),
            nn.Conv2d(hidden, hidden, 3, stride, rate, rate, bias=False),
            nn.BatchNorm2d(hidden),
            _conv_norm(hidden, out, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.shortcut(x) + self.branch(x)
        return out


class TorchvisionDetector(nn.Module):
    """A torchvision detector up to its raw predictions; the rest depends on values and cannot be counted."""

    def __init__(self, name: str, classes: int) -> None:
        """Build it.

        Args:
            name: As `torchvision.models.get_model` has it.
            classes: With the background.
        """
        super().__init__()
        detector = get_model(name, weights=None, weights_backbone=None, num_classes=classes)
        self.backbone, self.head = detector.backbone, detector.head

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Class logits and box codes."""
        predictions: dict[str, Tensor] = self.head(list(self.backbone(x).values()))
        return predictions


def torchvision_segmenter(name: str, classes: int) -> nn.Module:
    """A segmentation model of torchvision, with the auxiliary head that its published figures include."""
    network: nn.Module = get_model(name, weights=None, weights_backbone=None, num_classes=classes, aux_loss=True)
    return network


STRUCTURES: dict[str, Callable[..., nn.Module]] = {
    "ssd_vgg": SsdVgg,
    "yolo_v2": YoloV2,
    "shufflenet": ShuffleNet,
    "nasnet_a": NasNetA,
    "resnet101_deeplab": ResNet101DeepLab,
    "torchvision_detector": TorchvisionDetector,
    "torchvision_segmenter": torchvision_segmenter,
}
