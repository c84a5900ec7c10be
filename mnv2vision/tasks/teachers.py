"""Models that teach a head what their own would answer."""

import logging
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mnv2vision.backbones import Backbone, fold_batch_norm
from mnv2vision.backbones.packing import pack_convolutions
from mnv2vision.contracts import HeadConfig, HeadInUse, HeadTraining, Raw, class_names, find_classes
from mnv2vision.errors import ConfigError
from mnv2vision.models.vision_model import VisionModel
from mnv2vision.preprocessing import Preprocessing
from mnv2vision.tasks.options import Distillation
from mnv2vision.tasks.teacher_cache import TeacherCache, by_image, of_batch
from mnv2vision.training.distillation import FeatureImitation

log = logging.getLogger(__name__)


class TeacherModel(NamedTuple):
    """A model that can teach, whoever made it.

    Attributes:
        source: Its name, for messages.
        network: From normalised images (N, 3, H, W) to the raw output of its only head.
        head: That head.
        preprocessing: How it wants its images.
        exported: The digest of the file that the network runs, if it does; layers of its own are then of no use.
    """

    source: str
    network: nn.Module
    head: HeadConfig
    preprocessing: Preprocessing
    exported: str = ""


class Teacher:
    """A model, in inference mode, that sees the student's own view of an image.

    Attributes:
        classes: The common classes, see `Lesson.classes`.
        features: What compares its features with the student's, where that is wanted.
    """

    def __init__(
        self, model: TeacherModel, student: HeadInUse, options: Distillation | None = None, compiled: bool = False
    ) -> None:
        """Match the classes.

        Args:
            model: The teacher.
            student: The head that learns.
            options: See `Distillation`.
            compiled: Whether to compile its forward pass.

        Raises:
            ConfigError: For a teacher that knows none of the head's classes, or scores them otherwise.
        """
        options = options or Distillation()
        self._source = model.source
        self._network, self._preprocessing = model.network.eval().requires_grad_(False), model.preprocessing
        self._compiled, self._batch_statistics = compiled, options.batch_statistics
        self._device: torch.device | None = None
        self._seen: dict[str, Tensor] = {}
        self.features: FeatureImitation | None = None
        if options.batch_statistics and model.exported:
            raise ConfigError(f"distill.batch_statistics: {model.source} is exported, with its own statistics")
        self._cache: TeacherCache | None = None
        if options.cache is not None:
            if options.features or options.batch_statistics:
                raise ConfigError("distill.cache: keeps answers that depend on one image, without features")
            weights = {} if model.exported else model.network.state_dict()
            structure = getattr(model.network, "config", model.source)
            about = f"{model.exported} {structure} {model.preprocessing} {model.head}"
            self._cache = TeacherCache(options.cache, weights, about)
        self.classes = _common_classes(model, student.config)
        mine, theirs = (getattr(head, "scores", None) for head in (student.head, getattr(model.network, "head", None)))
        if mine and theirs and mine != theirs:
            raise ConfigError(f"{model.source}: scores by {theirs}, the head by {mine}: give model.scores={theirs}")

    def __deepcopy__(self, memo: dict[int, object]) -> "Teacher":
        """Itself: averaged copies of a task never ask it."""
        return self

    def tell_size(self, size: tuple[int, int]) -> None:
        """Say what it was made for, where it is asked at another size: DeepLab, of 0.69 mIoU at 513, has 0.22 at 193.

        Args:
            size: Height and width of the images that it is asked of.
        """
        if (own := self._preprocessing.image_size) != size:
            given, wanted = ("x".join(map(str, sides)) for sides in (size, own))
            log.info(
                "%s: was made for %s pixels and is asked at %s, where it may know less; mnv2vision eval checkpoint=%s"
                " dataset=… model.image_size=%s tells how much",
                *(self._source, wanted, given, self._source, list(size) if len(set(size)) > 1 else size[0]),
            )

    def compare_features(self, student: Backbone, taps: tuple[str, ...]) -> FeatureImitation:
        """Compare features, too.

        Args:
            student: The backbone that learns.
            taps: Of both backbones.

        Raises:
            ConfigError: For a tap that one of them lacks, or a teacher that is not one of this package's models.
        """
        if type(self._network) is not VisionModel:
            raise ConfigError("distill.features: of models of mnv2vision alone, not of exported or other ones")
        backbone = self._network.backbone
        self.features = FeatureImitation(student, backbone, taps)
        return self.features

    @torch.no_grad()
    def __call__(self, training: HeadTraining, images: Tensor) -> tuple[Raw, dict[str, Tensor]]:
        """The teacher's raw output, and its features if they are compared.

        Args:
            training: Of the head that learns.
            images: (N, 3, H, W) pixel values, as the student sees them.
        """
        if images.device != self._device:
            self._prepare(images.device)
        if self._cache is not None:
            return self._remembered(self._cache, training, images), {}
        raw = self.answer(training, images)
        features, self._seen = self._seen, {}
        return raw, features

    def answer(self, training: HeadTraining, images: Tensor) -> Raw:
        """The raw output, neither kept nor from the cache; arguments as of a call."""
        return training.ask(self._network, self._preprocessing, images)

    def _remembered(self, cache: TeacherCache, training: HeadTraining, images: Tensor) -> Raw:
        """The raw output, of images that were seen before from the cache."""
        keys = cache.keys(images)
        answers = cache.read(keys)
        if new := [index for index, key in enumerate(keys) if key not in answers]:
            raw = by_image(self.answer(training, images[new]))
            found = {keys[index]: answer for index, answer in zip(new, raw, strict=True)}
            cache.write(found)
            answers |= found
        return of_batch([answers[key] for key in keys], images.device)

    def _prepare(self, device: torch.device) -> None:
        """Move to where the images are, and make ready for a hundred passes an epoch."""
        self._device = device
        network = self._network
        if self._batch_statistics:
            _use_batch_statistics(network)
        elif type(network) is VisionModel:
            network = fold_batch_norm(network)
        network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        # Packed layers compute in float32.
        if device.type == "cpu" and type(network) is VisionModel and not torch.is_autocast_enabled("cpu"):
            pack_convolutions(network)
        if self.features is not None:
            network.backbone.register_forward_hook(lambda _, __, features: self._seen.update(features))
        self._network = torch.compile(network) if self._compiled else network  # type: ignore[assignment]
        if self.classes is not None:
            mine, theirs = self.classes
            self.classes = mine.to(device), theirs.to(device)


