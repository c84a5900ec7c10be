"""Classification as a Lightning module."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import v2

from mnv2vision import visualize
from mnv2vision.atomic import atomic_path
from mnv2vision.classification.evaluator import ClassificationEvaluator, ClassificationTargets
from mnv2vision.classification.loss import classification_loss
from mnv2vision.classification.model import Classifier
from mnv2vision.data.batch import Batch, Transform
from mnv2vision.data.sample import SampleSource
from mnv2vision.data.sources import Relabelled
from mnv2vision.data.transforms import ClassificationAugmentation
from mnv2vision.errors import ConfigError
from mnv2vision.preprocessing import Preprocessing
from mnv2vision.tasks.base import Task, TrainingOptions, find_classes

EXAMPLES = 24
_MIXING = ("mixup", "cutmix")  # of the section `augmentation`, but done with whole batches on the device


class ClassificationTask(Task):
    """Cross entropy, mixup and CutMix; top-1 and top-5."""

    monitor = "top1"
    target = "label"
    evaluator: ClassificationEvaluator

    def __init__(
        self,
        model: Classifier,
        options: TrainingOptions | None = None,
        *,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
    ) -> None:
        """Set up training or evaluation of a classifier.

        Args:
            model: The model.
            options: See `TrainingOptions`; only evaluation is possible without.
            label_smoothing: See `classification_loss`.
            mixup: Alpha of mixup's Beta distribution, 0 for none (arXiv 1710.09412).
            cutmix: Likewise for CutMix (arXiv 1905.04899); with both, each batch takes one of them.
        """
        super().__init__(model, ClassificationEvaluator(model.num_classes, model.names), options)
        if not 0 <= label_smoothing <= 1:
            raise ConfigError(f"loss.label_smoothing={label_smoothing} is not in 0..1")
        self.label_smoothing = label_smoothing
        mixers: list[Any] = []
        if mixup > 0:
            mixers.append(v2.MixUp(alpha=mixup, num_classes=model.num_classes))
        if cutmix > 0:
            mixers.append(v2.CutMix(alpha=cutmix, num_classes=model.num_classes))
        self._mix = v2.RandomChoice(mixers) if mixers else None
        self._examples: list[tuple[NDArray[np.uint8], int, int]] = []

    @classmethod
    def create(
        cls, model: Any, source: SampleSource, options: TrainingOptions | None, config: Mapping[str, Any]
    ) -> Self:
        """See `Task.create`."""
        mixing = {key: value for key, value in config.get("augmentation", {}).items() if key in _MIXING}
        return cls(model, options, **config.get("loss", {}), **mixing)

    @classmethod
    def augmentation(cls, config: Mapping[str, Any], preprocessing: Preprocessing) -> Transform:
        """See `Task.augmentation`."""
        options = {key: value for key, value in config.items() if key not in _MIXING}
        return ClassificationAugmentation(preprocessing, **options)

    @classmethod
    def adapt(cls, source: SampleSource, model: Any) -> SampleSource:
        """With labels that are the model's; an ImageNet model can be judged on some of its classes."""
        labels = find_classes(source, model)
        return source if labels is None else Relabelled(source, labels, model.names)

    def draw_batch(self, batch: Batch) -> list[NDArray[np.uint8]]:
        """See `Task.draw_batch`: before mixup and CutMix, with the class below."""
        assert batch.labels is not None
        photos = batch.images.permute(0, 2, 3, 1).numpy()
        names = [self.evaluator.names[label] for label in batch.labels.tolist()]
        return [np.asarray(visualize.caption(photo, [name])) for photo, name in zip(photos, names, strict=True)]

    def loss(self, images: Tensor, batch: Batch) -> Tensor:
        """Cross entropy of the batch, mixed or not."""
        assert batch.labels is not None
        targets = batch.labels
        if self._mix is not None:
            images, targets = self._mix(images, targets)
        return classification_loss(self(images), targets, self.label_smoothing)

    def on_validation_epoch_start(self) -> None:
        """Start counting, and collecting examples."""
        super().on_validation_epoch_start()
        self._examples = []

    def evaluate(self, images: Tensor, batch: Batch) -> None:
        """Count the hits, and keep the first images as examples."""
        assert batch.labels is not None
        logits = self(images)
        self.evaluator.update(logits, ClassificationTargets(batch.labels, batch.image_ids))
        wanted = EXAMPLES - len(self._examples)
        if wanted > 0:
            photos = batch.images[:wanted].permute(0, 2, 3, 1).cpu().numpy()
            guesses = logits[:wanted].argmax(1).tolist()
            self._examples.extend(zip(photos, guesses, batch.labels[:wanted].tolist(), strict=True))

    def write_report(self, folder: Path) -> None:
        """`per_class.csv`, `most_confused.csv`, `confusion.png` and `predictions.png`."""
        for name, rows in (
            ("per_class.csv", self.evaluator.per_class()),
            ("most_confused.csv", self.evaluator.most_confused()),
        ):
            with atomic_path(folder / name) as temporary, temporary.open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(rows[0]._fields if rows else ["empty"])
                writer.writerows(rows)
        counts = self.evaluator.confusion
        seen = np.flatnonzero(counts.sum(0) + counts.sum(1))
        names = [self.evaluator.names[label] for label in seen]
        visualize.confusion_matrix(counts[np.ix_(seen, seen)], names, folder / "confusion.png")
        if self._examples:
            photos, guesses, labels = zip(*self._examples, strict=True)
            names = list(self.evaluator.names)
            titles = [
                names[guess] if guess == label else f"✗ {names[guess]} ({names[label]})"
                for guess, label in zip(guesses, labels, strict=True)
            ]
            visualize.contact_sheet(photos, titles, folder / "predictions.png")
