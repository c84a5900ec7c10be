"""A segmentation model in training and evaluation."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mnv2vision.common import draw
from mnv2vision.common.colors import background_label, class_colors
from mnv2vision.common.html import Section
from mnv2vision.common.tables import write_rows
from mnv2vision.common.worst import Worst
from mnv2vision.contracts import (
    HeadInUse,
    HeadSettings,
    HeadTraining,
    InferenceOptions,
    Lesson,
    Network,
    Options,
    Raw,
    find_classes,
    no_loss,
)
from mnv2vision.data.augment.segmentation import SegmentationAugmentation
from mnv2vision.data.batch import Batch, Transform
from mnv2vision.data.sample import IGNORE_INDEX, SampleSource, names_of
from mnv2vision.errors import ConfigError
from mnv2vision.preprocessing import Preprocessing
from mnv2vision.segmentation.evaluator import SegmentationEvaluator
from mnv2vision.segmentation.head import SegmentationHead
from mnv2vision.segmentation.inference import scores_by_pixel, to_masks
from mnv2vision.segmentation.loss import segmentation_loss
from mnv2vision.segmentation.report import SECTIONS, advice

EXAMPLES = 24
MISTAKES = 9


class SegmentationTraining(HeadTraining):
    """Cross entropy per pixel; mean IoU at the photos' own sizes."""

    monitor = "mIoU"
    evaluator: SegmentationEvaluator

    def __init__(
        self,
        head: HeadInUse,
        evaluator: SegmentationEvaluator,
        *,
        classes: Sequence[int] | None = None,
        inference: InferenceOptions | None = None,
        class_weights: Sequence[float] | None = None,
        hardest: float = 1.0,
    ) -> None:
        """Set it up.

        Args:
            head: Of a segmentation model.
            evaluator: For the data set's classes.
            classes: The model's labels of the data set's classes, where they differ from its own.
            inference: Of evaluation.
            class_weights: See `segmentation_loss`.
            hardest: See `segmentation_loss`.
        """
        assert isinstance(head.head, SegmentationHead)
        self.head, self.preprocessing, self.evaluator = head.head, head.preprocessing, evaluator
        if class_weights is not None and len(class_weights) != head.config.num_classes:
            raise ConfigError(
                f"loss.class_weights has {len(class_weights)} weights for {head.config.num_classes} classes"
            )
        if not 0 < hardest <= 1:
            raise ConfigError(f"loss.hardest={hardest} must be above 0 and at most 1")
        self.inference = inference or InferenceOptions()
        self.class_weights, self.hardest = class_weights, hardest
        self._classes = None if classes is None else torch.tensor(classes)
        self._examples: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]] = []
        self._mistakes: Worst[tuple[NDArray[np.uint8], NDArray[np.uint8]]] = Worst(MISTAKES)

    @classmethod
    def create(cls, head: HeadInUse, source: SampleSource, settings: HeadSettings) -> Self:
        """See `HeadTraining.create`."""
        inference: dict[str, Any] = dict(settings.inference)
        loss: dict[str, Any] = dict(settings.loss)
        names = names_of(source, "mask")
        evaluator, classes = SegmentationEvaluator(names), find_classes(names, head.config)
        return cls(head, evaluator, classes=classes, inference=InferenceOptions(**inference), **loss)

    @classmethod
    def augmentation(cls, options: Options, preprocessing: Preprocessing) -> Transform:
        """See `HeadTraining.augmentation`."""
        own: dict[str, Any] = dict(options)
        return SegmentationAugmentation(preprocessing, **own)

    def loss(self, raw: Raw, batch: Batch) -> dict[str, Tensor]:
        """Cross entropy of the pixels that count."""
        assert isinstance(raw, Tensor)
        if batch.masks is None:
            return {"loss": no_loss(raw)}
        logits = self.head.to_pixels(raw.float(), batch.masks.shape[-2:])
        loss = segmentation_loss(
            logits, batch.masks, class_weights=self.class_weights, hardest=self.hardest, unknown=batch.unknown
        )
        return {"loss": loss}

    def imitate(self, raw: Raw, teacher: Raw, lesson: Lesson) -> Tensor:
        """See `HeadTraining.imitate`: of the classes' probabilities, by cell; where a mask says void, none."""
        assert isinstance(raw, Tensor)
        assert isinstance(teacher, Tensor)
        size, batch = raw.shape[-2:], lesson.batch
        if teacher.shape[-2:] != size:  # of another output stride
            teacher = F.interpolate(teacher.float(), size, mode="bilinear", align_corners=False)
        counted = lesson.wanted[:, None, None].expand(-1, *size)
        if batch.masks is not None:
            void = F.interpolate(batch.masks[:, None], size, mode="nearest")[:, 0] == IGNORE_INDEX
            counted = counted & ~(void & batch.has("mask")[:, None, None])
        student, teacher = (logits.movedim(1, -1).flatten(0, 2) for logits in lesson.common(raw, teacher, 1))
        return lesson.distance.mean(student, teacher, counted.flatten().float())

    def start(self) -> None:
        """Start counting, and collecting examples."""
        super().start()
        self._examples = []
        self._mistakes = Worst(MISTAKES)

    def evaluate(self, network: Network, images: Tensor, batch: Batch) -> None:
        """Count pixels at the photos' own sizes, and keep the first images as examples."""
        scores = scores_by_pixel(self.head.by_pixel(network), images, self.inference)
        if self._classes is not None:
            scores = scores[:, self._classes.to(scores.device)]
        sizes = [sample.size for sample in batch.truth]
        found = [mask.cpu().numpy() for mask in to_masks(scores, self.preprocessing, sizes)]
        self.evaluator.update(found, batch.truth)

        def example(i: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
            place = self.preprocessing.placement(*sizes[i])
            shown = (slice(place.height), slice(place.width))  # without the padding, of which nothing is said
            photo, mask = batch.images[i].permute(1, 2, 0)[shown].cpu().numpy().copy(), batch.truth[i].mask
            labels = scores[i].argmax(0)[shown].byte().cpu().numpy()
            return (photo, labels) if mask is None else _beside(photo, labels, mask)

        self._examples += [example(i) for i in range(min(EXAMPLES - len(self._examples), len(sizes)))]
        for i, sample in enumerate(batch.truth):
            if sample.mask is not None:
                self._mistakes.offer(1 - self.evaluator.score(sample.image_id), partial(example, i))

    def write_report(self, folder: Path) -> None:
        """Tables and pictures, see docs/evaluation.md."""
        write_rows(folder / "per_class.csv", self.evaluator.per_class())
        write_rows(folder / "worst_images.csv", self.evaluator.worst())
        draw.confusion_of_seen(self.evaluator.confusion, self.evaluator.names, folder / "confusion.png")
        if self._examples:
            draw.overlay_sheet(self._examples, self.evaluator.names, folder / "predictions.png", columns=3)
        (folder / "mistakes.png").unlink(missing_ok=True)  # of an earlier evaluation
        if mistakes := self._mistakes.items():
            draw.overlay_sheet(mistakes, self.evaluator.names, folder / "mistakes.png", columns=3)

    def sections(self, folder: Path) -> list[Section]:
        """See `HeadTraining.sections`."""
        return [section(self.evaluator, folder) for section in SECTIONS]

    def advice(self) -> list[str]:
        """See `HeadTraining.advice`."""
        return advice(self.evaluator)

    def draw_batch(self, batch: Batch) -> list[NDArray[np.uint8]]:
        """See `HeadTraining.draw_batch`: masks over the images, what is ignored in white."""
        photos = batch.images.permute(0, 2, 3, 1).numpy()
        if batch.masks is None:
            return list(photos)
        colors, background = class_colors(self.evaluator.names), background_label(self.evaluator.names)
        colors[IGNORE_INDEX] = 255
        return [
            draw.overlay(photo, mask, colors, background=background)
            for photo, mask in zip(photos, batch.masks.numpy(), strict=True)
        ]


def _beside(
    photo: NDArray[np.uint8], found: NDArray[np.uint8], truth: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A photo twice, with its label maps: what was annotated on the left, void as it was predicted, and the other."""
    small = np.asarray(Image.fromarray(truth).resize((photo.shape[1], photo.shape[0]), Image.Resampling.NEAREST))
    small = np.where(small == IGNORE_INDEX, found, small)
    return np.concatenate([photo, photo], 1), np.concatenate([small, found], 1)
