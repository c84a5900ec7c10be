"""Exported models: opened by their runtime, and predicting with it. Nothing here imports torch."""

import os
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2vision.errors import ConfigError, WeightsError, keyword_names
from mnv2vision.inference.bundle import Bundle
from mnv2vision.inference.engine import OfHead, PredictingHead, Prediction, by_photo, check_options
from mnv2vision.inference.kinds import PREDICTIONS
from mnv2vision.inference.runtimes.base import FORMATS, Runtime
from mnv2vision.predictions.base import ArrayDecoder, Exported
from mnv2vision.preprocessing import Preprocessing


def open_runtime(folder: str | os.PathLike[str], bundle: Bundle, threads: int | None = None) -> Runtime:
    """The runtime of an exported model.

    Args:
        folder: Of the model.
        bundle: That describes it.
        threads: All usable cores by default.

    Raises:
        ConfigError: Where the runtime is not installed, or the model runs on other systems alone.
        WeightsError: For a file that it cannot read.
    """
    if bundle.format not in FORMATS:
        raise WeightsError(f"{folder}: format {bundle.format!r} is unknown; valid: {', '.join(FORMATS)}")
    try:
        module = import_module(f"mnv2vision.inference.runtimes.{bundle.format}")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{folder}: {bundle.format} models do not run here: {FORMATS[bundle.format].limits}"
        ) from error
    runtime: Runtime = module.open_model(Path(folder) / bundle.file, bundle, threads)
    return runtime


class ExportedEngine:
    """See `inference.engine.Engine`.

    Attributes:
        bundle: What `model.json` says.
    """

    def __init__(self, folder: str | os.PathLike[str], options: Mapping[str, object]) -> None:
        """Open the model.

        Args:
            folder: Of the model.
            options: Of the task's decoder, of which those of other tasks are left out.

        Raises:
            ConfigError: For options that it cannot have, or a missing runtime.
            WeightsError: For a folder that is damaged.
        """
        self.bundle = bundle = Bundle.read(folder)
        for head in bundle.heads.values():
            if head.task not in PREDICTIONS:
                raise WeightsError(f"{folder}: task {head.task!r} is unknown; valid: {', '.join(PREDICTIONS)}")
        check_options(options, (head.task for head in bundle.heads.values()))
        try:
            self.preprocessing = Preprocessing.from_dict(bundle.preprocessing)
        except ConfigError as error:
            raise WeightsError(f"{folder}: the preprocessing in its model.json is damaged ({error})") from error
        self.heads: Mapping[str, PredictingHead] = {
            name: PredictingHead(head.task, head.names) for name, head in bundle.heads.items()
        }
        self._runtime = open_runtime(folder, bundle)
        self._decoders: dict[str, ArrayDecoder] = {}
        for name, head in bundle.heads.items():
            kind = PREDICTIONS[head.task].arrays
            chosen = {key: value for key, value in options.items() if key in keyword_names(kind)}
            try:
                self._decoders[name] = kind(Exported(head.names, head.parameters, self.preprocessing), **chosen)
            except (KeyError, TypeError, ValueError) as error:
                if isinstance(error, ConfigError):
                    raise
                raise WeightsError(f"{folder}: the parameters in its model.json are damaged ({error!r})") from error

    def predict(self, photos: Iterable[NDArray[np.uint8]]) -> Sequence[Prediction]:
        """See `Engine.predict`."""
        prepared, sizes = [], []
        for photo in photos:  # one at a time: a batch of large photos would not fit in memory
            prepared.append(self.preprocessing.prepare_without_torch(photo))
            sizes.append(photo.shape[:2])
        if not prepared:
            return []
        tensors = self._runtime.run(np.stack(prepared))
        found: dict[str, Sequence[OfHead]] = {}
        for name, decoder in self._decoders.items():
            outputs = {output: tensors[tensor] for output, tensor in self.bundle.heads[name].outputs.items()}
            predictions: Any = decoder(outputs, sizes)
            found[name] = predictions
        return by_photo(found)

    def remarks(self) -> list[str]:
        """What the predictions so far leave out, in a line each."""
        return [remark for decoder in self._decoders.values() for remark in decoder.remarks()]
