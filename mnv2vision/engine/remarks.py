"""A short look at a run's data before the first epoch: what costs no decoding, in one line."""

import hashlib
import json
import logging
import os
import shlex
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from mnv2vision.common import processes
from mnv2vision.common.text import few
from mnv2vision.config.datasets import DATASETS
from mnv2vision.config.options import values
from mnv2vision.data.sample import SampleSource
from mnv2vision.engine.parts import DataPart
from mnv2vision.models.tasks import TASKS

log = logging.getLogger(__name__)

_SECONDS = 3.0
"""That it may take; where it would take longer, copies are left to the command `check`."""


def tell_remarks(parts: Sequence[DataPart], said: Sequence[str]) -> None:
    """Say how much there is to look at, and the command that shows it; nothing where there is nothing.

    Args:
        parts: The run's data sets.
        said: What their readers warned of, in lines of their own.
    """
    commands = [_command(part) for part in parts if part.targets and part.dataset.get("root") is not None]
    if not commands or not processes.is_first():
        return
    found: list[str] = []
    until = time.monotonic() + _SECONDS
    for part in parts:
        if part.targets and part.train is not None and (both := in_both(part.train, part.val, until)):
            told = "1 training image is" if len(both) == 1 else f"{len(both)} training images are"
            found.append(f"{told} in validation, too: {few([os.path.basename(path) for path in both])}")
    if count := len(said) + len(found):
        told = "; ".join([f"{len(said)} above"] * bool(said) + found)
        log.warning("data: %d remark%s (%s); see %s", count, "s" * (count > 1), told, " and ".join(commands))


def in_both(train: SampleSource, val: SampleSource, until: float) -> list[str]:
    """Training images that are validation images, too, byte for byte.

    Args:
        train: The training samples.
        val: The validation samples.
        until: When to give up, by `time.monotonic`.

    Returns:
        Their files; none if time is up, for samples that are no files, and for parts of one data set (`Subset`), which
        are divided without copies.
    """
    # Of the class: a part of a data set hands on what the whole has.
    if train is val or not (hasattr(type(train), "path") and hasattr(type(val), "path")):
        return []
    try:
        held, own = _by_size(val, until), _by_size(train, until)
        found = []
        for size in held.keys() & own.keys():
            digests = {_digest(path, until) for path in held[size]}
            found += [path for path in own[size] if _digest(path, until) in digests]
    except TimeoutError:
        return []
    return sorted(found)


def _by_size(source: SampleSource, until: float) -> dict[int, list[str]]:
    """Files that are there, and not empty, by their size."""
    path_of: Callable[[int], str] = source.path  # type: ignore[attr-defined]
    found: dict[int, list[str]] = defaultdict(list)
    for index in range(len(source)):
        _check_time(until)
        path = path_of(index)
        with suppress(OSError):  # one that is missing is named when it is read
            if size := os.stat(path).st_size:
                found[size].append(path)
    return found


def _digest(path: str, until: float) -> bytes:
    _check_time(until)
    try:
        return hashlib.blake2b(Path(path).read_bytes(), digest_size=16).digest()
    except OSError:
        return os.fsencode(path)  # of nothing else


def _check_time(until: float) -> None:
    if time.monotonic() > until:
        raise TimeoutError


def _command(part: DataPart) -> str:
    """What to type for a look at a data set."""
    name = str(part.dataset["name"])
    target = next(iter(part.targets.values()))
    task = next(task for task, kind in TASKS.items() if kind.target == target)
    usual = values(DATASETS[name]())
    given = {key: part.dataset[key] for key in usual if key in part.dataset and part.dataset[key] != usual[key]}
    own = [f"dataset.{key}={_typed(value)}" for key, value in given.items() if key not in ("name", "protocol")]
    return shlex.join(["mnv2vision", "check", f"task={task}", f"dataset={name}", *own])


def _typed(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
