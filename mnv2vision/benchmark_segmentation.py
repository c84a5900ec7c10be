"""Speed of segmentation against torchvision and segmentation_models.pytorch, both sides in one run, turn by turn."""

import time
from typing import Any

import numpy as np
import torch
import torchvision
from torch.nn import functional as F

import mnv2vision as mv
from mnv2vision.benchmark import Result, compare, settle
from mnv2vision.predictor import Predictor
from mnv2vision.segmentation.evaluator import SegmentationEvaluator
from mnv2vision.segmentation.inference import MULTI_SCALE, InferenceOptions, probabilities


def _predictor() -> Predictor:
    model = mv.create_model("segmentation", num_classes=21)
    settle(model, 129)
    return Predictor(model, device="cpu")


def against_torchvision(rounds: int = 9) -> Result:
    """MobileNetV2 at output stride 16 against torchvision's deeplabv3_mobilenet_v3_large, logits at 513, batch 1."""
    peer: Any = torchvision.models.segmentation.deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None).eval()
    settle(peer, 129)
    images = torch.randn(1, 3, 513, 513)
    ours, mine = _predictor().model, images.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        return compare(
            "segmentation, 513, output stride 16, batch 1 (torchvision's MobileNetV3-Large)",
            lambda: ours.pixel_logits(mine),
            lambda: peer(images)["out"],
            rounds=rounds,
        )


def against_smp(rounds: int = 9) -> Result:
    """Against segmentation_models.pytorch's DeepLabV3 with mobilenet_v2 at its defaults, which takes 512."""
    import segmentation_models_pytorch as smp

    peer = smp.DeepLabV3("mobilenet_v2", encoder_weights=None, classes=21)
    settle(peer, 128)
    images, ours = torch.randn(1, 3, 512, 512), _predictor().model
    mine = torch.randn(1, 3, 513, 513).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        return compare(
            "segmentation, 513, output stride 16, batch 1 (smp's DeepLabV3 mobilenet_v2, 512)",
            lambda: ours.pixel_logits(mine),
            lambda: peer(images),
            rounds=rounds,
        )


def multi_scale(rounds: int = 3) -> float:
    """Time of scales and flips by the sum of their twelve passes, image in, probabilities out; the median."""
    ours = _predictor().model
    images = torch.randn(1, 3, 513, 513).to(memory_format=torch.channels_last)
    options = InferenceOptions(scales=MULTI_SCALE, flip=True)
    inputs = [
        F.interpolate(images, size=(side, side), mode="bilinear", align_corners=True)
        for side in (257, 385, 513, 641, 769, 897)
    ]

    def passes() -> None:
        for image in inputs:
            for _ in range(2):
                logits = ours.pixel_logits(image)
                F.interpolate(logits, size=(513, 513), mode="bilinear", align_corners=True).softmax(1)

    with torch.inference_mode():
        return 1 / compare("", lambda: probabilities(ours.pixel_logits, images, options), passes, rounds=rounds).ratio


def evaluator_share(rounds: int = 9) -> float:
    """Time of counting a photo's pixels by that of predicting them; the median."""
    predictor = _predictor()
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (375, 500, 3), dtype=np.uint8)
    truth = rng.integers(0, 21, (375, 500), dtype=np.uint8)
    evaluator = SegmentationEvaluator([str(label) for label in range(21)])
    shares = []
    for index in range(rounds + 1):
        start = time.perf_counter()
        mask = predictor(photo).mask
        middle = time.perf_counter()
        evaluator.update([mask], [truth], [index])
        shares.append((time.perf_counter() - middle) / (middle - start))
    return float(np.median(shares[1:]))
