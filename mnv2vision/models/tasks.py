"""The tasks by name."""

from mnv2vision.classification.task import CLASSIFICATION
from mnv2vision.contracts import TaskKind
from mnv2vision.detection.task import DETECTION
from mnv2vision.errors import ConfigError
from mnv2vision.segmentation.task import SEGMENTATION

TASKS: dict[str, TaskKind] = {
    "classification": CLASSIFICATION,
    "detection": DETECTION,
    "segmentation": SEGMENTATION,
}


def find_task(name: str) -> TaskKind:
    """The task of that name; ConfigError, with the known ones, if there is none."""
    if name not in TASKS:
        raise ConfigError(f"task {name!r} is unknown; valid: {', '.join(TASKS)}")
    return TASKS[name]
