"""Downloads that are complete, checked, and resumed after a broken connection."""

import errno
import hashlib
import http.client
import os
import socket
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from mnv2vision.errors import WeightsError

_CHUNK = 1 << 20
_TRIES = 3
_TIMEOUT = 30.0  # seconds without a byte


def offline() -> bool:
    """Whether MNV2VISION_OFFLINE, HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids using the network."""
    names = ("MNV2VISION_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(name, "").lower() in ("1", "on", "yes", "true") for name in names)


def no_way_to(url: str) -> str | None:
    """Why an address cannot be reached: its host has no known address, or no route leads there; None if it may work.

    The hub's client would retry for half a minute before it gave up.

    Args:
        url: An http or https URL.
    """
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host):
        return None  # the proxy resolves the host
    try:
        socket.create_connection((host, parts.port or (80 if parts.scheme == "http" else 443)), _TIMEOUT).close()
    except OSError as error:
        if _is_final(error):
            return f"no network: {host}: {error.strerror or error}"
    return None


def _is_final(error: BaseException) -> bool:
    """Whether retrying is pointless: no such host, or no route to it."""
    cause = getattr(error, "reason", error)
    return isinstance(cause, socket.gaierror) or getattr(cause, "errno", None) in (
        errno.ENETUNREACH,
        errno.EHOSTUNREACH,
    )


def sha256(path: Path) -> str:
    """A file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(url: str, path: Path, *, digest: str = "") -> Path:
    """Download a file, unless it exists already.

    If the connection breaks, what has arrived stays in `<path>.part`, and the next call continues from there.

    Args:
        url: An http or https URL.
        path: The file to write.
        digest: Its SHA-256 in hexadecimal, or the beginning of it; empty if unknown.

    Returns:
        `path`.

    Raises:
        WeightsError: Without a network, for a broken connection, or for a file with another hash; it says what to do.
    """
    if path.exists():
        return path
    by_hand = f"; a copy can be placed at {path}"
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
            if error.code == 416:  # the part is longer than the file
                part.unlink(missing_ok=True)
                reason = "the file has changed"
                continue
            raise WeightsError(f"{url}: the server answered {error.code} {error.reason}{by_hand}") from error
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
            if _is_final(error):
                raise WeightsError(f"{url}: download failed (no network: {reason}){by_hand}") from error
            continue
        if done:
            break
        reason = "the connection broke"
    else:
        got = f" after {part.stat().st_size} bytes, which were kept" if part.exists() else ""
        raise WeightsError(f"{url}: download failed ({reason}){got}{by_hand}")
    found = sha256(part)
    if not found.startswith(digest):
        part.unlink()
        version.unlink(missing_ok=True)
        raise WeightsError(
            f"{url}: its SHA-256 is {found}, not {digest}: damaged, or replaced by its publisher; it was deleted"
        )
    part.replace(path)
    version.unlink(missing_ok=True)
    return path


def _fetch(url: str, part: Path, version: Path) -> bool:
    """Append what is missing to `part`; whether it is complete now.

    `version` stores the server's ETag of the partly downloaded file: of a changed file, all is sent again.
    """
    have = part.stat().st_size if part.exists() and version.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "mnv2vision"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", version.read_text())
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
        if response.status != 206:  # the server does not resume, or the file has changed
            have = 0
            version.unlink(missing_ok=True)
            if etag := response.headers.get("ETag"):
                version.write_text(etag)
        length = response.headers.get("Content-Length")
        with part.open("ab" if have else "wb") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
    return length is None or part.stat().st_size == have + int(length)
