"""Average the weights of models: what the command `average` calls."""

import copy
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.optim.swa_utils import update_bn

from mnv2vision.backbones import has_folded_batch_norm
from mnv2vision.common.atomic import write_text
from mnv2vision.config.schema import Average, Eval
from mnv2vision.config.sections import EvalTrainer
from mnv2vision.contracts import Recommended
from mnv2vision.data.augment.classification import EvaluationTransform
from mnv2vision.data.batch import BatchDataset
from mnv2vision.data.sampler import BatchKey
from mnv2vision.data.sources import create_source
from mnv2vision.engine.evaluate import evaluation, finish, tell_of_unmeasured
from mnv2vision.engine.parts import create_parts
from mnv2vision.engine.resume import model_config, read_checkpoint
from mnv2vision.engine.run_folder import claimed
from mnv2vision.engine.trainer import quieten_lightning
from mnv2vision.errors import ConfigError, DataError
from mnv2vision.models.vision_model import VisionModel
from mnv2vision.training.checkpoints import last_epochs
from mnv2vision.weights import file, registry
from mnv2vision.weights.average import check_alike, mean_state

log = logging.getLogger(__name__)

State = Mapping[str, Tensor]


def average(config: Average) -> dict[str, float]:
    """Average models, and measure each of them and the average where there are images.

    Args:
        config: Of the command `average`.

    Returns:
        The metrics of the average, as `metrics.json` has them; nothing without a data set.

    Raises:
        ConfigError: For options that cannot work.
        DataError: For data that cannot be used.
        WeightsError: For models that cannot be read, or have no average.
    """
    for asked, key in ((config.greedy, "greedy=true"), (config.batch_norm == "estimate", "batch_norm=estimate")):
        if asked and not config.dataset:
            raise ConfigError(f"{key} needs images: give dataset= as well")
    quieten_lightning()
    models = {path: _read(path) for path in _paths(config)}
    check_alike(models)
    model = copy.deepcopy(next(iter(models.values())))
    # Others are best for the average.
    heads = {name: replace(head, **Recommended()._asdict()) for name, head in model.config.heads.items()}
    model.config = replace(model.config, heads=heads)
    if config.batch_norm == "estimate" and has_folded_batch_norm(model):
        raise ConfigError("batch_norm=estimate: the models' batch norm is folded into their weights: there is none")
    output = Path(config.output)
    with claimed(output, "output"):
        if (output / "model.safetensors").exists():
            raise ConfigError(f"output={output} holds a model: give another folder")
        states = {path: other.state_dict() for path, other in models.items()}
        return _average(config, model, states, output)


def _average(config: Average, model: VisionModel, states: Mapping[str, State], output: Path) -> dict[str, float]:
    images = Images(config, next(iter(states)), model, output) if config.dataset else None
    measured = {path: images.measure(state) for path, state in states.items()} if images else {}
    kept = list(states)
    if images and config.greedy:
        scores = {path: metrics[images.monitor] for path, metrics in measured.items()}
        if unknown := [path for path, score in scores.items() if not math.isfinite(score)]:
            raise DataError(f"greedy=true: the images have nothing to measure {images.monitor} of {unknown[0]} by")
        kept = greedy(
            scores, lambda paths: images.measure(images.mean([states[path] for path in paths]))[images.monitor]
        )
    chosen = [states[path] for path in kept]
    model.load_state_dict(images.mean(chosen) if images else mean_state(chosen))
    metrics: dict[str, float] = {}
    if images:
        metrics = finish(images.trainer, images.task, images.data, output)
        images.task.remember()
        _tell(measured, kept, metrics, images.monitor)
    rows = [{"model": path, "kept": path in kept, **_known(measured.get(path, {}))} for path in states]
    report = {"models": rows, "average": _known(metrics), "batch_norm": config.batch_norm}
    write_text(output / "average.json", json.dumps(report, indent=2, allow_nan=False) + "\n")
    origin = {"average_of": kept, "batch_norm": config.batch_norm}
    file.save(model.eval(), output / "model.safetensors", provenance=origin)
    log.info("%s: the average of %d models", output / "model.safetensors", len(kept))
    return metrics


def greedy(scores: Mapping[str, float], measure: Callable[[Sequence[str]], float]) -> list[str]:
    """A greedy soup: the best model, and each that does not lower the average's metric, the better ones first.

    Source: arXiv 2203.05482, recipe 1.

    Args:
        scores: Of each model alone; the larger the better.
        measure: The metric of the average of some.

    Returns:
        Those that stay in, in the order in which they came.
    """
    first, *others = sorted(scores, key=lambda path: -scores[path])
    kept, best = [first], scores[first]
    for path in others:
        score = measure([*kept, path])
        log.info("with %s: %.4f instead of %.4f, %s", path, score, best, "kept" if score >= best else "left out")
        if score >= best:
            kept, best = [*kept, path], score
    return kept


