"""Segmentation speed against torchvision and segmentation_models.pytorch, measured alternately in one run."""

import time
from typing import Any

import numpy as np
import torch
import torchvision
from torch.nn import functional as F

import mnv2vision as mv
from mnv2vision.benchmarks.speed import Result, compare, settle
from mnv2vision.contracts import InferenceOptions
from mnv2vision.data.sample import Sample
from mnv2vision.inference.predictor import Predictor
from mnv2vision.predictions.segmentation import Segmentation
from mnv2vision.segmentation.evaluator import SegmentationEvaluator
from mnv2vision.segmentation.head import SegmentationHead
from mnv2vision.segmentation.inference import MULTI_SCALE, Network, probabilities


def _network() -> Network:
    """Logits at the pixels, as `Predictor` has the model."""
    model = _predictor().model
    assert isinstance(model.head, SegmentationHead)
    return model.head.by_pixel(model)


def _predictor() -> Predictor:
    model = mv.create_model("segmentation", num_classes=21)
    settle(model, 129)
    return Predictor(model, device="cpu")


def against_torchvision(rounds: int = 9) -> Result:
    """MobileNetV2 at output stride 16 against torchvision's deeplabv3_mobilenet_v3_large, logits at 513, batch 1."""
    peer: Any = torchvision.models.segmentation.deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None).eval()
    settle(peer, 129)
    images = torch.randn(1, 3, 513, 513)
    ours, mine = _network(), images.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        return compare(
            "segmentation, 513, output stride 16, batch 1 (torchvision's MobileNetV3-Large)",
            lambda: ours(mine),
            lambda: peer(images)["out"],
            rounds=rounds,
        )


def against_smp(rounds: int = 9) -> Result:
    """Against segmentation_models.pytorch's DeepLabV3 with mobilenet_v2 and default options, at 512."""
    import segmentation_models_pytorch as smp

    peer = smp.DeepLabV3("mobilenet_v2", encoder_weights=None, classes=21)
    settle(peer, 128)
    images, ours = torch.randn(1, 3, 512, 512), _network()
    mine = torch.randn(1, 3, 513, 513).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        return compare(
            "segmentation, 513, output stride 16, batch 1 (smp's DeepLabV3 mobilenet_v2, 512)",
            lambda: ours(mine),
            lambda: peer(images),
            rounds=rounds,
        )


def multi_scale(rounds: int = 3) -> float:
    """Time of multi-scale inference with flips, relative to the sum of its twelve passes; the median."""
    ours = _network()
    images = torch.randn(1, 3, 513, 513).to(memory_format=torch.channels_last)
    options = InferenceOptions(scales=MULTI_SCALE, flip=True)
    inputs = [
        F.interpolate(images, size=(side, side), mode="bilinear", align_corners=True)
        for side in (257, 385, 513, 641, 769, 897)
    ]

    def passes() -> None:
        for image in inputs:
            for _ in range(2):
                logits = ours(image)
                F.interpolate(logits, size=(513, 513), mode="bilinear", align_corners=True).softmax(1)

    with torch.inference_mode():
        return 1 / compare("", lambda: probabilities(ours, images, options), passes, rounds=rounds).ratio


def evaluator_share(rounds: int = 9) -> float:
    """Time to count a photo's pixels, relative to predicting them; the median."""
    predictor = _predictor()
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (375, 500, 3), dtype=np.uint8)
    truth = rng.integers(0, 21, (375, 500), dtype=np.uint8)
    evaluator = SegmentationEvaluator([str(label) for label in range(21)])
    shares = []
    for index in range(rounds + 1):
        start = time.perf_counter()
        found = predictor(photo)
        assert isinstance(found, Segmentation)
        middle = time.perf_counter()
        evaluator.update([found.mask], [Sample(photo, index, "", mask=truth)])
        shares.append((time.perf_counter() - middle) / (middle - start))
    return float(np.median(shares[1:]))
