"""What a task's head is to exported files: its outputs, what decodes them, and how they become a raw output again."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from mnv2vision.contracts.model import Head
from mnv2vision.contracts.raw import Raw

Outputs = dict[str, Tensor]
"""Tensors of an exported graph by name, in the graph's order."""


@dataclass(frozen=True)
class HeadExport:
    """A head in an exported graph.

    Attributes:
        outputs: The raw output's tensors by name, for post=raw: "logits", or "box_codes" and "class_logits".
        fixed: The finished answer of a fixed shape, of the head's raw output and the input's (height, width), for
            post=fixed: "probabilities"; "boxes", "scores", "labels" and "counts"; or "labels" by pixel.
        raw: The raw output again, of what `outputs` gave and the parameters.
        parameters: What decodes the outputs, as plain data, of the head and a raw output; in `model.json`.
    """

    outputs: Callable[[Raw], Outputs]
    fixed: Callable[[Head, Raw, tuple[int, int]], Outputs]
    raw: Callable[[Mapping[str, Tensor], Mapping[str, object]], Raw]
    parameters: Callable[[Head, Raw], dict[str, object]]
