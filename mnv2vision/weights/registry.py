"""Published weights by name: downloaded, checked, converted once, and cached."""

import fnmatch
import logging
import os
import shutil
import tarfile
import zlib
from pathlib import Path

from filelock import FileLock

from mnv2vision.common.cache import home
from mnv2vision.errors import WeightsError
from mnv2vision.models.vision_model import VisionModel
from mnv2vision.version import __version__
from mnv2vision.weights import file, hub
from mnv2vision.weights.download import download, sha256
from mnv2vision.weights.entries import find
from mnv2vision.weights.entry import Entry
from mnv2vision.weights.importers.sources import SOURCES
from mnv2vision.weights.importers.tables import adjusted

log = logging.getLogger(__name__)

_DEFAULTS = {"width": 1.0, "depth": 1.0, "minimalistic": False}
"""Defaults of the options in `Entry.architecture` that a model's configuration may omit."""


def load(path: str | os.PathLike[str], *, input: str | os.PathLike[str] | None = None) -> VisionModel:
    """Load a model in inference mode on the CPU.

    Args:
        path: A file written by `save`, a training run or `mnv2vision convert`; the folder of a run; a name from
            `list_weights`, whose file is downloaded and converted once; or "hf://<owner>/<repository>".
        input: With a name: a local copy of the publisher's file, used instead of a download.

    Raises:
        WeightsError: For a file that is missing, corrupt, not a model, from a newer version, or inconsistent; for an
            unknown name; for a failed download.
    """
    if input is not None:
        return import_entry(find(str(path)), input)
    return file.load(resolve(path))


def resolve(path: str | os.PathLike[str]) -> Path:
    """Find the model file behind a path, a run's folder, a name or an hf:// address; download it if necessary."""
    text = os.fspath(path)
    if text.startswith("hf://"):
        return hub.download_model(text)
    if (inside := Path(text) / "model.safetensors").is_file():  # of a run
        return inside
    if Path(text).exists() or Path(text).suffix == ".safetensors":
        return Path(text)
    entry = find(text)
    kept = home() / "models" / __version__ / f"{entry.name.replace('/', '--')}.safetensors"
    if kept.exists():
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{kept}.lock"):  # all processes of a node ask for the same file
        if not kept.exists():
            model = import_entry(entry, None)
            file.save(model, kept, provenance=provenance(entry))
            log.info("%s: converted and cached as %s", entry.name, kept)
    return kept


def provenance(entry: Entry) -> dict[str, object]:
    """What a converted file records about its origin."""
    return {
        "name": entry.name,
        "source": entry.source,
        "location": entry.location,
        "licence": entry.licence,
        "published": dict(entry.metrics),
    }


def import_entry(entry: Entry, input: str | os.PathLike[str] | None) -> VisionModel:
    """Build a model from the publisher's file.

    Args:
        entry: From `find`.
        input: A local copy of the file, or what was unpacked from it; downloaded if None.

    Raises:
        WeightsError: If the file cannot be downloaded or read, or is of another architecture. A bad download is
            deleted.
    """
    if input is not None:
        checked = _check_digest(entry, Path(input))
        model = _import(entry, str(input))
        if not checked:
            log.warning(
                "%s: no published hash to check %s against; only the names and shapes of its tensors were checked,"
                " which do not tell TensorFlow's padding from PyTorch's, or one training run from another",
                entry.name,
                input,
            )
        return model
    by_hand = f"; or pass a local copy: mv.load({entry.name!r}, input=…)"
    try:
        path = _fetch(entry)
    except WeightsError as error:
        raise WeightsError(f"{entry.name}: {error}{by_hand}") from error
    try:
        return _import(entry, path)
    except WeightsError as error:
        if not Path(path).is_file():  # torchvision's name, whose download failed in torchvision's own client
            reason = str(error).removeprefix(f"{path}: ")
            raise WeightsError(f"{entry.name}: {reason}: mv.load({entry.name!r}, input=…)") from error
        for kept in (Path(path).resolve(), Path(path)):  # the hub's client stores links to its files
            kept.unlink(missing_ok=True)
        raise WeightsError(f"{error}; the download was deleted") from error


def _check_digest(entry: Entry, path: Path) -> bool:
    """Compare a local copy with the published hash; whether the two can be compared.

    They cannot if no hash is known, or if the copy was unpacked from the published archive.
    """
    if not entry.digest or not path.is_file() or (entry.member and not tarfile.is_tarfile(path)):
        return False
    if not sha256(path).startswith(entry.digest):
        raise WeightsError(
            f"{path}: its SHA-256 is not {entry.digest}, that of {entry.name}: a damaged file, or a different one"
        )
    return True


def _import(entry: Entry, path: str) -> VisionModel:
    if Path(path).is_file() and tarfile.is_tarfile(path):
        path = str(_unpack(Path(path), entry))
    elif path.endswith(("tgz", ".tar.gz")) and Path(path).is_file():
        raise WeightsError(f"{path}: not an archive, or a damaged one")
    model = SOURCES[entry.source](entry.task, path, **entry.options)
    given = model.config.arguments
    for key, promised in entry.architecture.items():
        found = given.get(key, _DEFAULTS.get(key))
        if found != promised:
            raise WeightsError(f"{path}: has {key}={found}, but {entry.name} has {key}={promised}")
    if entry.preprocessing:
        model.preprocessing = adjusted(model.preprocessing, entry.preprocessing)
    return model


def _fetch(entry: Entry) -> str:
    """Path of the downloaded file, or the name that the source's own client downloads it by."""
    folder = home() / "downloads"
    if not entry.location:
        raise WeightsError("no direct download address; download it by hand")
    if entry.location.startswith("hf://"):
        owner, repository, name = entry.location.removeprefix("hf://").split("/", 2)
        return str(hub.fetch(f"{owner}/{repository}", name))
    if "://" in entry.location:
        with FileLock(_made(folder) / f"{Path(entry.location).name}.lock"):
            path = download(entry.location, folder / Path(entry.location).name, digest=entry.digest)
        return str(path)
    return entry.location  # torchvision's own client downloads and checks it


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _unpack(archive: Path, entry: Entry) -> Path:
    """Unpack an archive in the cache folder; the path of the member to read."""
    stem = archive.name.partition(".tgz")[0].partition(".tar")[0]
    folder = home() / "unpacked" / f"{stem}-{sha256(archive)[:8]}"  # another archive may have the same name
    if not folder.exists():
        partial = _made(folder.parent) / f".{folder.name}.{os.getpid()}"
        try:
            with tarfile.open(archive) as opened:
                opened.extractall(partial, filter="data")
            partial.replace(folder)
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            shutil.rmtree(partial, ignore_errors=True)
            if isinstance(error, OSError) and error.errno:  # a full disk is not the archive's fault
                raise
            raise WeightsError(f"{archive}: cannot be unpacked ({error})") from error
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    found = fnmatch.filter(names, entry.member)
    if not found:
        raise WeightsError(f"{archive}: does not contain {entry.member}, only {', '.join(names[:5])}")
    return folder / found[0]
