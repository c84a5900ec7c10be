"""The folder of a run: whose it is, what is left there when a run ends early, and how to go on."""

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from mnv2vision.common import faults, processes
from mnv2vision.common.atomic import remove_leftovers
from mnv2vision.common.interruption import Interrupted
from mnv2vision.config.named import named_parts
from mnv2vision.config.schema import Eval, Train
from mnv2vision.errors import ConfigError, Mnv2visionError, SystemFault

log = logging.getLogger(__name__)

_TRIES = 100  # to make a folder that another run is removing
_LINGER = 3.0
"""Seconds in which the reading processes of a run that was killed let go of its folder."""


def choose_folder(config: Train | Eval, kind: str) -> Path:
    """`run_dir`, or a new folder of this moment's; the same in all processes of a run.

    Args:
        config: The whole configuration.
        kind: What the command does, the first part of a new folder's name.
    """
    if config.run_dir:
        return Path(config.run_dir)
    # Lightning starts the other processes of a node with this process's environment: all must name the same folder.
    if "MNV2VISION_RUN_DIR" not in os.environ or processes.is_first():
        if processes.started_outside():
            raise ConfigError(
                "processes started from outside (torchrun, SLURM) must share a folder: give run_dir=<folder>"
            )
        stem = Path("runs") / kind / data_name(config) / f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
        folder, count = stem, 1
        while folder.exists():  # runs started together
            count += 1
            folder = stem.with_name(f"{stem.name}_{count}")
        os.environ["MNV2VISION_RUN_DIR"] = str(folder)
    return Path(os.environ["MNV2VISION_RUN_DIR"])


def data_name(config: Train | Eval) -> str:
    """The name of the data set, or those of several."""
    return "+".join(named_parts(config.data.more)) or str(config.dataset["name"])


@contextmanager
def claimed(folder: Path, key: str = "run_dir") -> Iterator[None]:
    """Keep other runs out of a folder; it is made, and removed at the end if nothing came to lie there.

    Args:
        folder: To work in.
        key: That names it.

    Raises:
        ConfigError: If another run is in the folder, naming its process, machine and time of start.
    """
    if not processes.is_first():
        yield
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    lock, holder = FileLock(folder / ".lock"), folder / ".holder"
    try:
        _lock(lock, folder, holder, key)
        try:
            since = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
            holder.write_text(f"process {os.getpid()} on {socket.gethostname()} since {since}")
            for place in (folder, folder / "checkpoints"):
                remove_leftovers(place)
            yield
        finally:
            holder.unlink(missing_ok=True)
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()
    finally:
        for path in made:
            with suppress(OSError):  # something lies in it
                path.rmdir()


def _lock(lock: FileLock, folder: Path, holder: Path, key: str) -> None:
    """Make and lock a run's folder; another run that leaves nothing may be removing it."""
    for _ in range(_TRIES):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=_LINGER)
            return
        except (FileNotFoundError, FileExistsError) as error:
            # Removed before it could be looked at, or behind `mkdir`'s back, which then says that it exists.
            if isinstance(error, FileExistsError) and folder.is_file():
                raise
        except Timeout as error:
            who = "another process"
            with suppress(OSError):  # it has just ended, or just begun
                who = holder.read_text() or who
            raise ConfigError(
                f"{key}={folder} is in use by {who}: wait for the end of that run, or give another folder"
            ) from error
        except (OSError, NotImplementedError) as error:  # network file systems without locks
            log.warning("%s cannot be locked (%s): start no other run in it", folder, error)
            return
    raise ConfigError(f"{key}={folder}: others make and remove it again and again: give another folder")


def check_unused(folder: Path) -> None:
    """Raise ConfigError for a folder with a run in it; one that was killed before its first checkpoint is none."""
    if processes.is_first() and (
        any((folder / "checkpoints").glob("*.ckpt")) or (folder / "model.safetensors").exists()
    ):
        raise ConfigError(
            f"run_dir={folder} holds a run: give another folder,"
            f" or go on with resume={folder / 'checkpoints/last.ckpt'}"
        )


@contextmanager
def telling_how_to_go_on(folder: Path) -> Iterator[None]:
    """Add to what ends a run early which checkpoint there is, and how old it is."""
    try:
        yield
    except Interrupted as interruption:
        interruption.advice = f": {_way_on(folder) or 'there is no checkpoint yet, start it again'}"
        raise
    except Exception as error:
        if isinstance(error, Mnv2visionError) or processes.ended_by_another(error) is not None:
            raise
        line = faults.one_line(error)
        if line is None:
            raise
        raise SystemFault("; ".join(filter(None, (line, _way_on(folder))))) from error


def _way_on(folder: Path) -> str:
    last = folder / "checkpoints/last.ckpt"
    if not last.exists():
        return ""
    age = time.time() - last.stat().st_mtime
    ago = f"{age:.0f} s" if age < 120 else f"{age / 60:.0f} minutes" if age < 7200 else f"{age / 3600:.0f} hours"
    return f"go on with resume={last}, written {ago} ago"
