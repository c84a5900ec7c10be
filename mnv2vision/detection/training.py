"""A detector in training and evaluation."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mnv2vision.common import draw
from mnv2vision.common.colors import class_colors
from mnv2vision.common.html import Section
from mnv2vision.common.tables import write_rows
from mnv2vision.common.worst import Worst
from mnv2vision.contracts import (
    HeadInUse,
    HeadSettings,
    HeadTraining,
    Lesson,
    Network,
    Options,
    Raw,
    RawDetections,
    Recommended,
    find_classes,
    no_loss,
)
from mnv2vision.data.augment.detection import DetectionAugmentation
from mnv2vision.data.batch import Batch, Transform
from mnv2vision.data.sample import SampleSource
from mnv2vision.detection.coco_evaluator import CocoEvaluator
from mnv2vision.detection.errors import Judged, error_kinds, judge
from mnv2vision.detection.head import SSDHead
from mnv2vision.detection.imitation import imitation_loss
from mnv2vision.detection.loss import detection_loss
from mnv2vision.detection.mistakes import (
    Seen,
    WorstPhotos,
    most_confident,
    of_scores,
    shown_scores,
    side_by_side,
    told_of,
)
from mnv2vision.detection.prediction import to_photos
from mnv2vision.detection.report import SECTIONS, Evaluated, advice, anchor_advice
from mnv2vision.detection.results import ImageResult, write_results, xywh
from mnv2vision.detection.thresholds import class_thresholds, recommended
from mnv2vision.detection.voc_evaluator import VocEvaluator
from mnv2vision.predictions.detection import Detection
from mnv2vision.preprocessing import Preprocessing

log = logging.getLogger(__name__)

EXAMPLES = 24
MISTAKES = 8
CONFIDENT = 12


class DetectionTraining(HeadTraining):
    """SSD's loss; COCO's metrics, or VOC's, as the data set asks for."""

    evaluator: CocoEvaluator | VocEvaluator

    def __init__(
        self,
        head: HeadInUse,
        evaluator: CocoEvaluator | VocEvaluator,
        *,
        classes: Sequence[int] | None = None,
        category_ids: Sequence[int] | None = None,
    ) -> None:
        """Set it up.

        Args:
            head: A detector's.
            evaluator: For the data set's classes.
            classes: The model's labels of the data set's classes, where they differ from its own.
            category_ids: The data set's own ids of its classes, for result files; 1 to C by default.
        """
        assert isinstance(head.head, SSDHead)
        self.head, self.preprocessing, self.evaluator = head.head, head.preprocessing, evaluator
        self.monitor = "mAP" if isinstance(evaluator, VocEvaluator) else "AP"
        self.category_ids = category_ids or range(1, len(evaluator.names) + 1)
        self._classes = None if classes is None else torch.tensor(classes)
        self._examples: list[Seen] = []
        self._mistakes = WorstPhotos(evaluator.names)
        self._confident: Worst[tuple[Seen, Judged, int]] = Worst(CONFIDENT)
        self._anchors: NDArray[np.float64] = np.empty((0, 2))
        self._told: Evaluated | None = None

    @classmethod
    def create(cls, head: HeadInUse, source: SampleSource, settings: HeadSettings) -> Self:
        """See `HeadTraining.create`."""
        names = tuple(source.names)
        protocol = settings.protocol or getattr(source, "protocol", "coco")
        evaluator = VocEvaluator(names) if protocol == "voc" else CocoEvaluator(names)
        classes = find_classes(names, head.config)
        return cls(head, evaluator, classes=classes, category_ids=getattr(source, "category_ids", None))

    @classmethod
    def augmentation(cls, options: Options, preprocessing: Preprocessing) -> Transform:
        """See `HeadTraining.augmentation`."""
        own: dict[str, Any] = dict(options)
        return DetectionAugmentation(preprocessing, **own)

    def loss(self, raw: Raw, batch: Batch) -> dict[str, Tensor]:
        """Loss of classes and boxes."""
        assert isinstance(raw, RawDetections)
        if batch.boxes is None:
            return {"loss": no_loss(raw.box_codes, raw.class_logits)}
        parts = detection_loss(raw, batch.boxes, self.head.scores, batch.unknown)
        return {"class_loss": parts.classes, "box_loss": parts.boxes}

    def imitate(self, raw: Raw, teacher: Raw, lesson: Lesson) -> Tensor:
        """See `HeadTraining.imitate`, and `imitation_loss`."""
        assert isinstance(raw, RawDetections)
        assert isinstance(teacher, RawDetections)
        return imitation_loss(raw, teacher, lesson, self.head.scores)

    def start(self) -> None:
        """Start collecting detections and examples."""
        super().start()
        self._examples = []
        self._mistakes = WorstPhotos(self.evaluator.names)
        self._confident = Worst(CONFIDENT)
        self._told = None

    def evaluate(self, network: Network, images: Tensor, batch: Batch) -> None:
        """Collect the detections, and keep the first images as examples."""
        raw = network(images)
        assert isinstance(raw, RawDetections)
        found = self.head.detect(raw, classes=None if self._classes is None else self._classes.to(images.device))
        sizes = [sample.size for sample in batch.truth]
        on_photos = to_photos(found, self.preprocessing, sizes)
        self.evaluator.update(on_photos, batch.truth)
        self._anchors = raw.anchors[:, 2:].double().cpu().numpy()
        for image, of_image, sample in zip(batch.images, on_photos, batch.truth, strict=True):
            # A copy, and no mask: the batch's memory and full-size masks of other heads are not to be kept.
            photo = image.permute(1, 2, 0).cpu().numpy().copy()
            self._keep(Seen(replace(sample, image=photo, mask=None), of_image))

    def _keep(self, seen: Seen) -> None:
        """Keep a photo for the pictures, if it is one of the first or of the worst."""
        if len(self._examples) < EXAMPLES:
            self._examples.append(seen)
        sample = seen.sample
        if sample.boxes is not None:
            result = ImageResult(sample.image_id, seen.found, sample.boxes)
            judged = judge([result], [self.evaluator.ignored(sample.boxes)])
            self._mistakes.offer(seen, judged)
            if (wrong := most_confident(judged)) is not None:
                self._confident.offer(judged.scores[wrong], lambda: (seen, judged, wrong))

    def _drawn(self, seen: Seen, shown: Detection) -> NDArray[np.uint8]:
        """See `side_by_side`."""
        sample, names = seen.sample, self.evaluator.names
        return side_by_side(sample.image, sample.size, self.preprocessing, sample.boxes, shown, names)

    def _judge(self, least: NDArray[np.float64] | None = None) -> Judged:
        """What the detections of the last evaluation are; see `judge`."""
        results = self.evaluator.results
        return judge(results, [self.evaluator.ignored(result.truth) for result in results], least)

    def recommended(self) -> Recommended:
        """See `HeadTraining.recommended`: thresholds, unless the data set has not all of the model's classes."""
        if self._classes is not None:
            return Recommended()
        return Recommended(thresholds=self._evaluated.thresholds)

    def write_report(self, folder: Path) -> None:
        """Tables and pictures, see docs/evaluation.md; `predictions.json` in COCO's format.

        Says, too, on how many images there are more objects than can be found.
        """
        limit = self.head.max_detections
        objects = [len(result.truth) for result in self.evaluator.results]
        if crowded := sum(count > limit for count in objects):
            log.warning(
                "%d of %d images have more than model.max_detections=%d objects: no more are found on an image",
                crowded,
                len(objects),
                limit,
            )
        write_rows(folder / "per_class.csv", self.evaluator.per_class())
        judged, names = self._evaluated.judged, self.evaluator.names
        write_rows(folder / "errors.csv", error_kinds(judged, len(names)))
        write_rows(folder / "thresholds.csv", class_thresholds(judged, names))
        write_results(folder / "predictions.json", self.evaluator.results, self.category_ids)
        draw.precision_recall(self.evaluator.curves(), folder / "precision_recall.png")
        least = shown_scores(self._evaluated.thresholds, len(names))
        examples = [(self._drawn(seen, of_scores(seen.found, least)), "") for seen in self._examples]
        draw.titled_sheet(examples, folder / "predictions.png", columns=3)
        mistakes = [
            (self._drawn(seen, of_scores(seen.found, least)), f"{seen.sample.image_id}: {missed} missed, {wrong} wrong")
            for seen, missed, wrong in self._mistakes.items(least, MISTAKES)
        ]
        draw.titled_sheet(mistakes, folder / "mistakes.png", columns=2)
        confident = [
            (self._drawn(seen, seen.found.take(judged.places[[wrong]])), told_of(judged, wrong, names))
            for seen, judged, wrong in self._confident.items()
        ]
        draw.titled_sheet(confident, folder / "confident.png", columns=3)

    def sections(self, folder: Path) -> list[Section]:
        """See `HeadTraining.sections`."""
        return [section(self._evaluated, folder) for section in SECTIONS]

    def advice(self) -> list[str]:
        """See `HeadTraining.advice`."""
        boxes, photos, shorter = [np.empty((0, 2))], [np.empty(0)], [np.empty(0)]
        for result in self.evaluator.results:
            sides = xywh(result.truth.boxes[~self.evaluator.ignored(result.truth)])[:, 2:]
            height, width = result.size
            place = self.preprocessing.placement(height, width)
            out = np.array(self.preprocessing.image_size[::-1])
            boxes.append(sides * np.array([place.width / width, place.height / height]) / out)
            photos.append(np.sqrt(sides.prod(1)))
            shorter.append(np.full(len(sides), min(height, width), float))
        reach = anchor_advice(np.concatenate(boxes), np.concatenate(photos), np.concatenate(shorter), self._anchors)
        return [*reach, *advice(self._evaluated)]

    @property
    def _evaluated(self) -> Evaluated:
        """What the report tells of, made once for an evaluation: all detections are judged, which takes seconds."""
        if self._told is None:
            judged, names = self._judge(), self.evaluator.names
            least = recommended(judged, names)
            kept = self._judge(np.array(least)) if least else None
            self._told = Evaluated(names, judged, kept, self.evaluator.per_class(), least)
        return self._told

    def draw_batch(self, batch: Batch) -> list[NDArray[np.uint8]]:
        """See `HeadTraining.draw_batch`: with the boxes that the loss sees."""
        photos = batch.images.permute(0, 2, 3, 1).numpy()
        if batch.boxes is None:
            return list(photos)
        pictures = []
        for photo, all_boxes, all_labels, all_kinds, _ in zip(photos, *batch.boxes, strict=True):
            there = all_kinds > 0
            height, width = photo.shape[:2]
            boxes = all_boxes[there].numpy() * np.array([width, height] * 2, np.float32)
            labels, kinds = all_labels[there].numpy(), all_kinds[there].tolist()
            texts = [
                self.evaluator.names[label] + ("", "", " (crowd)", " (difficult)")[kind]
                for label, kind in zip(labels, kinds, strict=True)
            ]
            pictures.append(draw.draw_boxes(photo, boxes, labels, texts, class_colors(self.evaluator.names)))
        return pictures
