"""Files from the network into a folder of one's own: whole, checked, and resumed where they broke off."""

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path

from mnv2vision.errors import WeightsError

_CHUNK = 1 << 20
_TRIES = 3
_TIMEOUT = 30.0  # seconds without a byte


def home() -> Path:
    """Where weights are kept: $MNV2VISION_HOME, or a folder in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("MNV2VISION_HOME") or Path(cache) / "mnv2vision")


def offline() -> bool:
    """Whether the network is off limits: MNV2VISION_OFFLINE=1, or Hugging Face's HF_HUB_OFFLINE=1."""
    return any(os.environ.get(name, "0") not in ("", "0") for name in ("MNV2VISION_OFFLINE", "HF_HUB_OFFLINE"))


def sha256(path: Path) -> str:
    """A file's hash, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(url: str, path: Path, *, digest: str = "") -> Path:
    """Download a file, unless it is there already.

    What has come is kept in `<path>.part` when the connection breaks, and the next call goes on from there.

    Args:
        url: Of http or https.
        path: The file to write.
        digest: Its SHA-256 or the beginning of it; empty where it is not known.

    Returns:
        `path`.

    Raises:
        WeightsError: Without network, for a broken connection, or for a file of another hash; it says what to do.
    """
    if path.exists():
        return path
    by_hand = f"; a copy may be put at {path}"
    if offline():
        raise WeightsError(f"{url}: not downloaded, offline mode is on{by_hand}")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    version = path.with_name(f"{path.name}.part.etag")
    reason = ""
    for _ in range(_TRIES):
        try:
            done = _fetch(url, part, version)
        except urllib.error.HTTPError as error:
            if error.code == 416:  # what is there is no beginning of the file
                part.unlink(missing_ok=True)
                reason = "the file has changed"
                continue
            raise WeightsError(f"{url}: answered {error.code} {error.reason}{by_hand}") from error
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
            continue
        if done:
            break
        reason = "the connection broke"
    else:
        got = f" after {part.stat().st_size} bytes, which are kept" if part.exists() else ""
        raise WeightsError(f"{url}: cannot be downloaded ({reason}){got}{by_hand}")
    found = sha256(part)
    if not found.startswith(digest):
        part.unlink()
        version.unlink(missing_ok=True)
        raise WeightsError(f"{url}: has the SHA-256 {found}, not {digest}: damaged, or replaced; it was deleted")
    part.replace(path)
    version.unlink(missing_ok=True)
    return path


def _fetch(url: str, part: Path, version: Path) -> bool:
    """Append to `part` what is missing of it; whether it is whole now.

    `version` keeps the server's name for what the part is of: of another version, the file is sent from its beginning.
    """
    have = part.stat().st_size if part.exists() and version.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "mnv2vision"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", version.read_text())
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
        if response.status != 206:  # a server that does not resume
            have = 0
            version.unlink(missing_ok=True)
            if etag := response.headers.get("ETag"):
                version.write_text(etag)
        length = response.headers.get("Content-Length")
        with part.open("ab" if have else "wb") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
    return length is None or part.stat().st_size == have + int(length)