class Images:
    """The images of a data set: averages are measured on one part, and their batch norm is estimated on the other."""

    def __init__(self, config: Average, first: str, model: VisionModel, output: Path) -> None:
        """Read the data set.

        Args:
            config: Of the command `average`.
            first: The file of the first model.
            model: Gets the weights that are measured.
            output: Folder of the average.
        """
        evaluated = Eval(
            checkpoint=first,  # in whose run's folder the images may have been divided
            seed=config.seed,
            loader=config.loader,
            dataset=config.dataset,
            trainer=EvalTrainer(devices=1),
        )
        tasks = {name: head.task for name, head in model.config.heads.items()}
        parts = create_parts(evaluated, tasks)
        tell_of_unmeasured(parts, tasks)
        self.trainer, self.task, self.data = evaluation(evaluated, model, parts, output)
        self.monitor = self.task.monitor
        self._batches: list[BatchKey] = []
        if config.batch_norm != "estimate":
            return
        source = create_source(parts[0].dataset, "train", *dict.fromkeys(parts[0].targets.values()))
        transform = EvaluationTransform(model.preprocessing)
        self._training = BatchDataset(source, transform, seed=config.seed, on_error="raise", evaluation=True)
        count, size = min(config.images, len(source)), config.loader.batch_size
        indices = torch.linspace(0, len(source) - 1, count).long().tolist()
        whole = range(0, max(1, count - size + 1), size)  # a short batch would count as much as the others
        self._batches = [BatchKey(0, indices[start : start + size]) for start in whole]
        log.info("batch norm of averages: estimated on %d training images", sum(len(b.indices) for b in self._batches))

    def mean(self, states: Sequence[State]) -> State:
        """The average of some models, with the batch norm that the configuration asks for."""
        state = mean_state(states)
        if not self._batches or len(states) == 1:
            return state
        model = self.task.model
        model.load_state_dict(state)
        model.to(self.trainer.strategy.root_device)
        update_bn(self._images(), model)
        return {name: tensor.cpu() for name, tensor in copy.deepcopy(model.state_dict()).items()}

    def _images(self) -> Iterator[Tensor]:
        for key in self._batches:
            batch = self._training[key]
            if batch.error is not None:
                raise DataError(batch.error)
            yield self.task.model.preprocessing.normalize(batch.images.to(self.trainer.strategy.root_device))

    def measure(self, state: State) -> dict[str, float]:
        """The metrics of a model with these weights."""
        self.task.model.load_state_dict(state)
        self.trainer.validate(self.task, self.data, verbose=False)
        return dict(self.task.metrics)


def _paths(config: Average) -> list[str]:
    """The files that are averaged: those named, or the last epochs of a run."""
    given = list(config.models or ())
    if len(given) == 1 and Path(given[0]).is_dir():
        folder = Path(given[0]) / "checkpoints"
        found = list(last_epochs(folder).values())
        if len(found) < (config.last or 2):
            raise ConfigError(
                f"models={given[0]}: {folder} has the checkpoints of {len(found)} epochs, not of {config.last or 2};"
                " checkpoint.keep_last=<number> keeps them in training"
            )
        given = [str(path) for path in found[-(config.last or 0) :]]
    elif config.last is not None:
        raise ConfigError(f"last={config.last}: goes with the folder of a run, models=runs/...")
    if twice := [path for path in given if given.count(path) > 1]:
        raise ConfigError(f"models: {twice[0]} is given twice")
    if len(given) < 2:
        raise ConfigError(f"models={given[0]}: give the folder of a run, or at least two models")
    return given


def _read(path: str) -> VisionModel:
    if not path.endswith(".ckpt"):
        return registry.load(path)
    checkpoint = read_checkpoint(path, "models")
    if checkpoint["fixed_options"].get("quantize"):
        raise ConfigError(
            f"models: {path} was trained with quantize=true: an average leaves int8's grid; average before"
        )
    model = VisionModel(model_config(checkpoint, path))
    state = {name: tensor for name, tensor in checkpoint["state_dict"].items() if name.startswith("model.")}
    state = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    file.check_fit(state, model.state_dict(), path)
    model.load_state_dict(state)
    return model.eval()


def _tell(
    measured: Mapping[str, Mapping[str, float]], kept: Sequence[str], metrics: Mapping[str, float], monitor: str
) -> None:
    """Say what the models have alone, and whether averaging was worth it."""
    for path, own in measured.items():
        log.info("%s: %s %.4f%s", path, monitor, own[monitor], "" if path in kept else ", left out")
    best = max(measured, key=lambda path: measured[path][monitor])
    if metrics[monitor] < measured[best][monitor]:
        log.warning(
            "the average has %s %.4f, less than %s alone, %.4f: only models that began alike have a useful average,"
            " and greedy=true leaves out what lowers it",
            monitor,
            metrics[monitor],
            best,
            measured[best][monitor],
        )


def _known(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}  # NaN is no JSON
