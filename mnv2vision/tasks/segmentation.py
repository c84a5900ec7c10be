"""Segmentation as a Lightning module."""

import csv
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
from mnv2vision.data.sample import IGNORE_INDEX, SampleSource
from mnv2vision.data.segmentation_transforms import SegmentationAugmentation
from mnv2vision.errors import ConfigError
from mnv2vision.preprocessing import Preprocessing
from mnv2vision.segmentation.evaluator import SegmentationEvaluator
from mnv2vision.segmentation.inference import InferenceOptions, probabilities, to_masks
from mnv2vision.segmentation.loss import segmentation_loss
from mnv2vision.segmentation.model import DeepLabV3
from mnv2vision.tasks.base import Task, TrainingOptions, find_classes

EXAMPLES = 24


class SegmentationTask(Task):
    """Cross entropy per pixel; mean IoU at the photos' own sizes."""

    monitor = "mIoU"
    target = "mask"
    evaluator: SegmentationEvaluator
    model: DeepLabV3

    def __init__(
        self,
        model: DeepLabV3,
        evaluator: SegmentationEvaluator,
        options: TrainingOptions | None = None,
        *,
        classes: Sequence[int] | None = None,
        inference: InferenceOptions | None = None,
        class_weights: Sequence[float] | None = None,
        hardest: float = 1.0,
    ) -> None:
        """Set up training or evaluation of a segmentation model.

        Args:
            model: The model.
            evaluator: For the data set's classes.
            options: See `TrainingOptions`; only evaluation is possible without.
            classes: The model's labels of the data set's classes, where they differ from its own.
            inference: Of evaluation.
            class_weights: See `segmentation_loss`.
            hardest: See `segmentation_loss`.
        """
        super().__init__(model, evaluator, options)
        if class_weights is not None and len(class_weights) != model.num_classes:
            raise ConfigError(f"loss.class_weights has {len(class_weights)} weights for {model.num_classes} classes")
        if not 0 < hardest <= 1:
            raise ConfigError(f"loss.hardest={hardest} is no share above 0, up to 1")
        self.inference = inference or InferenceOptions()
        self.class_weights, self.hardest = class_weights, hardest
        self._classes = None if classes is None else torch.tensor(classes)
        self._examples: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]] = []

    @classmethod
    def create(
        cls, model: Any, source: SampleSource, options: TrainingOptions | None, config: Mapping[str, Any]
    ) -> Self:
        """See `Task.create`."""
        return cls(
            model,
            SegmentationEvaluator(source.names),
            options,
            classes=find_classes(source, model),
            inference=InferenceOptions(**config["inference"]) if "inference" in config else None,
            **config.get("loss", {}),
        )

    @classmethod
    def augmentation(cls, config: Mapping[str, Any], preprocessing: Preprocessing) -> Transform:
        """See `Task.augmentation`."""
        return SegmentationAugmentation(preprocessing, **config)

    def loss(self, images: Tensor, batch: Batch) -> Tensor:
        """Cross entropy of the pixels that count."""
        assert batch.masks is not None
        logits = self.model.to_pixels(self(images).float(), images.shape[-2:])
        return segmentation_loss(logits, batch.masks, class_weights=self.class_weights, hardest=self.hardest)

    def on_validation_epoch_start(self) -> None:
        """Start counting, and collecting examples."""
        super().on_validation_epoch_start()
        self._examples = []

    def evaluate(self, images: Tensor, batch: Batch) -> None:
        """Count pixels at the photos' own sizes, and keep the first images as examples."""
        scores = probabilities(self.model.pixel_logits, images, self.inference)
        if self._classes is not None:
            scores = scores[:, self._classes.to(scores.device)]
        sizes = [sample.size or (0, 0) for sample in batch.truth]
        found = [mask.cpu().numpy() for mask in to_masks(scores, self.model.preprocessing, sizes)]
        right = [sample.mask for sample in batch.truth]
        self.evaluator.update(found, right, batch.image_ids)  # type: ignore[arg-type]  # the data set offers masks
        for i in range(min(EXAMPLES - len(self._examples), len(sizes))):
            place = self.model.preprocessing.placement(*sizes[i])
            shown = (slice(place.height), slice(place.width))  # without the padding, of which nothing is said
            photo = batch.images[i].permute(1, 2, 0)[shown].cpu().numpy()
            self._examples.append((photo, scores[i].argmax(0)[shown].byte().cpu().numpy()))

    def write_report(self, folder: Path) -> None:
        """`per_class.csv`, `worst_images.csv`, `confusion.png` and `predictions.png` with a legend."""
        for name, rows in (("per_class.csv", self.evaluator.per_class()), ("worst_images.csv", self.evaluator.worst())):
            with atomic_path(folder / name) as temporary, temporary.open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(rows[0]._fields if rows else ["empty"])
                writer.writerows(rows)
        counts = self.evaluator.confusion
        seen = np.flatnonzero(counts.sum(0) + counts.sum(1))
        names = self.evaluator.names
        visualize.confusion_matrix(
            counts[np.ix_(seen, seen)], [names[label] for label in seen], folder / "confusion.png"
        )
        if self._examples:
            visualize.overlay_sheet(self._examples, names, folder / "predictions.png")

    def draw_batch(self, batch: Batch) -> list[NDArray[np.uint8]]:
        """See `Task.draw_batch`: masks over the images, what is ignored in white."""
        assert batch.masks is not None
        photos = batch.images.permute(0, 2, 3, 1).numpy()
        colors = visualize.palette(256)
        colors[IGNORE_INDEX] = 255
        return [visualize.overlay(photo, mask, colors) for photo, mask in zip(photos, batch.masks.numpy(), strict=True)]
