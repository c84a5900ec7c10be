"""Published weights by name: found, downloaded, converted once, and kept."""

import difflib
import fnmatch
import logging
import os
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

import mnv2vision
from mnv2vision.errors import WeightsError
from mnv2vision.vision_model import VisionModel
from mnv2vision.weights import file
from mnv2vision.weights.download import download, home, offline, sha256

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """Weights that someone published.

    Attributes:
        name: "source/architecture-tag".
        task: Of the model.
        source: The importer that reads them, as in tools/convert.py source=.
        location: Where they are: an address, "hf://<owner>/<repository>/<file>", the name of torchvision's weights;
            empty where there is no direct address.
        classes: What the model tells apart.
        licence: Of the weights, or of the project that published them where they carry none of their own.
        metrics: What their publisher states: names to values (fractions as percentages, as published).
        state: What was seen of the conversion.
        member: The file within an archive, as a pattern.
        digest: SHA-256 of the downloaded file, or its beginning; empty where it is not known.
        options: Of the importer.
        preprocessing: What differs from the importer's.
    """

    name: str
    task: str
    source: str
    location: str
    classes: str
    licence: str
    metrics: Mapping[str, float]
    state: str
    member: str = ""
    digest: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)


def list_weights(task: str | None = None, source: str | None = None) -> list[Entry]:
    """The entries, those of one task or source if given.

    Args:
        task: "classification", "detection" or "segmentation".
        source: The first part of the names, such as "timm".
    """
    from mnv2vision.weights.entries import ENTRIES

    return [
        entry
        for entry in ENTRIES
        if task in (None, entry.task) and source in (None, entry.name.partition("/")[0], entry.source)
    ]


def find(name: str) -> Entry:
    """The entry of that name; WeightsError with the nearest names if there is none."""
    names = {entry.name: entry for entry in list_weights()}
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join(near)}?" if near else "; mv.list_weights() has the names"
        raise WeightsError(f"{name}: no such file, and no published weights of that name{hint}")
    return names[name]


def load(path: str | os.PathLike[str], *, input: str | os.PathLike[str] | None = None) -> VisionModel:
    """Load a model, in inference mode, on the CPU.

    Args:
        path: A file written by `save`, a training run or tools/convert.py; the name of published weights, see
            `list_weights`, which are downloaded and converted once; or "hf://<owner>/<repository>".
        input: With a name: a local copy of what the publisher provides, instead of the download.

    Raises:
        WeightsError: For a file that is missing, corrupt, foreign, from a newer version, or does not fit itself; for
            an unknown name; for weights that cannot be had.
    """
    if input is not None:
        return import_entry(find(str(path)), input)
    return file.load(resolve(path))


def resolve(path: str | os.PathLike[str]) -> Path:
    """The model file that a path, a name of published weights or an hf:// address stands for."""
    text = os.fspath(path)
    if text.startswith("hf://"):
        from mnv2vision.weights.hub import download_model

        return download_model(text)
    if Path(text).exists() or Path(text).suffix == ".safetensors":
        return Path(text)
    entry = find(text)
    kept = home() / "models" / mnv2vision.__version__ / f"{entry.name.replace('/', '--')}.safetensors"
    if kept.exists():
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{kept}.lock"):  # every process of a node asks for the same
        if not kept.exists():
            model = import_entry(entry, None)
            file.save(model, kept, provenance=provenance(entry))
            log.info("%s: converted, and kept as %s", entry.name, kept)
    return kept


def provenance(entry: Entry) -> dict[str, Any]:
    """What a converted file says of its origin."""
    return {
        "name": entry.name,
        "source": entry.source,
        "location": entry.location,
        "licence": entry.licence,
        "published": dict(entry.metrics),
    }


def import_entry(entry: Entry, input: str | os.PathLike[str] | None) -> VisionModel:
    """Build the model of an entry from its publisher's file.

    Args:
        entry: See `find`.
        input: A local copy; downloaded if None.
    """
    from mnv2vision.weights.convert import SOURCES

    path = str(input) if input is not None else _fetch(entry)
    if tarfile.is_tarfile(path) if Path(path).is_file() else False:
        path = str(_unpack(Path(path), entry))
    model = SOURCES[entry.source](entry.task, path, **entry.options)
    if entry.preprocessing:
        model.preprocessing = replace(model.preprocessing, **entry.preprocessing)
    return model


def _fetch(entry: Entry) -> str:
    """The downloaded file's path, or what the source's own client takes for one."""
    folder = home() / "downloads"
    if not entry.location:
        raise WeightsError(
            f"{entry.name}: has no direct address; download it by hand, and give it as mv.load({entry.name!r}, input=…)"
        )
    if entry.location.startswith("hf://"):
        from mnv2vision.weights.hub import fetch

        owner, repository, name = entry.location.removeprefix("hf://").split("/", 2)
        return str(fetch(f"{owner}/{repository}", name))
    if "://" in entry.location:
        with FileLock(_made(folder) / f"{Path(entry.location).name}.lock"):
            path = download(entry.location, folder / Path(entry.location).name, digest=entry.digest)
        return str(path)
    if offline() and not _in_torch_hub(entry.location):
        raise WeightsError(f"{entry.name}: not downloaded, offline mode is on; give a local file by input=")
    return entry.location  # torchvision's own client downloads, checks and keeps it


def _in_torch_hub(name: str) -> bool:
    import torch
    from torchvision.models import get_weight

    return (Path(torch.hub.get_dir()) / "checkpoints" / Path(get_weight(name).url).name).exists()


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _unpack(archive: Path, entry: Entry) -> Path:
    """Unpack an archive in the home folder; the member that is meant."""
    stem = archive.name.partition(".tgz")[0].partition(".tar")[0]
    folder = home() / "unpacked" / f"{stem}-{sha256(archive)[:8]}"  # another archive may have the same name
    if not folder.exists():
        partial = _made(folder.parent) / f".{folder.name}.{os.getpid()}"
        try:
            with tarfile.open(archive) as file:
                file.extractall(partial, filter="data")
            partial.replace(folder)
        except (tarfile.TarError, OSError, EOFError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise WeightsError(f"{archive}: cannot be unpacked ({error})") from error
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    found = fnmatch.filter(names, entry.member)
    if not found:
        raise WeightsError(f"{archive}: holds no {entry.member}, but {', '.join(names[:5])}")
    return folder / found[0]
