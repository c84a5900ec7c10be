"""What the exporters of all formats take and give."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mnv2vision.inference.bundle import Precision, TensorSpec


@dataclass(frozen=True)
class ExportOptions:
    """How a graph is written.

    Attributes:
        precision: Of weights and activations.
        dtype: Of the input.
        batch: A fixed one; None for any, where the format can.
        calibration: Prepared images (H, W, 3) uint8 of the network's size, for int8.
        keep_float: Layers that int8 leaves in float, by the paths of modules in `ExportGraph`.
    """

    precision: Precision = "float"
    dtype: Literal["uint8", "float32"] = "uint8"
    batch: int | None = None
    calibration: Sequence[NDArray[np.uint8]] = ()
    keep_float: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        input: Of the graph.
        outputs: In the order of `ExportGraph.output_names`.
        quantisation: How an int8 graph was made, for `Bundle.quantisation`.
    """

    input: TensorSpec
    outputs: tuple[TensorSpec, ...]
    quantisation: Mapping[str, object] = field(default_factory=dict)
