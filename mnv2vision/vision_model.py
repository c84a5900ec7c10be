"""What the models of all tasks have in common."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from mnv2vision.backbones import Backbone
from mnv2vision.preprocessing import Preprocessing


class VisionModel(nn.Module):
    """A backbone with a head, and all that is needed to rebuild it and to feed it.

    Attributes:
        backbone: See `create_backbone`.
        config: The arguments of `create_model` that rebuild the architecture.
        preprocessing: How it wants its images.
        names: Class names by label; empty where they are not known.
    """

    default_num_classes: ClassVar[int]
    """That of the task's standard data set."""
    default_image_size: ClassVar[int]
    default_resize: ClassVar[str]
    default_output_stride: ClassVar[int] = 32
    class_layers: ClassVar[tuple[str, ...]]
    """Prefixes of the parameters that are of no use for other classes."""

    @classmethod
    def default_taps(cls, backbone: str, options: Mapping[str, Any]) -> tuple[str, ...] | None:
        """The features the head is put on; None for the deepest.

        Args:
            backbone: Its name.
            options: Of the model.
        """
        return None

    backbone: Backbone
    config: dict[str, Any]
    preprocessing: Preprocessing
    names: tuple[str, ...]

    @property
    def task(self) -> str:
        """The task it was created for."""
        return str(self.config["task"])

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return int(self.config["num_classes"])
