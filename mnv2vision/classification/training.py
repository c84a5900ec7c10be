"""A classifier in training and evaluation."""

from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from mnv2vision.classification.evaluator import ClassificationEvaluator
from mnv2vision.classification.loss import classification_loss
from mnv2vision.classification.report import SECTIONS, advice
from mnv2vision.common import draw, fonts
from mnv2vision.common.html import Section
from mnv2vision.common.tables import write_rows
from mnv2vision.common.worst import Worst
from mnv2vision.contracts import (
    HeadConfig,
    HeadInUse,
    HeadSettings,
    HeadTraining,
    Lesson,
    Network,
    Options,
    Raw,
    Recommended,
    find_classes,
    no_loss,
)
from mnv2vision.data.augment.classification import ClassificationAugmentation
from mnv2vision.data.batch import Batch, Transform
from mnv2vision.data.mixture import Labels, Relabelled
from mnv2vision.data.sample import NO_LABEL, SampleSource
from mnv2vision.errors import ConfigError
from mnv2vision.preprocessing import Preprocessing

EXAMPLES = 24
MISTAKES = 12
_MIXING = ("mixup", "cutmix")  # of the section `augmentation`, but done with whole batches on the device


class ClassificationTraining(HeadTraining):
    """Cross entropy, mixup and CutMix; top-1 and top-5."""

    monitor = "top1"
    evaluator: ClassificationEvaluator

    def __init__(
        self, head: HeadInUse, *, images: int = 0, label_smoothing: float = 0.0, mixup: float = 0.0, cutmix: float = 0.0
    ) -> None:
        """Set it up.

        Args:
            head: A classifier's.
            images: How many are evaluated, about.
            label_smoothing: See `classification_loss`.
            mixup: Alpha of mixup's Beta distribution, 0 for none (arXiv 1710.09412).
            cutmix: Likewise for CutMix (arXiv 1905.04899); with both, each batch takes one of them.
        """
        self.head, num_classes = head, head.config.num_classes
        self.evaluator = ClassificationEvaluator(num_classes, head.config.names, images)
        if not 0 <= label_smoothing <= 1:
            raise ConfigError(f"loss.label_smoothing={label_smoothing} is not in 0..1")
        self.label_smoothing = label_smoothing
        mixers: list[Any] = []
        if mixup > 0:
            mixers.append(v2.MixUp(alpha=mixup, num_classes=num_classes))
        if cutmix > 0:
            mixers.append(v2.CutMix(alpha=cutmix, num_classes=num_classes))
        self._mix = v2.RandomChoice(mixers) if mixers else None
        self._mixed: Tensor | None = None
        self._examples: list[tuple[NDArray[np.uint8], int, int]] = []
        self._mistakes: Worst[tuple[NDArray[np.uint8], str]] = Worst(MISTAKES)

    @classmethod
    def create(cls, head: HeadInUse, source: SampleSource, settings: HeadSettings) -> Self:
        """See `HeadTraining.create`."""
        mixing = {key: value for key, value in settings.augmentation.items() if key in _MIXING}
        options: dict[str, Any] = {**settings.loss, **mixing}
        return cls(head, images=len(source), **options)

    @classmethod
    def augmentation(cls, options: Options, preprocessing: Preprocessing) -> Transform:
        """See `HeadTraining.augmentation`."""
        own: dict[str, Any] = {key: value for key, value in options.items() if key not in _MIXING}
        return ClassificationAugmentation(preprocessing, **own)

    @classmethod
    def adapt(cls, source: SampleSource, config: HeadConfig) -> SampleSource:
        """With labels that are the model's; an ImageNet model can be judged on some of its classes."""
        labels = find_classes(source.names, config)
        return source if labels is None else Relabelled(source, Labels(label=labels), config.names)

    def mix(self, images: Tensor, batch: Batch) -> Tensor:
        """See `HeadTraining.mix`; an image whose class is not known adds nothing to a target."""
        self._mixed = None
        if self._mix is not None:
            labels = torch.full((len(images),), NO_LABEL) if batch.labels is None else batch.labels
            known = F.one_hot(labels.to(images.device).clamp(min=0), self.head.config.num_classes).float()
            images, self._mixed = self._mix(images.float(), known * (labels != NO_LABEL).to(known)[:, None])
        return images

    def loss(self, raw: Raw, batch: Batch) -> dict[str, Tensor]:
        """Cross entropy of the images whose class is known, mixed or not."""
        assert isinstance(raw, Tensor)
        if batch.labels is None:
            return {"loss": no_loss(raw)}
        targets = batch.labels if self._mixed is None else self._mixed
        return {"loss": classification_loss(raw, targets, self.label_smoothing)}

    def ask(self, network: Network, preprocessing: Preprocessing, images: Tensor) -> Raw:
        """See `HeadTraining.ask`; at the teacher's own size, at which it knows best."""
        if images.shape[-2:] != preprocessing.image_size:
            images = v2.functional.resize(images, list(preprocessing.image_size), antialias=True)
        return network(preprocessing.normalize(images))

    def imitate(self, raw: Raw, teacher: Raw, lesson: Lesson) -> Tensor:
        """See `HeadTraining.imitate`: of the classes' probabilities."""
        assert isinstance(raw, Tensor)
        assert isinstance(teacher, Tensor)
        return lesson.distance.mean(*lesson.common(raw, teacher, 1), lesson.wanted.float())

    def start(self) -> None:
        """Start counting, and collecting examples."""
        super().start()
        self._examples = []
        self._mistakes = Worst(MISTAKES)

    def evaluate(self, network: Network, images: Tensor, batch: Batch) -> None:
        """Count the hits, and keep the first images as examples."""
        logits = network(images)
        assert isinstance(logits, Tensor)
        if batch.labels is None:
            return
        self.evaluator.update(logits, batch.truth)
        wanted = EXAMPLES - len(self._examples)
        if wanted > 0:
            photos = batch.images[:wanted].permute(0, 2, 3, 1).cpu().numpy()
            guesses = logits[:wanted].argmax(1).tolist()
            self._examples.extend(zip(photos, guesses, batch.labels[:wanted].tolist(), strict=True))
        self._keep_mistakes(logits, batch)

    def _keep_mistakes(self, logits: Tensor, batch: Batch) -> None:
        sure, guesses = logits.float().softmax(1).max(1)
        for i, (share, guess, sample) in enumerate(zip(sure.tolist(), guesses.tolist(), batch.truth, strict=True)):
            if sample.label is None or sample.label == guess:
                continue
            names = self.evaluator.names
            title = f"✗ {names[guess]} {share:.0%} ({names[sample.label]})"
            self._mistakes.offer(share, partial(_picture, batch.images[i], title))

    def recommended(self) -> Recommended:
        """See `HeadTraining.recommended`: a temperature."""
        return Recommended(temperature=self.head.config.temperature * self.evaluator.trusted_temperature())

    def write_report(self, folder: Path) -> None:
        """Tables and pictures, see docs/evaluation.md."""
        write_rows(folder / "per_class.csv", self.evaluator.per_class())
        write_rows(folder / "most_confused.csv", self.evaluator.most_confused())
        draw.confusion_of_seen(self.evaluator.confusion, self.evaluator.names, folder / "confusion.png")
        if self._examples:
            legible = fonts.legible(self.evaluator.names)
            photos, guesses, labels = zip(*self._examples, strict=True)
            titles = [
                legible[guess] if label in (guess, NO_LABEL) else f"✗ {legible[guess]} ({legible[label]})"
                for guess, label in zip(guesses, labels, strict=True)
            ]
            draw.contact_sheet(photos, titles, folder / "predictions.png")
        draw.titled_sheet(self._mistakes.items(), folder / "mistakes.png")

    def sections(self, folder: Path) -> list[Section]:
        """See `HeadTraining.sections`."""
        return [section(self.evaluator, folder) for section in SECTIONS]

    def advice(self) -> list[str]:
        """See `HeadTraining.advice`."""
        return advice(self.evaluator)

    def draw_batch(self, batch: Batch) -> list[NDArray[np.uint8]]:
        """See `HeadTraining.draw_batch`: before mixup and CutMix, with the class below."""
        photos = batch.images.permute(0, 2, 3, 1).numpy()
        legible = fonts.legible(self.evaluator.names)
        labels = [NO_LABEL] * len(photos) if batch.labels is None else batch.labels.tolist()
        names = ["" if label == NO_LABEL else legible[label] for label in labels]
        return [np.asarray(draw.caption(photo, [name])) for photo, name in zip(photos, names, strict=True)]


def _picture(image: Tensor, title: str) -> tuple[NDArray[np.uint8], str]:
    return image.permute(1, 2, 0).cpu().numpy().copy(), title
