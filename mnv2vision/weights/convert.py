"""Weights of others to a model file of ours, and back."""

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import mnv2vision
from mnv2vision.atomic import atomic_path
from mnv2vision.errors import ConfigError, WeightsError
from mnv2vision.vision_model import VisionModel
from mnv2vision.weights import file, huggingface, paddle, pytorch, registry, tensorflow, timm, torchvision
from mnv2vision.weights.download import sha256

log = logging.getLogger(__name__)

SOURCES: dict[str, Callable[..., VisionModel]] = {
    "tensorflow": tensorflow.convert,
    "torchvision": torchvision.convert,
    "timm": timm.convert,
    "huggingface": huggingface.convert,
    "paddle": paddle.convert,
    "pytorch": pytorch.convert,
}
EXPORTS = {"torchvision": torchvision.export_state, "timm": timm.export_state}


def convert(
    *, output: str, source: str | None = None, task: str | None = None, input: str | None = None, **options: Any
) -> None:
    """Convert, and say what came of it.

    Args:
        output: The .safetensors file to write; a .pth where `to` is given.
        source: Whose weights `input` holds: a key of `SOURCES`.
        task: "classification", "detection" or "segmentation", as the source has it.
        input: The file to read, or what the source takes for one.
        **options: `name`, of published weights (see `registry.list_weights`), instead of source and task, with
            `input` as a local copy; `to`, "torchvision" or "timm", to write that project's state dictionary of the
            model file `input`; else those of the source's importer for the task.
    """
    name, to = options.pop("name", None), options.pop("to", None)
    if sum(choice is not None for choice in (source, name, to)) != 1:
        raise ConfigError("one of source=, name= and to= is required; see --help")
    if to is not None:
        _check_no_options(options, f"to={to}")
        return _export(to, input, output)
    if name is not None:
        _check_no_options(options, f"name={name}")
        entry = registry.find(name)
        model = registry.import_entry(entry, input)
        provenance = registry.provenance(entry)
    else:
        if source not in SOURCES:
            raise ConfigError(f"source={source!r} is unknown; valid: {', '.join(SOURCES)}")
        if input is None:
            raise ConfigError("input=... is required; see --help")
        try:
            model = SOURCES[source](task or "classification", input, **options)
        except WeightsError as error:
            if task is None:
                raise WeightsError(f"{error} (as task=classification, the default)") from error
            raise
        provenance = {"source": source}
    provenance |= {
        "converted": datetime.now(UTC).isoformat(timespec="seconds"),
        "mnv2vision": mnv2vision.__version__,
    }
    if input is not None:
        provenance["input"] = Path(input).name
        if Path(input).is_file():
            provenance["sha256"] = sha256(Path(input))
    file.save(model, output, provenance=provenance)
    log.info(
        "%s: %s, width %s, %d classes, %d parameters",
        output,
        model.config["backbone"],
        model.config.get("width", 1.0),
        model.num_classes,
        sum(parameter.numel() for parameter in model.parameters()),
    )


def _check_no_options(options: dict[str, Any], choice: str) -> None:
    if options:
        raise ConfigError(f"{next(iter(options))}=... is for source=, not for {choice}")


def _export(to: str, input: str | None, output: str) -> None:
    if to not in EXPORTS:
        raise ConfigError(f"to={to!r} is unknown; valid: {', '.join(EXPORTS)}")
    if input is None:
        raise ConfigError("input=<model.safetensors> is required; see --help")
    if not output.endswith((".pth", ".pt")):
        raise ConfigError(f"output={output}: a state dictionary of {to} is a .pth file")
    model = registry.load(input)
    state = EXPORTS[to](model)
    with atomic_path(Path(output)) as temporary:
        torch.save(state, temporary)
    log.info("%s: %d tensors by %s's names", output, len(state), to)
    if to == "timm":
        arguments = ", ".join(f"{key}={value!r}" for key, value in timm.create_model_arguments(model).items())
        log.info("they are of timm.create_model(%s)", arguments)


def describe(path: str) -> str:
    """What a model file says of itself, as JSON: architecture, preprocessing, classes, provenance."""
    held = file.read(registry.resolve(path))
    told = {
        **held.config,
        "parameters": sum(
            tensor.numel()
            for name, tensor in held.state.items()
            if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
        ),
        "preprocessing": held.preprocessing,
        "names": list(held.names[:10]) + (["…"] if len(held.names) > 10 else []),
        "provenance": held.provenance,
    }
    return json.dumps(told, indent=2, ensure_ascii=False)
