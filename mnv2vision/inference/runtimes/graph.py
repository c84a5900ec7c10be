"""What the runtimes share: from photos to a graph's input, from its outputs to real values; nothing imports torch."""

import importlib
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2vision.errors import ConfigError
from mnv2vision.inference.bundle import Bundle
from mnv2vision.inference.runtimes.base import FORMATS

Call = Callable[[NDArray[Any]], Sequence[NDArray[Any]]]
"""From a graph's input to its outputs, in the order of `Bundle.outputs`."""


class GraphRuntime:
    """A `Runtime` of a function that computes the graph."""

    def __init__(self, bundle: Bundle, call: Call) -> None:
        """Wrap the function.

        Args:
            bundle: Describes the graph's edges.
            call: Takes images in the graph's layout and type, of its batch size where that is fixed.
        """
        self._bundle, self._call = bundle, call

    def run(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """See `Runtime.run`."""
        size = self._bundle.input.shape[0] or len(images)
        parts = [self._run(images[start : start + size], size) for start in range(0, len(images), size)]
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _run(self, images: NDArray[np.uint8], size: int) -> dict[str, NDArray[np.float32]]:
        given, count = self._bundle.input, len(images)
        batch: NDArray[Any] = images if self._bundle.layout == "NHWC" else images.transpose(0, 3, 1, 2)
        if given.scale is not None:
            limits = np.iinfo(given.dtype)
            batch = (batch / given.scale + given.zero_point).round().clip(limits.min, limits.max)
        batch = np.ascontiguousarray(batch, dtype=given.dtype)
        if count < size:  # the last of a fixed batch
            batch = np.concatenate([batch, np.zeros((size - count, *batch.shape[1:]), batch.dtype)])
        real = {}
        for spec, values in zip(self._bundle.outputs, self._call(batch), strict=True):
            values = values[:count].astype(np.float32)  # a copy: some runtimes use their memory again
            real[spec.name] = values if spec.scale is None else (values - spec.zero_point) * np.float32(spec.scale)
        return real


def import_runtime(name: str) -> ModuleType:
    """The module that runs a format; ConfigError, with what to install, where it is missing."""
    entry = FORMATS[name]
    module, package = entry.runs_with
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{name} models need {package}, which cannot be imported ({error}):"
            f" pip install 'mnv2vision[{entry.extra}]', or {package} alone to run them"
        ) from error
