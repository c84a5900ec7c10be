"""Detection as a Lightning module."""

import csv
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mnv2vision import visualize
from mnv2vision.atomic import atomic_path
from mnv2vision.data.batch import Batch, Transform
from mnv2vision.data.detection_transforms import DetectionAugmentation
from mnv2vision.data.sample import SampleSource
from mnv2vision.detection.coco_evaluator import CocoEvaluator
from mnv2vision.detection.loss import DetectionTargets, detection_loss
from mnv2vision.detection.model import RawDetections, SSDLite
from mnv2vision.detection.postprocess import detect
from mnv2vision.detection.results import Detections, to_photos, write_results
from mnv2vision.detection.voc_evaluator import VocEvaluator
from mnv2vision.preprocessing import Preprocessing
from mnv2vision.tasks.base import Task, TrainingOptions, find_classes

log = logging.getLogger(__name__)

EXAMPLES = 24
SHOWN_SCORE = 0.3
"""From which score on detections are drawn."""


class DetectionTask(Task):
    """SSD's loss; COCO's metrics, or VOC's on VOC."""

    target = "boxes"
    evaluator: CocoEvaluator | VocEvaluator
    model: SSDLite

    def __init__(
        self,
        model: SSDLite,
        evaluator: CocoEvaluator | VocEvaluator,
        options: TrainingOptions | None = None,
        *,
        classes: Sequence[int] | None = None,
        category_ids: Sequence[int] | None = None,
    ) -> None:
        """Set up training or evaluation of a detector.

        Args:
            model: The model.
            evaluator: For the data set's classes.
            options: See `TrainingOptions`; only evaluation is possible without.
            classes: The model's labels of the data set's classes, where they differ from its own.
            category_ids: The data set's own ids of its classes, for result files; 1 to C by default.
        """
        super().__init__(model, evaluator, options)
        self.monitor = "mAP" if isinstance(evaluator, VocEvaluator) else "AP"
        self.category_ids = category_ids or range(1, len(evaluator.names) + 1)
        self._classes: Tensor | None
        self.register_buffer("_classes", None if classes is None else torch.tensor(classes), persistent=False)
        self._examples: list[tuple[NDArray[np.uint8], Detections]] = []

    @classmethod
    def create(
        cls, model: Any, source: SampleSource, options: TrainingOptions | None, config: Mapping[str, Any]
    ) -> Self:
        """See `Task.create`."""
        names = tuple(source.names)
        evaluator = VocEvaluator(names) if config["dataset"]["name"] == "voc" else CocoEvaluator(names)
        classes = find_classes(source, model)
        return cls(model, evaluator, options, classes=classes, category_ids=getattr(source, "category_ids", None))

    @classmethod
    def augmentation(cls, config: Mapping[str, Any], preprocessing: Preprocessing) -> Transform:
        """See `Task.augmentation`."""
        return DetectionAugmentation(preprocessing, **config)

    def loss(self, images: Tensor, batch: Batch) -> Tensor:
        """Loss of classes and boxes."""
        assert batch.boxes is not None
        assert batch.box_labels is not None
        assert batch.box_kinds is not None
        raw: RawDetections = self(images)
        targets = DetectionTargets(batch.boxes, batch.box_labels, batch.box_kinds)
        parts = detection_loss(raw.box_codes, raw.class_logits, self.model.anchors, targets, self.model.scores)
        self.log("step_class_loss", parts.classes.detach())
        self.log("step_box_loss", parts.boxes.detach())
        return parts.classes + parts.boxes

    def on_validation_epoch_start(self) -> None:
        """Start collecting detections and examples."""
        super().on_validation_epoch_start()
        self._examples = []

    def evaluate(self, images: Tensor, batch: Batch) -> None:
        """Collect the detections, and keep the first images as examples."""
        raw: RawDetections = self(images)
        found = detect(
            *raw,
            self.model.anchors,
            scores=self.model.scores,
            nms_iou=self.model.nms_iou,
            max_detections=self.model.max_detections,
            classes=self._classes,
        )
        sizes = [sample.size or (0, 0) for sample in batch.truth]
        self.evaluator.update(to_photos(found, self.model.preprocessing, sizes), batch.truth)
        wanted = EXAMPLES - len(self._examples)
        if wanted > 0:
            photos = batch.images[:wanted].permute(0, 2, 3, 1).cpu().numpy()
            height, width = photos.shape[1:3]
            same_size = Preprocessing(image_size=(height, width), resize="stretch")
            self._examples.extend(
                zip(photos, to_photos(found, same_size, [(height, width)] * len(sizes)), strict=False)
            )

    def write_report(self, folder: Path) -> None:
        """`per_class.csv`, `predictions.json` in COCO's format, `precision_recall.png` and `predictions.png`.

        Says, too, on how many images there are more objects than can be found.
        """
        limit = self.model.max_detections
        objects = [result.truth.labels for result in self.evaluator.results]
        if crowded := sum(labels is not None and len(labels) > limit for labels in objects):
            log.warning(
                "%d of %d images have more than model.max_detections=%d objects: no more are found on an image",
                crowded,
                len(objects),
                limit,
            )
        rows = self.evaluator.per_class()
        with atomic_path(folder / "per_class.csv") as temporary, temporary.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(rows[0]._fields if rows else ["empty"])
            writer.writerows(rows)
        write_results(folder / "predictions.json", self.evaluator.results, self.category_ids)
        visualize.precision_recall(self.evaluator.curves(), folder / "precision_recall.png")
        pictures = []
        for photo, found in self._examples:
            shown = found.scores >= SHOWN_SCORE
            names = self.evaluator.names
            texts = [
                f"{names[label]} {score:.0%}"
                for label, score in zip(found.labels[shown], found.scores[shown], strict=True)
            ]
            pictures.append(visualize.draw_boxes(photo, found.boxes[shown], found.labels[shown], texts))
        if pictures:
            visualize.contact_sheet(pictures, [""] * len(pictures), folder / "predictions.png")

    def draw_batch(self, batch: Batch) -> list[NDArray[np.uint8]]:
        """See `Task.draw_batch`: with the boxes that the loss sees."""
        assert batch.boxes is not None
        assert batch.box_labels is not None
        assert batch.box_kinds is not None
        pictures = []
        for i, photo in enumerate(batch.images.permute(0, 2, 3, 1).numpy()):
            there = batch.box_kinds[i] > 0
            height, width = photo.shape[:2]
            boxes = batch.boxes[i, there].numpy() * np.array([width, height] * 2, np.float32)
            labels = batch.box_labels[i, there].numpy()
            kinds = batch.box_kinds[i, there].tolist()
            texts = [
                self.evaluator.names[label] + ("", "", " (crowd)", " (difficult)")[kind]
                for label, kind in zip(labels, kinds, strict=True)
            ]
            pictures.append(visualize.draw_boxes(photo, boxes, labels, texts))
        return pictures
