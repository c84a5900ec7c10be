"""Raw outputs of heads: tensors, or of a detector what belongs together."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mnv2vision.errors import ConfigError


@dataclass(frozen=True)
class RawDetections:
    """The raw output of a detector, with the anchors that its box codes are offsets from.

    Attributes:
        box_codes: (N, A, 4), offsets (tx, ty, tw, th) from the anchors, see `box_coder`.
        class_logits: (N, A, 1 + C), the background first.
        anchors: (A, 4) (centre x, centre y, width, height) in 0..1 of the network's input, see `make_anchors`.
    """

    box_codes: Tensor
    class_logits: Tensor
    anchors: Tensor

    def check(self) -> None:
        """Raise ConfigError unless there are as many codes and logits as anchors."""
        counts = (self.box_codes.shape[1], self.class_logits.shape[1], self.anchors.shape[0])
        if len(set(counts)) > 1:
            raise ConfigError(
                f"{counts[0]} box codes and {counts[1]} class logits an image do not match {counts[2]} anchors"
            )


torch.export.register_dataclass(RawDetections, serialized_type_name="mnv2vision.RawDetections")

Raw = Tensor | RawDetections
"""Of a head: `logits` (N, C) of classification and (N, C, h, w) of segmentation, or raw detections."""
