"""Photos that lie beside those of a data set and are none of them."""

import functools
import os
from collections.abc import Iterable

from mnv2vision.data.decoding import IMAGE_EXTENSIONS


def photos_beside(paths: Iterable[str]) -> list[str]:
    """The photos in the folders of these that are none of them; hidden files are no photos.

    Args:
        paths: A data set's photos, which may be missing.
    """
    known = list(paths)
    folders = {os.path.realpath(folder): folder for folder in sorted(set(map(os.path.dirname, known)))}
    there = [
        os.path.join(folder, name)
        for folder in folders.values()
        if os.path.isdir(folder)
        for name in sorted(os.listdir(folder))
        if name.lower().endswith(IMAGE_EXTENSIONS) and not name.startswith(".")
    ]
    own = set(real_paths(known))
    return [path for path, real in zip(there, real_paths(there), strict=True) if real not in own]


def real_paths(paths: Iterable[str]) -> list[str]:
    """Paths by which files of a folder with several names are one; the files may be links, or missing."""
    real = functools.cache(os.path.realpath)  # asks the disk, and folders are few
    return [os.path.join(real(os.path.dirname(path)), os.path.basename(path)) for path in paths]
