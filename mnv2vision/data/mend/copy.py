"""A copy of a folder with some files left out and others with another text; photos are linked, not copied."""

import os
import shutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

from mnv2vision.data.decoding import IMAGE_EXTENSIONS


def copy_folder(top: str, target: Path, left_out: Collection[str], texts: Mapping[str, str]) -> None:
    """Copy a folder; hidden files, and symbolic links to nothing or to a folder above, are no part of it.

    Args:
        top: The folder.
        target: Of the copy, which does not exist.
        left_out: Whole paths of files that the copy lacks.
        texts: Contents of files that differ, by whole path.

    Raises:
        OSError: If something cannot be read or written; nothing of the copy is left then.
    """
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of one that was killed
    try:
        for folder, below, names in os.walk(top, followlinks=True, onerror=_raise):
            real = os.path.join(os.path.realpath(folder), "")
            below[:] = [name for name in below if not name.startswith(".") and not _holds(folder, name, real)]
            place = partial / os.path.relpath(folder, top)
            place.mkdir(parents=True, exist_ok=True)
            for name in names:
                source = os.path.join(folder, name)
                if source in texts:
                    (place / name).write_text(texts[source], encoding="utf-8")
                elif source not in left_out and not name.startswith(".") and os.path.isfile(source):
                    _copy(source, place / name)
        partial.replace(target)
    finally:
        with suppress(FileNotFoundError):
            shutil.rmtree(partial)


def _raise(error: OSError) -> None:
    raise error


def _holds(folder: str, name: str, real: str) -> bool:
    return real.startswith(os.path.join(os.path.realpath(os.path.join(folder, name)), ""))


def _copy(source: str, target: Path) -> None:
    """A photo by a hard link where that is possible, since it is never written to; anything else as a new file."""
    if source.lower().endswith(IMAGE_EXTENSIONS):
        with suppress(OSError):  # another disk, or a file system without links
            os.link(os.path.realpath(source), target)
            return
    shutil.copyfile(source, target)
