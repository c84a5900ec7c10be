"""What the models of all tasks have in common."""

from typing import Any

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