def _common_classes(model: TeacherModel, student: HeadConfig) -> tuple[Tensor, Tensor] | None:
    """The head's and the teacher's labels of the classes that both know; None if all are the same."""
    teacher, source = model.head, model.source
    if not student.names or not teacher.names:
        if student.num_classes != teacher.num_classes:
            raise ConfigError(
                f"{source}: has {teacher.num_classes} classes, the head {student.num_classes}, and not both have names"
                " to match them by"
            )
        log.info(
            "%s: its %d classes are taken for the head's in their order: not both have names",
            source,
            student.num_classes,
        )
        return None
    if student.names == teacher.names:
        log.info("%s: knows all of the head's %d classes, by name, and no others", source, student.num_classes)
        return None
    known = [name for name in student.names if name in set(teacher.names)]
    if not known:
        first = ", ".join(class_names(teacher)[:3])
        raise ConfigError(
            f"{source}: knows none of the head's {student.num_classes} classes, such as {student.names[0]}; it knows"
            f" {first}, …"
        )
    try:
        theirs = find_classes(known, teacher)
        mine = find_classes(known, student)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    log.info(
        "%s: knows %d of the head's %d classes, by name; %d of its own are left out",
        source,
        len(known),
        student.num_classes,
        teacher.num_classes - len(known),
    )
    everything = range(len(known))
    return torch.tensor(list(mine or everything)), torch.tensor(list(theirs or everything))


def _use_batch_statistics(network: nn.Module) -> None:
    """Normalise by the batch's own statistics, without learning from it: the running ones stay."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()
            module.momentum = 0.0


def of_vision_model(model: VisionModel, name: str, task: str, source: str) -> TeacherModel:
    """The head of a model that can teach a head.

    Args:
        model: The teacher.
        name: Of the head that learns.
        task: Its task.
        source: The teacher's name, for messages.

    Raises:
        ConfigError: For a model without such a head, or with several.
    """
    theirs = model.config.head_like(name, task)
    if theirs is None:
        if own := [other for other, head in model.config.heads.items() if head.task == task]:
            raise ConfigError(f"{source}: which of its heads {', '.join(own)} is meant? Save it alone, by model.only")
        tasks = ", ".join(head.task for head in model.config.heads.values())
        raise ConfigError(f"{source}: is a model for {tasks}, not for {task}")
    alone = model if len(model.config.heads) == 1 else model.only(theirs)
    return TeacherModel(source, alone, replace(alone.config.head), alone.preprocessing)
