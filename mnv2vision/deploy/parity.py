"""How far an exported file's outputs are from those of the model it came from."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mnv2vision.contracts import Raw
from mnv2vision.errors import ExportError
from mnv2vision.inference.bundle import Bundle
from mnv2vision.models.tasks import TASKS

FLOAT_TOLERANCE = 1e-4
"""Of a float file: the largest difference of an output, by its range, and of a metric."""
FIXED_AGREEMENT = 0.99
"""Of a float file with finished answers: the least share of them that are the model's."""


@dataclass(frozen=True)
class Difference:
    """Of an output from the model's, over all images and values, by the range of the model's.

    Attributes:
        range: Largest less smallest value of the model's output.
        largest: Difference, by the range.
        mean: Difference, by the range.
    """

    range: float
    largest: float
    mean: float


def raw_output(bundle: Bundle, head: str, outputs: Mapping[str, NDArray[np.float32]]) -> Raw:
    """A head's raw output, of what a runtime gave.

    Args:
        bundle: Of the file, with post=raw.
        head: Its name.
        outputs: By the names of `Bundle.outputs`.
    """
    spec = bundle.heads[head]
    tensors = {name: torch.from_numpy(outputs[tensor]) for name, tensor in spec.outputs.items()}
    return TASKS[spec.task].export.raw(tensors, spec.parameters)


def differences(task: str, pairs: Iterable[tuple[Raw, Raw]]) -> dict[str, Difference]:
    """Differences of a head's outputs by name.

    Args:
        task: Of the head.
        pairs: Raw outputs of the model and of the file, by batch.

    Raises:
        ExportError: Where the file's are not finite.
    """
    outputs = TASKS[task].export.outputs
    low: dict[str, float] = {}
    high: dict[str, float] = {}
    largest: dict[str, float] = {}
    total: dict[str, float] = {}
    count: dict[str, int] = {}
    for ours, theirs in pairs:
        exported = outputs(theirs)
        for name, values in outputs(ours).items():
            apart = (values.double() - exported[name].double()).abs()
            if not bool(apart.isfinite().all()):
                raise ExportError(f"the file's {name} are not finite")
            low[name] = min(low.get(name, float("inf")), float(values.min()))
            high[name] = max(high.get(name, float("-inf")), float(values.max()))
            largest[name] = max(largest.get(name, 0.0), float(apart.max()))
            total[name] = total.get(name, 0.0) + float(apart.sum())
            count[name] = count.get(name, 0) + apart.numel()
    found = {}
    for name in low:
        extent = high[name] - low[name]
        unit = extent or 1.0
        found[name] = Difference(extent, largest[name] / unit, total[name] / count[name] / unit)
    return found
