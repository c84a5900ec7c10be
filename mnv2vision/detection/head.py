"""SSDLite's head (paper, section 6.2), and SSD's: extra maps behind the backbone's, and predictors on every map."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from mnv2vision.backbones.layers import check_choice
from mnv2vision.backbones.mobilenet_v2 import stage_lengths
from mnv2vision.contracts import Features, Head, HeadKind, RawDetections, Taps
from mnv2vision.detection.anchors import anchors_per_cell, make_anchors
from mnv2vision.detection.layers import EXTRA_CHANNELS, KINDS, MIN_CHANNELS, ExtraMap, MapPredictor
from mnv2vision.detection.loss import Scores
from mnv2vision.detection.postprocess import MAX_DETECTIONS, SCORE_THRESHOLD, BatchDetections, detect
from mnv2vision.errors import ConfigError
from mnv2vision.predictions.detection import check_max_detections

# Where TensorFlow's feature extractors tap.
_TAPS = {
    "mobilenet_v1": ("block10", "block12"),
    "mobilenet_v3_large": ("block12.expand", "last"),
    "mobilenet_v3_small": ("block8.expand", "last"),
}


class SSDHead(Head):
    """Single-shot detection with depthwise-separable predictors on six feature maps, from stride 16 on."""

    class_layers = ("classes.",)

    def __init__(
        self,
        features: Features,
        num_classes: int,
        *,
        head: str = "ssdlite",
        reduce_lowest: bool = True,
        scores: Scores = "sigmoid",
        nms_iou: float = 0.6,
        max_detections: int = MAX_DETECTIONS,
    ) -> None:
        """Build the head; its activations are ReLU6.

        Args:
            features: The first maps, the finest first.
            num_classes: Number of classes, without the background.
            head: "ssdlite", "ssd" with full convolutions (table 5), or one of TensorFlow's between the two, see
                `layers.KINDS`.
            reduce_lowest: Three anchors a cell on the first map (TensorFlow), or six as on the others.
            scores: "sigmoid" scores each class by itself (TensorFlow), "softmax" shares 1 among all.
            nms_iou: Of two boxes of a class that overlap by more, the better one stays.
            max_detections: How many objects are found on an image at most, the best ones.
        """
        super().__init__()
        check_choice("head", head, tuple(KINDS))
        check_choice("scores", scores, ("sigmoid", "softmax"))
        if not isinstance(nms_iou, int | float) or not 0 < nms_iou <= 1:
            raise ConfigError(f"nms_iou={nms_iou!r} must be above 0 and at most 1")
        self.reduce_lowest = reduce_lowest
        self.scores: Scores = scores
        self.nms_iou = float(nms_iou)
        self.max_detections = check_max_detections(max_detections)
        self.num_columns = 1 + num_classes
        kind, options = KINDS[head], replace(features.options, activation="relu6")

        def channels(count: float) -> int:
            return max(int(count * features.width), MIN_CHANNELS)

        maps = [spec.channels for spec in features.specs]
        self.extras = nn.ModuleList()
        for count in EXTRA_CHANNELS:
            extra = ExtraMap(maps[-1], channels(count / 2), channels(count), separable=kind.extras, options=options)
            self.extras.append(extra)
            maps.append(channels(count))
        anchors = anchors_per_cell(len(maps), reduce_lowest=reduce_lowest)
        self.boxes = nn.ModuleList(
            MapPredictor(count, 4 * per_cell, kind=kind, options=options)
            for count, per_cell in zip(maps, anchors, strict=True)
        )
        self.classes = nn.ModuleList(
            MapPredictor(count, self.num_columns * per_cell, kind=kind, options=options)
            for count, per_cell in zip(maps, anchors, strict=True)
        )
        if not any(parameter.is_meta for parameter in self.parameters()):
            for layer in self.modules():  # truncated normal of deviation 0.03, as TensorFlow's configuration has it
                if isinstance(layer, nn.Conv2d):
                    nn.init.trunc_normal_(layer.weight, std=0.03, a=-0.06, b=0.06)
        self._initialize_classes()

    @torch.no_grad()
    def _initialize_classes(self) -> None:
        """Begin with the scores that say nothing: of four anchors that count in the loss, one shows some object."""
        background, shown = 3 / 4, 1 / (4 * self.num_columns - 4)
        for predictor in self.classes:
            assert isinstance(predictor, MapPredictor)
            assert predictor.conv.bias is not None
            bias = predictor.conv.bias.view(-1, self.num_columns)
            bias[:, 0] = math.log(background / (1 - background)) if self.scores == "sigmoid" else math.log(background)
            bias[:, 1:] = math.log(shown / (1 - shown)) if self.scores == "sigmoid" else math.log(shown)

    def class_rows(self, parameter: str) -> int | None:
        """See `Head.class_rows`: a group for each anchor of a cell, with the background first."""
        return None if ".depthwise." in parameter else 1

    def forward(self, features: Sequence[Tensor], image_size: tuple[int, int]) -> RawDetections:
        """Raw predictions, with the anchors of an input of `image_size`."""
        maps = list(features)
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        codes = [_by_anchor(predict(x), 4) for predict, x in zip(self.boxes, maps, strict=True)]
        logits = [_by_anchor(predict(x), self.num_columns) for predict, x in zip(self.classes, maps, strict=True)]
        sizes = [(x.shape[2], x.shape[3]) for x in maps]
        anchors = make_anchors(sizes, image_size, reduce_lowest=self.reduce_lowest, device=maps[0].device)
        return RawDetections(torch.cat(codes, dim=1), torch.cat(logits, dim=1), anchors)

    def detect(
        self,
        raw: RawDetections,
        *,
        score_threshold: float | Tensor = SCORE_THRESHOLD,
        max_detections: int | None = None,
        classes: Tensor | None = None,
    ) -> BatchDetections:
        """Objects of raw predictions, by the head's scores and suppression; see `postprocess.detect`.

        Args:
            raw: Of the head.
            score_threshold: Boxes with less are dropped; one for all, or (C,) by class.
            max_detections: How many an image at most; None: the head's.
            classes: Labels to look for, by which the result's labels count; all by default.
        """
        return detect(
            raw,
            scores=self.scores,
            nms_iou=self.nms_iou,
            score_threshold=score_threshold,
            max_detections=max_detections or self.max_detections,
            classes=classes,
        )


def _by_anchor(x: Tensor, columns: int) -> Tensor:
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, columns)  # len would fix an export's batch


def _default_taps(taps: Taps) -> tuple[str, ...]:
    """One map of stride 16 and one of stride 32; MobileNetV2's first is the expansion that the paper names."""
    if taps.backbone == "mobilenet_v2":  # the expansion in the first block of 160 channels
        return f"block{sum(stage_lengths(taps.backbone_options.get('depth', 1.0))[:5])}.expand", "last"
    return _TAPS[taps.backbone]


DETECTION_HEAD = HeadKind(build=SSDHead, default_taps=_default_taps, num_classes=80, image_size=320, resize="stretch")
