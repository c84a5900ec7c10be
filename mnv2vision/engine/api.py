"""Training, evaluation and export from Python: what the commands do, by the same options."""

import base64
import copy
import html
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from mnv2vision.common.interruption import Interrupted, signals_end
from mnv2vision.common.logs import show_log
from mnv2vision.config.compose import OWN, load_values
from mnv2vision.config.named import JOINT, head_tasks
from mnv2vision.config.schema import Eval, Export, Train
from mnv2vision.engine import evaluate as evaluation
from mnv2vision.engine import export as exporting
from mnv2vision.engine import train as training
from mnv2vision.engine.export import Exported
from mnv2vision.engine.folder import folder_values
from mnv2vision.engine.own_data import Data, own_parts
from mnv2vision.engine.run_folder import choose_folder
from mnv2vision.errors import ConfigError
from mnv2vision.models.tasks import TASKS
from mnv2vision.models.vision_model import VisionModel
from mnv2vision.weights import file, registry


@dataclass(frozen=True)
class Run:
    """A training run that has ended.

    Attributes:
        folder: With the configuration, the history, checkpoints, `model.safetensors` and pictures.
        metrics: Of the best weights, as `metrics.json` has them; NaN for a figure that no image has a say in.
    """

    folder: Path
    metrics: dict[str, float]

    @cached_property
    def model(self) -> VisionModel:
        """The model with the best weights, in inference mode, on the CPU."""
        return file.load(self.folder / "model.safetensors")

    def _repr_html_(self) -> str:
        """Metrics and pictures, for notebooks."""
        cells = "".join(f"<tr><td>{name}</td><td>{value:.4f}</td></tr>" for name, value in self.metrics.items())
        pictures = sorted(self.folder.glob("*.png"), key=lambda path: (path.stem != "predictions", path.stem))
        images = (
            f'<p>{path.stem}<br><img src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"></p>'
            for path in pictures
        )
        return f"<p>{html.escape(str(self.folder))}</p><table>{cells}</table>{''.join(images)}"


def train(
    task: str,
    data: Data | None = None,
    *,
    init_from: str | os.PathLike[str] | None = None,
    epochs: int | None = None,
    **overrides: object,
) -> Run:
    """Train a model and evaluate the best of it, as `mnv2vision train` does; docs/options.md lists all options.

    Progress and results are logged, to stderr unless logging is set up. Ctrl-C saves and raises KeyboardInterrupt with
    the way to go on.

    Args:
        task: "classification", "detection", "segmentation", or "joint", with several heads.
        data: A folder (class folders for classification, else COCO's, VOC's or YOLO's layout; without a split, a fifth
            is held out for validation); or a data set of your own, with `__len__`, `__getitem__ -> Sample` and `names`,
            of which a tenth is held out; or a pair of these, (train, val). None: what `dataset` says, the built-in
            shapes by default.
        init_from: Weights to start from: a file, a published name, "auto" (ImageNet's for the backbone) or "none". None
            is what the recipe says; for your own data, "auto".
        epochs: The same as trainer.max_epochs.
        **overrides: Further options by key, such as `backbone="mobilenet_v1"` or `**{"optimizer.lr": 0.01}`.

    Returns:
        The run.

    Raises:
        ConfigError: For options that cannot work.
        DataError: For data that cannot be used.
        WeightsError: For weights that cannot be used.
    """
    values: dict[str, object] = {"task": task, **_data_values(data, overrides, task), **overrides}
    values |= {"init_from": init_from} if init_from is not None else {}
    values |= {"trainer.max_epochs": epochs} if epochs is not None else {}
    if values.get("resume"):  # whose run has both already
        del values["task"]
        values.pop("dataset", None)
        if "dataset.split" not in overrides:
            values.pop("dataset.split", None)
    config = load_values(Train, values)
    if config.task != task:
        raise ConfigError(f"task={task}, but resume={config.resume} is of a run of task={config.task}")
    folder = choose_folder(config, task)
    with _interruptible():
        parts = None
        if data is not None and not isinstance(data, str | os.PathLike):
            targets = [TASKS[kind].target for kind in head_tasks(task, config.heads).values()]
            parts = own_parts(data, *targets)
        metrics = training.train(replace(config, run_dir=str(folder)), parts)
    return Run(folder, metrics)


