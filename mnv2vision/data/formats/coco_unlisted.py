"""Photos that no annotation file in COCO's layout lists."""

import os
from collections.abc import Sequence
from pathlib import Path

from mnv2vision.data.formats.beside import photos_beside, real_paths
from mnv2vision.data.formats.coco_json import CocoFile
from mnv2vision.errors import DataError

ROBOFLOWS = "_annotations.coco.json"
"""Name of the annotation file in a split's folder."""
PLACES = ("annotations/*.json", "*.json", f"*/{ROBOFLOWS}")
"""Of annotation files below a data set's root."""


def unlisted_photos(root: Path, file: Path, paths: Sequence[str]) -> list[str]:
    """The photos beside those of a split that no annotation file lists, of any split.

    Args:
        root: Of the data set.
        file: The split's annotation file.
        paths: The photos that it lists.
    """
    lonely = photos_beside(paths)
    for other in sorted(path for place in PLACES for path in root.glob(place) if path != file):
        if not lonely:  # the usual case: no other file is read
            break
        try:
            content = CocoFile(other)
        except DataError:  # which may list any of them
            return []
        listed = _Listed(root, other, content)
        lonely = [path for path, real in zip(lonely, real_paths(lonely), strict=True) if real not in listed]
    return lonely


class _Listed:
    """The photos that a file lists, by their real paths; where its folder is not known, in any folder."""

    def __init__(self, root: Path, file: Path, content: CocoFile) -> None:
        split = split_of(file)
        folder = next(filter(os.path.isdir, (root / split, root / "images" / split)), None)
        self._anywhere = folder is None
        try:
            names = [str(item.get("file_name")).replace("\\", "/") for item in content.take("images")]
        except DataError:  # another kind of file
            names = []
        if folder is None:
            self._known = set(map(os.path.basename, names))
        else:
            places = (folder, root, file.parent)
            self._known = set(real_paths(os.path.join(place, name) for place in places for name in names))

    def __contains__(self, path: str) -> bool:
        return (os.path.basename(path) if self._anywhere else path) in self._known


def split_of(file: Path) -> str:
    """The split, with its year, that an annotation file's name tells."""
    return file.parent.name if file.name == ROBOFLOWS else file.stem.removeprefix("instances_")
