"""A head of a model measured beside its exported files: outputs, answers and metrics, on the same images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from mnv2vision.contracts import Evaluator, HeadInUse, HeadSettings, Network, Raw
from mnv2vision.data.batch import Batch
from mnv2vision.data.sample import SampleSource
from mnv2vision.deploy.bootstrap import interval, resampled
from mnv2vision.deploy.parity import Difference, differences, raw_output
from mnv2vision.deploy.report import Compared, HeadProof
from mnv2vision.inference.bundle import Bundle
from mnv2vision.inference.kinds import PREDICTIONS
from mnv2vision.inference.runtimes.base import Runtime
from mnv2vision.models.tasks import TASKS
from mnv2vision.models.vision_model import VisionModel
from mnv2vision.predictions.base import Exported, Prediction


@dataclass(frozen=True)
class Photos:
    """What heads are measured on.

    Attributes:
        words: What they are.
        batches: As evaluation has them.
        source: The annotated data set they are of; None where there is none.
        settings: Of its evaluation.
    """

    words: str
    batches: Sequence[Batch]
    source: SampleSource | None = None
    settings: HeadSettings = field(default_factory=HeadSettings)


class HeadCheck:
    """A head of a model, whose exported files are compared with it.

    Attributes:
        place: What the report has it under.
    """

    def __init__(self, model: VisionModel, name: str, photos: Photos, seed: int, place: str = "") -> None:
        """Compute what the model gives.

        Args:
            model: In inference mode, on the CPU.
            name: Of the head.
            photos: To measure on.
            seed: Of the bootstrap's draws.
            place: See `HeadCheck.place`; its name by default.
        """
        self.place = place or name
        self._name, self._photos, self._seed = name, photos, seed
        self._head: HeadInUse = dict(model.heads_in_use())[name]
        self._kind = TASKS[self._head.config.task]
        self._preprocessing = model.preprocessing
        self._ours = [self._own(model, batch) for batch in photos.batches]
        self._sizes = [[model.preprocessing.image_size] * len(batch.images) for batch in photos.batches]
        self._answers = self._own_answers()
        self.main = ""
        if photos.source is not None:
            self._metrics, evaluator = self._evaluate(self._ours)
            self._draws = resampled(evaluator, seed)

    def prove(self, runtime: Runtime, bundle: Bundle) -> HeadProof:
        """Measure an exported file.

        Args:
            runtime: It, ready to run.
            bundle: It, described.
        """
        config = self._head.config
        tensors = [runtime.run(_pixels(batch)) for batch in self._photos.batches]
        outputs: dict[str, Difference] = {}
        metrics = {}
        theirs = [raw_output(bundle, self._name, of_batch) for of_batch in tensors] if bundle.post == "raw" else []
        if theirs:
            outputs = differences(config.task, zip(self._ours, theirs, strict=True))
        pairs = zip(self._answers, self._decode(tensors, bundle), strict=True)
        agreement = PREDICTIONS[config.task].agreement
        same, of = np.sum([agreement(ours, answer) for ours, answer in pairs], axis=0)
        if theirs and self._photos.source is not None:
            found, evaluator = self._evaluate(theirs)
            draws = resampled(evaluator, self._seed)
            metrics = {
                name: Compared(self._metrics[name], found[name], *interval(self._draws[name], draws[name]))
                for name in draws  # without what is fitted to the images, a classifier's calibration
            }
        share = float(same / of) if of else float("nan")
        return HeadProof(config.task, self._photos.words, outputs, share, metrics, self.main if metrics else "")

    def drop(self, runtime: Runtime, bundle: Bundle) -> float:
        """Points of the main metric that an exported file loses; 0 without annotated images."""
        if self._photos.source is None:
            return 0.0
        tensors = (runtime.run(_pixels(batch)) for batch in self._photos.batches)
        found, _ = self._evaluate([raw_output(bundle, self._name, of_batch) for of_batch in tensors])
        return 100 * (self._metrics[self.main] - found[self.main])

    def _own(self, model: VisionModel, batch: Batch) -> Raw:
        with torch.inference_mode():
            raw = model(model.preprocessing.normalize(batch.images))
        chosen: Raw = raw[self._name] if isinstance(raw, dict) else raw
        return chosen

    @torch.inference_mode()
    def _own_answers(self) -> list[Prediction]:
        """What the model says of each image, at the network's size."""
        found: list[Prediction] = []
        decoder = self._kind.decoder(self._head)
        for raw, batch, sizes in zip(self._ours, self._photos.batches, self._sizes, strict=True):
            found.extend(decoder(_gives(raw), batch.images, sizes))
        return found

    def _decode(self, tensors: Sequence[Mapping[str, NDArray[np.float32]]], bundle: Bundle) -> list[Prediction]:
        """What a file's outputs say, decoded as its users do."""
        found: list[Prediction] = []
        spec = bundle.heads[self._name]
        decoder = PREDICTIONS[spec.task].arrays(Exported(spec.names, spec.parameters, self._preprocessing))
        for of_batch, sizes in zip(tensors, self._sizes, strict=True):
            found.extend(decoder({name: of_batch[tensor] for name, tensor in spec.outputs.items()}, sizes))
        return found

    @torch.inference_mode()
    def _evaluate(self, raws: Sequence[Raw]) -> tuple[dict[str, float], Evaluator]:
        """Metrics of the raw outputs, by the data set's evaluation."""
        assert self._photos.source is not None
        training = self._kind.training().create(self._head, self._photos.source, self._photos.settings)
        self.main = training.monitor
        training.start()
        for raw, batch in zip(raws, self._photos.batches, strict=True):
            normalized = self._preprocessing.normalize(batch.images)
            training.evaluate(_gives(raw), normalized, batch)
        metrics = training.evaluator.compute()
        known = {name: float("nan") if value == -1 else value for name, value in metrics.items()}
        return known, training.evaluator


def _gives(raw: Raw) -> Network:
    return lambda images: raw


def _pixels(batch: Batch) -> NDArray[np.uint8]:
    return np.ascontiguousarray(batch.images.permute(0, 2, 3, 1).numpy())
