"""Models that teach a head what their own would answer, on images without labels of its."""

import torch
from torch import Tensor

from mnv2vision.backbones import fold_batch_norm
from mnv2vision.backbones.packing import pack_convolutions
from mnv2vision.contracts import HeadInUse, HeadTraining, Raw, find_classes
from mnv2vision.errors import ConfigError
from mnv2vision.models.vision_model import VisionModel


class Teacher:
    """A model, in inference mode, that sees the student's own view of an image.

    Attributes:
        classes: (C,) the teacher's labels of the student's classes; None if they are the same.
    """

    def __init__(self, model: VisionModel, name: str, student: HeadInUse, source: str) -> None:
        """Find the teacher's head and classes.

        Args:
            model: The teacher.
            name: Of the head that learns.
            student: That head.
            source: The teacher's name, for messages.

        Raises:
            ConfigError: For a teacher without such a head, or one that does not know the head's classes.
        """
        key = f"teachers.{name}={source}"
        theirs = model.config.head_like(name, student.config.task)
        if theirs is None:
            if own := [other for other, head in model.config.heads.items() if head.task == student.config.task]:
                raise ConfigError(f"{key}: which of its heads {', '.join(own)} is meant? Save it alone, by model.only")
            tasks = ", ".join(head.task for head in model.config.heads.values())
            raise ConfigError(f"{key}: is a model for {tasks}, not for {student.config.task}")
        self._model = fold_batch_norm(model.only(theirs)).eval().requires_grad_(False)
        self._model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._device: torch.device | None = None
        try:
            classes = find_classes(student.config.names, self._model.config.head)
        except ConfigError as error:
            raise ConfigError(f"{key}: {error}") from error
        self.classes = None if classes is None else torch.tensor(classes)

    @torch.no_grad()
    def __call__(self, training: HeadTraining, images: Tensor) -> Raw:
        """The teacher's raw output, of its own classes.

        Args:
            training: Of the head that learns.
            images: (N, 3, H, W) uint8, as the student sees them.
        """
        if images.device != self._device:
            self._prepare(images.device)

        def network(normalized: Tensor) -> Raw:
            raw: Raw | dict[str, Raw] = self._model(normalized)
            assert not isinstance(raw, dict)
            return raw

        return training.ask(network, self._model.preprocessing, images)

    def _prepare(self, device: torch.device) -> None:
        """Move to where the images are, and make ready for a hundred passes an epoch."""
        self._device = device
        self._model.to(device)
        if self.classes is not None:
            self.classes = self.classes.to(device)
        if device.type == "cpu" and not torch.is_autocast_enabled("cpu"):  # packed layers compute in float32
            pack_convolutions(self._model)
