"""The command `convert`: other projects' weights to a model file, and back."""

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import torch

from mnv2vision.common.atomic import atomic_path
from mnv2vision.errors import ConfigError, WeightsError
from mnv2vision.version import __version__
from mnv2vision.weights import file, registry
from mnv2vision.weights.download import sha256
from mnv2vision.weights.entries import find
from mnv2vision.weights.importers.from_timm import create_model_arguments
from mnv2vision.weights.importers.sources import EXPORTS, SOURCES

log = logging.getLogger(__name__)


def convert(
    *,
    output: str,
    source: str | None = None,
    name: str | None = None,
    to: str | None = None,
    task: str | None = None,
    input: str | None = None,
    **options: object,
) -> None:
    """Convert weights and log a summary. Exactly one of `source`, `name` and `to` is given.

    Args:
        output: The .safetensors file to write; a .pth file with `to`.
        source: The project that `input` comes from: a key of `SOURCES`.
        name: Published weights, see `list_weights`; `input` is then a local copy of the published file.
        to: "torchvision" or "timm": write the model file `input` as that project's state dictionary.
        task: With `source`: "classification" (the default), "detection" or "segmentation".
        input: The file to read, or another name for it that the source takes.
        **options: With `source`: options of its importer for the task.

    Raises:
        ConfigError: For options that do not go together, or are unknown.
        WeightsError: For weights that cannot be downloaded, read or written.
    """
    if sum(choice is not None for choice in (source, name, to)) != 1:
        raise ConfigError("one of source=, name= and to= is required; see --help")
    if to is not None:
        _check_no_options(options, f"to={to}")
        return _export(to, input, output)
    if name is not None:
        _check_no_options(options, f"name={name}")
        entry = find(name)
        model = registry.import_entry(entry, input)
        provenance = registry.provenance(entry)
    else:
        if source is None or source not in SOURCES:
            raise ConfigError(f"unknown source={source!r}; valid: {', '.join(SOURCES)}")
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
        "mnv2vision": __version__,
    }
    if input is not None:
        provenance["input"] = Path(input).name
        if Path(input).is_file():
            provenance["sha256"] = sha256(Path(input))
    file.save(model, output, provenance=provenance)
    log.info(
        "%s: %s, width %s, %d classes, %d parameters",
        output,
        model.config.backbone,
        model.config.backbone_options.get("width", 1.0),
        model.num_classes,
        sum(parameter.numel() for parameter in model.parameters()),
    )


def _check_no_options(options: Mapping[str, object], choice: str) -> None:
    if options:
        raise ConfigError(f"{next(iter(options))}=... goes with source=, not with {choice}")


def _export(to: str, input: str | None, output: str) -> None:
    if to not in EXPORTS:
        raise ConfigError(f"unknown to={to!r}; valid: {', '.join(EXPORTS)}")
    if input is None:
        raise ConfigError("input=<model.safetensors> is required; see --help")
    if not output.endswith((".pth", ".pt")):
        raise ConfigError(f"output={output}: {to}'s state dictionary is written as a .pth file")
    model = registry.load(input)
    state = EXPORTS[to](model)
    with atomic_path(Path(output)) as temporary:
        torch.save(state, temporary)
    log.info("%s: %d tensors under %s's names", output, len(state), to)
    if to == "timm":
        arguments = ", ".join(f"{key}={value!r}" for key, value in create_model_arguments(model).items())
        log.info("load them into timm.create_model(%s)", arguments)


def describe(path: str) -> str:
    """Describe a model file in JSON: architecture, preprocessing, classes, provenance.

    Args:
        path: A model file, a name of published weights, or an hf:// address.

    Raises:
        WeightsError: If it cannot be read.
    """
    held = file.read(registry.resolve(path))
    heads = {name: head.to_dict() for name, head in held.config.heads.items()}
    for name, head in held.config.heads.items():
        heads[name]["names"] = [*head.names[:10], *["…"] * (len(head.names) > 10)]
    told = {
        **held.config.to_dict(),
        "heads": heads,
        "parameters": sum(
            tensor.numel()
            for name, tensor in held.state.items()
            if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
        ),
        "provenance": held.provenance,
    }
    return json.dumps(told, indent=2, ensure_ascii=False)
