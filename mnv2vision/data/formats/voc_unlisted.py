"""Folders of photos and VOC's XML files without lists: Roboflow's, with a folder for each split, and labelImg's."""

import logging
import os
from pathlib import Path
from typing import NamedTuple

from mnv2vision.common.text import few
from mnv2vision.data.decoding import IMAGE_EXTENSIONS
from mnv2vision.data.formats.beside import photos_beside
from mnv2vision.data.formats.classes import split_names
from mnv2vision.data.formats.faults import Fault, note
from mnv2vision.data.formats.names import texts
from mnv2vision.data.formats.voc_index import voc_index
from mnv2vision.data.formats.voc_lists import Files, photo_path
from mnv2vision.errors import DataError

log = logging.getLogger(__name__)

_PLACES = (("Annotations", "JPEGImages"), ("Annotations", "images"), ("annotations", "images"), ("labels", "images"))
"""Where tools put XML files and photos."""


class Unlisted(NamedTuple):
    """The annotated photos of a folder.

    Attributes:
        annotations: The folder of the XML files, of all splits, so that all have the same classes.
        ids: Relative to it, without .xml.
        paths: Of the photos.
    """

    annotations: Path
    ids: list[str]
    paths: list[str]


def unlisted(root: Path, split: str | None) -> Unlisted | None:
    """The annotated photos of a split, or all; None for a folder that has lists.

    Args:
        root: With a folder of photos and XML files for each split; for None, also with both in one folder, or in two,
            such as `annotations/` and `images/`, there or in the only folder `VOC<year>`.
        split: Its folder, or None for all.

    Raises:
        DataError: If an annotation has no photo, or for None there is no annotation.
    """
    if split is not None:
        name = split_folder(root, split)
        return None if name is None else _pair(root, root, f"{name}/")
    years = [path for path in root.glob("VOC[0-9]*") if path.is_dir()]
    for top in (root, *(years if len(years) == 1 else ())):
        for annotations, pictures in _PLACES:
            if (top / annotations).is_dir() and (top / pictures).is_dir():
                return _pair(top / annotations, top / pictures, "")
    return _pair(root, root, "")


def split_folder(root: Path, split: str) -> str | None:
    """The name of a split's folder of XML files, if there is one."""
    for name in split_names(split):
        if os.path.isdir(root / name) and any((root / name).glob("*.xml")):  # Path.is_dir raises for long names
            return name
    return None


def _pair(annotations: Path, pictures: Path, prefix: str) -> Unlisted:
    ids = sorted(name for name in texts(voc_index(annotations), "ids") if name.startswith(prefix))
    if not ids:
        raise DataError(f"{annotations}: no XML files, such as labelImg's")
    files = Files(pictures, IMAGE_EXTENSIONS)
    paths = [photo_path(files, name) for name in ids]
    others = photos_beside(paths)
    for other in others:
        note(Fault("unlabelled image", "has no XML file, and is not used", other))
    if others:
        told = "%s: %d photos have no XML file, and are not used: %s"
        log.warning(told, pictures, len(others), few([os.path.basename(path) for path in others]))
    return Unlisted(annotations, ids, paths)
