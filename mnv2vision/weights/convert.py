"""Weights of others to a model file of ours."""

import hashlib
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mnv2vision
from mnv2vision.errors import ConfigError
from mnv2vision.weights import file, tensorflow, torchvision

log = logging.getLogger(__name__)

SOURCES = {"tensorflow": tensorflow.convert, "torchvision": torchvision.convert}


def convert(*, source: str, task: str, input: str, output: str, **options: Any) -> None:
    """Convert, and say what came of it.

    Args:
        source: "tensorflow" or "torchvision".
        task: "classification"; tensorflow: "detection", too.
        input: The file to read, or what the source takes for one.
        output: The .safetensors file to write.
        **options: Those of the source's importer for the task, by keyword.
    """
    if source not in SOURCES:
        raise ConfigError(f"source={source!r} is unknown; valid: {', '.join(SOURCES)}")
    model = SOURCES[source](task, input, **options)
    provenance: dict[str, Any] = {
        "source": source,
        "input": Path(input).name,
        "converted": datetime.now(UTC).isoformat(timespec="seconds"),
        "mnv2vision": mnv2vision.__version__,
    }
    if Path(input).is_file():
        provenance["sha256"] = hashlib.sha256(Path(input).read_bytes()).hexdigest()
    file.save(model, output, provenance=provenance)
    log.info(
        "%s: %s, width %s, %d classes, %d parameters",
        output,
        model.config["backbone"],
        model.config.get("width", 1.0),
        model.num_classes,
        sum(parameter.numel() for parameter in model.parameters()),
    )
