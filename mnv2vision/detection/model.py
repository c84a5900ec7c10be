"""SSDLite on any backbone of the house (paper, section 6.2)."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mnv2vision.backbones import Backbone
from mnv2vision.backbones.layers import check_choice
from mnv2vision.backbones.mobilenet_v2 import stage_lengths
from mnv2vision.detection.anchors import anchors_per_cell, make_anchors
from mnv2vision.detection.head import EXTRA_CHANNELS, KINDS, Predictor, SSDHead
from mnv2vision.detection.loss import Scores
from mnv2vision.detection.postprocess import MAX_DETECTIONS, check_max_detections
from mnv2vision.errors import ConfigError
from mnv2vision.vision_model import VisionModel

# Where TensorFlow's feature extractors tap; MobileNetV2's first is the expansion that the paper names (layer 15).
_TAPS = {
    "mobilenet_v1": ("block10", "block12"),
    "mobilenet_v3_large": ("block12.expand", "last"),
    "mobilenet_v3_small": ("block8.expand", "last"),
}


class RawDetections(NamedTuple):
    """What the network predicts.

    Attributes:
        box_codes: (N, A, 4), offsets (tx, ty, tw, th) from the anchors, see `box_coder`.
        class_logits: (N, A, 1 + C), the background first.
    """

    box_codes: Tensor
    class_logits: Tensor


class SSDLite(VisionModel):
    """Single-shot detection with depthwise-separable heads on six feature maps, from stride 16 on."""

    default_num_classes = 80
    default_image_size = 320
    default_resize = "stretch"
    class_layers = ("head.classes.",)

    def __init__(
        self,
        backbone: Backbone,
        *,
        num_classes: int,
        head: str = "ssdlite",
        reduce_lowest: bool = True,
        scores: Scores = "sigmoid",
        nms_iou: float = 0.6,
        max_detections: int = MAX_DETECTIONS,
    ) -> None:
        """Put the detector on a backbone.

        Args:
            backbone: Its taps are the first feature maps, the finest first.
            num_classes: Number of classes, without the background.
            head: "ssdlite", "ssd" with full convolutions (table 5), or one of TensorFlow's between the two, see
                `head.KINDS`.
            reduce_lowest: Three anchors a cell on the first map (TensorFlow), or six as on the others.
            scores: "sigmoid" scores each class by itself (TensorFlow), "softmax" shares 1 among all.
            nms_iou: Of two boxes of a class that overlap by more, the better one stays.
            max_detections: How many objects are found on an image at most, the best ones.
        """
        super().__init__()
        check_choice("head", head, tuple(KINDS))
        check_choice("scores", scores, ("sigmoid", "softmax"))
        if not isinstance(nms_iou, int | float) or not 0 < nms_iou <= 1:
            raise ConfigError(f"nms_iou={nms_iou!r} is no overlap in 0..1")
        self.backbone = backbone
        self.reduce_lowest = reduce_lowest
        self.scores: Scores = scores
        self.nms_iou = float(nms_iou)
        self.max_detections = check_max_detections(max_detections)
        specs = [backbone.feature_specs[tap] for tap in backbone.taps]
        self.head = SSDHead(
            [spec.channels for spec in specs],
            anchors_per_cell(len(specs) + len(EXTRA_CHANNELS), reduce_lowest=reduce_lowest),
            1 + num_classes,
            kind=KINDS[head],
            width=backbone.width,
            options=backbone.options,
        )

        self._initialize_classes()

    @torch.no_grad()
    def _initialize_classes(self) -> None:
        """Begin with the scores that say nothing: of four anchors that count in the loss, one shows some object."""
        background, shown = 3 / 4, 1 / (4 * self.head.num_columns - 4)
        for predictor in self.head.classes:
            assert isinstance(predictor, Predictor)
            assert predictor.conv.bias is not None
            bias = predictor.conv.bias.view(-1, self.head.num_columns)
            bias[:, 0] = math.log(background / (1 - background)) if self.scores == "sigmoid" else math.log(background)
            bias[:, 1:] = math.log(shown / (1 - shown)) if self.scores == "sigmoid" else math.log(shown)

    @classmethod
    def default_taps(cls, backbone: str, options: Mapping[str, Any]) -> tuple[str, ...] | None:
        """One map of stride 16 and one of stride 32."""
        if backbone == "mobilenet_v2":  # the expansion in the first block of 160 channels
            return f"block{sum(stage_lengths(options.get('depth', 1.0))[:5])}.expand", "last"
        return _TAPS[backbone]

    def forward(self, images: Tensor) -> RawDetections:
        """Raw predictions for normalised images (N, 3, H, W)."""
        features = self.backbone(images)
        return RawDetections(*self.head([features[tap] for tap in self.backbone.taps]))

    @property
    def anchors(self) -> Tensor:
        """(A, 4) for inputs of the preprocessing's size, see `make_anchors`; on the model's device."""
        height, width = self.preprocessing.image_size
        strides = [self.backbone.feature_specs[tap].stride for tap in self.backbone.taps]
        for _ in EXTRA_CHANNELS:
            strides.append(2 * strides[-1])
        sizes = tuple((-(-height // stride), -(-width // stride)) for stride in strides)
        device = next(self.parameters(), torch.empty(0)).device
        return make_anchors(sizes, (height, width), reduce_lowest=self.reduce_lowest, device=device)
