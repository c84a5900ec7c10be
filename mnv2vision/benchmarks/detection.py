"""Detection speed against torchvision and pycocotools, measured alternately in one run."""

import contextlib
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from torchvision.models.detection.ssd import SSD

import mnv2vision as mv
from mnv2vision.benchmarks.speed import Result, compare, seconds, settle
from mnv2vision.contracts import RawDetections
from mnv2vision.data.sample import Boxes, BoxKind, Sample
from mnv2vision.data.targets import BoxTargets
from mnv2vision.detection.coco_evaluator import CocoEvaluator
from mnv2vision.detection.loss import detection_loss
from mnv2vision.detection.postprocess import detect
from mnv2vision.detection.results import xywh
from mnv2vision.inference.predictor import Predictor
from mnv2vision.predictions.detection import Detection
from mnv2vision.training.precision import best_precision


def _peer() -> SSD:
    torch.manual_seed(0)
    peer: SSD = torchvision.models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
    return peer.eval()


def postprocess(rounds: int = 15) -> Result:
    """Decoding and suppression for one image, on raw predictions of torchvision's model with random weights."""
    peer = _peer()
    image = torch.rand(1, 3, 320, 320)
    with torch.inference_mode():
        features = list(peer.backbone(image).values())
        raw = peer.head(features)
        images = torchvision.models.detection.image_list.ImageList(image, [(320, 320)])
        boxes = peer.anchor_generator(images, features)
        # The same logits for both, limited to our smaller number of anchors and columns.
        model = mv.create_model("detection", num_classes=80)
        with torch.no_grad():
            anchors = model(image).anchors
        count = min(len(anchors), raw["cls_logits"].shape[1])
        logits, codes = raw["cls_logits"][:, :count, :81].contiguous(), raw["bbox_regression"][:, :count].contiguous()
        peer_raw = {"cls_logits": logits, "bbox_regression": codes}
        peer_boxes = [boxes[0][:count]]

        def theirs() -> object:
            return peer.postprocess_detections(peer_raw, peer_boxes, images.image_sizes)

        def ours() -> object:
            return detect(
                RawDetections(codes, logits, anchors[:count]),
                scores="softmax",
                nms_iou=0.55,
                score_threshold=0.001,
                max_detections=300,
            )

        what = f"detection, decoding and suppression, {count} anchors, 80 classes"
        return compare(what, ours, theirs, rounds=rounds)


def detector(rounds: int = 15) -> Result:
    """A whole detector, from photo to boxes, batch 1."""
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)
    model = mv.create_model("detection", num_classes=90, image_size=320)
    settle(model, 320)
    predictor = Predictor(model, device="cpu", score_threshold=0)
    peer = _peer()
    settle(peer.backbone, 320)

    def theirs() -> object:
        with torch.inference_mode():
            return peer([torch.from_numpy(photo).permute(2, 0, 1).float() / 255])

    return compare("detector, 320, photo to boxes, batch 1", lambda: predictor(photo), theirs, rounds=rounds)


def coco_evaluation(images: int = 2000, rounds: int = 3) -> Result:
    """COCO evaluation of random results: 2,000 images with 180,000 detections of 80 classes."""
    samples, found = _random_results(images)
    truth, rows = _for_pycocotools(samples, found)

    def ours() -> object:
        evaluator = CocoEvaluator([str(label) for label in range(80)])
        evaluator.update(found, samples)
        return evaluator.compute()

    def theirs() -> object:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        with contextlib.redirect_stdout(io.StringIO()):
            ground = COCO()
            ground.dataset = truth
            ground.createIndex()
            evaluation = COCOeval(ground, ground.loadRes(rows), "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return evaluation.stats

    return compare(f"COCO evaluation, {images} images, {len(rows)} detections", ours, theirs, rounds=rounds)


def _random_results(images: int) -> tuple[list[Sample], list[Detection]]:
    rng = np.random.default_rng(0)
    samples, found = [], []
    for image_id in range(images):
        count = int(rng.integers(1, 15))
        corner, side = rng.uniform(0, 400, (count, 2)), rng.uniform(10, 240, (count, 2))
        boxes = np.concatenate([corner, corner + side], axis=1).astype(np.float32)
        labels = rng.integers(0, 80, count)
        samples.append(Sample(np.empty((0, 0, 3), np.uint8), image_id, "", boxes=Boxes.of(boxes, labels)))
        of = rng.integers(0, count, 90)
        jitter = rng.normal(0, 15, (90, 4)).astype(np.float32)
        moved = np.sort((boxes[of] + jitter).reshape(90, 2, 2), axis=1).reshape(90, 4)
        guessed = np.where(rng.random(90) < 0.5, labels[of], rng.integers(0, 80, 90))
        found.append(Detection(moved, np.sort(rng.random(90).astype(np.float32))[::-1], guessed))
    return samples, found


def _for_pycocotools(samples: list[Sample], found: list[Detection]) -> tuple[dict[str, Any], NDArray[np.float64]]:
    annotations: list[dict[str, Any]] = []
    rows = []
    for sample, result in zip(samples, found, strict=True):
        assert sample.boxes is not None
        for box, label in zip(xywh(sample.boxes.boxes).tolist(), sample.boxes.labels.tolist(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": sample.image_id,
                    "category_id": label,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
        count = len(result.labels)
        columns = [np.full((count, 1), sample.image_id), xywh(result.boxes), result.scores[:, None]]
        rows.append(np.concatenate([*columns, result.labels[:, None]], axis=1))
    truth = {
        "info": {},
        "images": [{"id": sample.image_id} for sample in samples],
        "categories": [{"id": label, "name": str(label)} for label in range(80)],
        "annotations": annotations,
    }
    return truth, np.concatenate(rows)


def loss_share(batch_size: int = 24, rounds: int = 5) -> tuple[float, float]:
    """Seconds of a training step at 320, and of its matching and loss (forward and backward); medians."""
    model: Any = mv.create_model("detection", num_classes=80).train().to(memory_format=torch.channels_last)
    images = torch.randn(batch_size, 3, 320, 320).to(memory_format=torch.channels_last)
    targets = random_targets(batch_size)
    optimizer = torch.optim.SGD(model.parameters(), 1e-4, momentum=0.9)
    enabled = best_precision("cpu") == "bf16-mixed"

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            raw = model(images)
        losses = detection_loss(raw, targets)
        (losses.classes + losses.boxes).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        optimizer.zero_grad()

    with torch.no_grad():
        raw: RawDetections = model(images)

    def loss() -> None:
        codes, logits = (tensor.float().clone().requires_grad_() for tensor in (raw.box_codes, raw.class_logits))
        losses = detection_loss(RawDetections(codes, logits, raw.anchors), targets)
        (losses.classes + losses.boxes).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped

    return _median(step, rounds), _median(loss, rounds)


def random_targets(batch_size: int, num_classes: int = 80) -> BoxTargets:
    """Eight objects per image, padded to sixteen."""
    corner, side = 0.7 * torch.rand(batch_size, 16, 2), 0.05 + 0.25 * torch.rand(batch_size, 16, 2)
    kinds = (torch.arange(16) < 8).expand(batch_size, -1) * int(BoxKind.OBJECT)  # COCO has about 7 objects per image
    return BoxTargets(
        torch.cat([corner, corner + side], dim=-1),
        torch.randint(0, num_classes, (batch_size, 16)),
        kinds.to(torch.uint8),
        torch.ones(batch_size, dtype=torch.bool),
    )


def _median(function: Callable[[], object], rounds: int) -> float:
    function()
    return float(np.median([seconds(function) for _ in range(rounds)]))