def evaluate(
    model: VisionModel | str | os.PathLike[str], data: Data | None = None, **overrides: object
) -> dict[str, float]:
    """Evaluate a model, as `mnv2vision eval` does.

    Args:
        model: A model, which stays as it is; a model file; a published name; or the folder of an exported model.
        data: As for `train`; of a pair the second counts, and of a single data set all samples.
        **overrides: Further options by key, such as `**{"model.image_size": 320}`.

    Returns:
        The metrics, as `metrics.json` has them: fractions in 0..1.

    Raises:
        ConfigError: For options that cannot work.
        DataError: For data that cannot be used.
        WeightsError: For weights that cannot be used.
    """
    if isinstance(model, VisionModel):
        loaded = copy.deepcopy(model)
    else:
        loaded = evaluation.open_model(model, str(overrides.get("runtime", "torch")))
    kinds = [head.task for head in loaded.config.heads.values()]
    targets = [TASKS[kind].target for kind in kinds]
    config = load_values(Eval, {**_data_values(data, overrides, *kinds), **overrides})
    if not isinstance(model, VisionModel):
        config = replace(config, checkpoint=os.fspath(model))
    with _interruptible():
        source = None
        if data is not None and not isinstance(data, str | os.PathLike):
            pair = data if isinstance(data, tuple) else (data, data)
            source = own_parts(pair, *targets)[1]
        return evaluation.evaluate(config, loaded, source)


def export(
    model: VisionModel | str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    formats: Sequence[str] = ("onnx",),
    quantize: str = "none",
    data: Data | None = None,
    **overrides: object,
) -> list[Exported]:
    """Export a model and measure each file, as `mnv2vision export` does; docs/deployment.md describes the files.

    Args:
        model: A model, which stays as it is; a model file; or a published name.
        output: The folder where each file gets a folder of its own, such as `onnx-int8`.
        formats: "onnx", "openvino", "litert", "executorch", "coreml"; or "all".
        quantize: "none", "fp16" or "int8", for which `data` is needed.
        data: As for `train`: int8 is calibrated with the training part, accuracy is measured on the validation part.
            None: what `dataset` says, or for several heads `data.<name>.dataset`.
        **overrides: Further options by key, such as `post="fixed"` or `allow_drop=None`.

    Returns:
        The files, in the formats' order, with what was measured of them.

    Raises:
        ConfigError: For options that cannot work, before anything is computed.
        DataError: For data that cannot be used.
        WeightsError: For weights that cannot be used.
        ExportError: At the end: for float files that differ from the model, which are not kept, and for others that
            lose more than `allow_drop`, which are.
    """
    given = {"formats": [formats] if isinstance(formats, str) else formats, "quantize": quantize, "output": output}
    if isinstance(model, VisionModel):
        loaded, heads = model, model.config.heads
    else:
        given["checkpoint"] = model
        loaded, heads = None, file.read(registry.resolve(model)).config.heads if data is not None else {}
    kinds = [head.task for head in heads.values()]
    config = load_values(Export, {**_data_values(data, overrides, *kinds), **given, **overrides})
    with _interruptible():
        own = own_parts(data) if config.dataset.get("name") == OWN else None
        return exporting.export(config, loaded, own)


def _data_values(data: Data | None, overrides: Mapping[str, object], *tasks: str) -> dict[str, object]:
    if data is None:
        return {}
    if isinstance(data, str | os.PathLike) and JOINT in tasks:
        raise ConfigError(f"data={data}: of several heads, give data sets by name: **{{'data.<name>.dataset': …}}")
    if not isinstance(data, str | os.PathLike):
        return {"dataset": OWN}
    _show_progress()
    return folder_values(data, tasks[0], overrides)


def _show_progress() -> None:
    if not (logging.getLogger("mnv2vision").handlers or logging.getLogger().handlers):
        show_log()


@contextmanager
def _interruptible() -> Iterator[None]:
    """Show progress, and let a signal end a run in good order."""
    _show_progress()
    try:
        with signals_end():
            yield
    except Interrupted as interruption:
        raise KeyboardInterrupt(str(interruption)) from None
