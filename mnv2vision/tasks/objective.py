"""The loss of a training step: of one head, or of several that learn from different images."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mnv2vision.contracts import HeadTraining, Lesson, Raw, no_loss
from mnv2vision.data.batch import Batch
from mnv2vision.models.shared_pass import Run
from mnv2vision.models.tasks import TASKS
from mnv2vision.models.vision_model import VisionModel
from mnv2vision.tasks.options import Part, TrainingOptions
from mnv2vision.tasks.teachers import Teacher
from mnv2vision.training.balance import Balance, cosines
from mnv2vision.training.distillation import Divergence


@dataclass(frozen=True)
class StepLoss:
    """Of a batch.

    Attributes:
        total: To descend on.
        heads: The loss of each head, of several.
        parts: What the losses are made of, and what they were multiplied with, for the log.
        cosines: Between the heads' gradients, where they were compared.
        labelled: How many images each of several heads learned from.
        taught: Whether a teacher was asked, by head.
    """

    total: Tensor
    heads: dict[str, Tensor] = field(default_factory=dict)
    parts: dict[str, Tensor] = field(default_factory=dict)
    cosines: dict[str, Tensor] = field(default_factory=dict)
    labelled: dict[str, Tensor] = field(default_factory=dict)
    taught: dict[str, bool] = field(default_factory=dict)


class Objective:
    """Makes one loss of all heads' losses.

    Attributes:
        heads: Objectives by head.
        balance: Weighs them.
        adapters: What compares features with teachers'; they learn, too.
    """

    def __init__(
        self,
        model: VisionModel,
        parts: Sequence[Part],
        options: TrainingOptions,
        teachers: Mapping[str, Teacher] | None = None,
    ) -> None:
        """Set it up.

        Args:
            model: With the heads.
            parts: The data sets.
            options: Weights, and how to balance.
            teachers: Of heads.
        """
        found = {name: head for part in reversed(parts) for name, head in part.heads.items()}
        self.heads: dict[str, HeadTraining] = {name: found[name] for name in model.heads if name in found}
        self.balance = Balance({name: options.weights.get(name, 1.0) for name in self.heads}, options.balance)
        self._targets = {name: TASKS[model.config.heads[name].task].target for name in self.heads}
        several = len(parts) > 1 or not all(part.learned for part in parts)
        self._views = {name: _view(model, parts, name) for name in self.heads} if several else {}
        self._lacking = {name for name, (serving, _) in self._views.items() if not bool(serving.all())}
        self._model, self._teachers = model, dict(teachers or {})
        self._distillation = options.distillation
        self._distance = Divergence(options.distillation.loss, options.distillation.temperature)
        taps = options.distillation.features
        self.adapters = nn.ModuleDict(
            {name: teacher.compare_features(model.backbone, taps) for name, teacher in self._teachers.items() if taps}
        )
        self._compared = len(self.heads) > 1 and not options.compile

    def seen(self, name: str, batch: Batch) -> Batch:
        """A batch as a head sees it: images of data sets that do not serve it have no labels."""
        if not self._views:
            return batch
        serving, unknown = self._views[name]
        if serving.device != (device := batch.images.device):
            serving, unknown = serving.to(device), None if unknown is None else unknown.to(device)
            self._views[name] = serving, unknown
        return batch.of_head(serving, unknown)

    def __call__(self, run: Run, batch: Batch, compare: bool = False) -> StepLoss:
        """The loss of a batch.

        Args:
            run: The model.
            batch: Images and targets.
            compare: Whether to compare the heads' gradients.
        """
        images, views = batch.images, {name: self.seen(name, batch) for name in self.heads}
        for name, head in self.heads.items():
            # Of several heads, no image is mixed whose other targets would stay as they are.
            if len(self.heads) == 1 or self._targets[name] not in batch.lacking:
                images = head.mix(images, views[name])
        weighed = self._compared and (compare or self.balance.mode == "gradient")
        raw, seen = self._run(run, self._model.preprocessing.normalize(images), weighed or len(self.adapters) > 0)
        features = seen[self._model.backbone.shallowest_tap] if weighed else None
        losses: dict[str, Tensor] = {}
        parts: dict[str, Tensor] = {}
        labelled: dict[str, Tensor] = {}
        taught: dict[str, bool] = {}
        for name, head in self.heads.items():
            own = raw[name] if isinstance(raw, dict) else raw
            view = views[name]
            found = {"labels" if part == "loss" else part: value for part, value in head.loss(own, view).items()}
            has_labels = view.has(self._targets[name])
            labelled[name] = has_labels.sum().float()
            if name in self._teachers:
                taught[name] = self._is_taught(name, batch)
                if taught[name]:
                    found["taught"] = self._imitation(name, own, images, view, ~has_labels, seen)
                else:  # no forward pass of the teacher's, but gradients, which DDP expects
                    adapters = self.adapters[name].parameters() if name in self.adapters else ()
                    found["taught"] = no_loss(labelled[name], *adapters)
                labelled[name] = torch.full_like(labelled[name], len(has_labels))  # it learns from all
            losses[name] = torch.stack(list(found.values())).sum()
            if len(found) > 1:
                parts |= {f"{name}/{part}" if len(self.heads) > 1 else part: value for part, value in found.items()}
        if len(self.heads) == 1:
            return StepLoss(next(iter(losses.values())), parts=parts, taught=taught)
        losses = over_all_processes(losses, labelled)
        total: Tensor = self.balance(losses, features)
        if self.balance.mode != "fixed":
            parts |= {f"{name}/weight": factor for name, factor in self.balance.factors.items()}
        compared = cosines(losses, features) if compare and features is not None else {}
        return StepLoss(total, losses, parts, compared, labelled, taught)

    def _is_taught(self, name: str, batch: Batch) -> bool:
        """Whether a head's teacher has something to say of a batch."""
        return self._distillation.images == "all" or name in self._lacking or self._targets[name] in batch.lacking

    def _imitation(
        self, name: str, raw: Raw, images: Tensor, view: Batch, unlabelled: Tensor, seen: Mapping[str, Tensor]
    ) -> Tensor:
        """What a head learns from its teacher."""
        teacher, head = self._teachers[name], self.heads[name]
        answer, features = teacher(head, images)
        wanted = torch.ones_like(unlabelled) if self._distillation.images == "all" else unlabelled
        loss = head.imitate(raw, answer, Lesson(self._distance, wanted, view, teacher.classes))
        if teacher.features is not None:
            loss = loss + teacher.features(seen, features, wanted)
        return self._distillation.weight * loss

    @torch.no_grad()
    def check_teachers(self) -> None:
        """Let each teacher speak of a blank image of the student's size, and say so where that is not its own.

        Raises:
            ConfigError: For a teacher whose answers cannot be compared, such as those of a detector with other anchors.
        """
        if not self._teachers:
            return
        model = copy.deepcopy(self._model).eval()  # whose modes stay as they are
        images = torch.zeros(1, 3, *model.preprocessing.image_size, dtype=torch.uint8)
        raw = model(model.preprocessing.normalize(images))
        for name, teacher in self._teachers.items():
            if model.config.heads[name].task != "classification":  # whose teachers are asked at their own size
                teacher.tell_size(model.preprocessing.image_size)
            lesson = Lesson(self._distance, torch.ones(1, dtype=torch.bool), Batch(images, [0]), teacher.classes)
            own = raw[name] if isinstance(raw, dict) else raw
            self.heads[name].imitate(own, teacher.answer(self.heads[name], images), lesson)

    def _run(self, run: Run, images: Tensor, watched: bool) -> tuple[Raw | dict[str, Raw], dict[str, Tensor]]:
        """The raw output, and the backbone's features where they are watched."""
        if not watched:
            return run(images), {}
        seen: dict[str, Tensor] = {}
        hook = self._model.backbone.register_forward_hook(lambda _, __, features: seen.update(features))
        try:
            return run(images), seen
        finally:
            hook.remove()


def over_all_processes(losses: dict[str, Tensor], labelled: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Losses whose mean over the processes is the mean over all labelled images, however they are spread.

    Args:
        losses: Means over the labelled images here, by head.
        labelled: How many these are.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return losses
    here = torch.stack(list(labelled.values()))
    everywhere = here.clone()
    dist.all_reduce(everywhere)
    factors = here * dist.get_world_size() / everywhere.clamp(min=1)
    return {name: loss * factor for (name, loss), factor in zip(losses.items(), factors, strict=True)}


def _view(model: VisionModel, parts: Sequence[Part], name: str) -> tuple[Tensor, Tensor | None]:
    """Of each data set, whether it serves a head, and which of the head's classes it does not annotate."""
    serving = torch.tensor([name in part.heads and part.learned for part in parts])
    count = model.config.heads[name].num_classes
    unknown = torch.tensor([list(part.unknown.get(name, [False] * count)) for part in parts])
    return serving, unknown if bool(unknown.any()) else None
