"""What is to be predicted: photos, videos, streams and cameras; and where the results go."""

import glob
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import TypeVar

from mnv2vision.data.decoding import IMAGE_EXTENSIONS
from mnv2vision.errors import ConfigError, DataError
from mnv2vision.inference.video import VIDEO_EXTENSIONS, is_live

File = TypeVar("File", Path, str)


def find_files(images: str | Sequence[str]) -> tuple[list[Path], list[str]]:
    """Photos and videos by name, folder or pattern, in order, each once.

    Args:
        images: Files, folders, patterns, addresses of streams, numbers of cameras.

    Returns:
        Photos, and videos with streams and cameras.

    Raises:
        DataError: For a name, folder or pattern without any.
    """
    found: dict[str, bool] = {}
    for entry in map(str, images if isinstance(images, list | tuple) else [images]):
        if is_live(entry) and not Path(entry).exists():
            found[entry] = True
            continue
        if Path(entry).is_dir():
            extensions = (*IMAGE_EXTENSIONS, *VIDEO_EXTENSIONS)
            files = (item for item in Path(entry).rglob("*") if item.suffix.lower() in extensions)
            matches = [str(item) for item in sorted(item for item in files if item.is_file())]
        else:
            names = [entry] if Path(entry).is_file() else sorted(glob.glob(entry, recursive=True))
            matches = [str(Path(name)) for name in names if os.path.isfile(name)]
        if not matches:
            raise DataError(
                f"images={entry}: no such file, and no images ({' '.join(IMAGE_EXTENSIONS)})"
                f" or videos ({' '.join(VIDEO_EXTENSIONS)}) there"
            )
        found.update(dict.fromkeys(matches, False))
    # A file may have a number's name.
    videos = [name for name, live in found.items() if live or Path(name).suffix.lower() in VIDEO_EXTENSIONS]
    return [Path(name) for name in found if name not in videos], videos


def names_below(paths: Sequence[Path]) -> dict[Path, str]:
    """Names of files below the folder that they have in common."""
    # Absolute, so that ../photos is not written outside the output folder, nor mixed with /data/photos.
    absolute = {path: os.path.abspath(path) for path in paths}
    if not absolute:
        return {}
    common = os.path.commonpath([os.path.dirname(path) for path in absolute.values()])
    return {path: os.path.relpath(absolute[path], common) for path in paths}


def video_names(videos: Sequence[str]) -> dict[str, str]:
    """Names for the results of videos: as `names_below` has them, of cameras and streams by number and address."""
    files = {Path(video): video for video in videos if not is_live(video)}
    names = {files[path]: name for path, name in names_below(list(files)).items()}
    for video in videos:
        if is_live(video):
            names[video] = f"camera{video}" if video.isdecimal() else re.sub(r"\W+", "_", video.partition("://")[2])
    return names


def annotated(names: Mapping[File, str], folder: Path, suffix: str) -> dict[File, Path]:
    """Where each file's annotated copy goes.

    Args:
        names: See `names_below`.
        folder: For the results.
        suffix: Of the copies, such as ".jpg".

    Raises:
        ConfigError: Where a copy would replace a file.
    """
    # a.png becomes a.png.jpg: there may be an a.jpg
    copies = {
        file: folder / (name if PurePath(name).suffix == suffix else f"{name}{suffix}") for file, name in names.items()
    }
    originals = {os.path.abspath(file) for file in names}
    replaced = [original for copy in copies.values() if (original := os.path.abspath(copy)) in originals]
    if replaced:
        what = "picture would replace the photo" if suffix == ".jpg" else "video would replace the video"
        raise ConfigError(f"output={folder}: the {what} {replaced[0]}; give another folder")
    return copies
