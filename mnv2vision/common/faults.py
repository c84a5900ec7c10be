"""One-line messages for system failures: a full disk, a killed worker, too many open files, no memory."""

import errno
import re

_READER = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is killed by signal: ([\w ]+)|exited)")
READER_WITHOUT_DESCRIPTORS = 71  # EX_OSERR
_FEW_FILES = "too many open files: raise the limit (ulimit -n), or lower loader.workers"
_FULL = ("PytorchStreamWriter failed", "unexpected pos", "No space left on device")


def one_line(error: BaseException) -> str | None:
    """The message for an error caused by the system; None for any other error.

    Args:
        error: What was raised.
    """
    text = _told(error)
    if isinstance(error, OSError):
        return _os_error(error)
    if isinstance(error, MemoryError) or "out of memory" in text:
        return "out of memory: lower loader.batch_size, loader.workers or model.image_size"
    if not isinstance(error, RuntimeError):
        return None
    if found := _READER.search(text):
        if found[2]:
            return f"data-loading worker (pid {found[1]}) was killed ({found[2].strip()}), probably out of memory"
        if f"exit code {READER_WITHOUT_DESCRIPTORS}" in text:
            return _FEW_FILES
        return f"data-loading worker (pid {found[1]}) exited; loader.workers=0 shows the reason"
    if "Too many open files" in text or "ancdata" in text:
        return _FEW_FILES
    if any(words in text for words in _FULL):
        return "no space left on the disk"
    return None


def _told(error: BaseException | None) -> str:
    """Messages of an error and its causes, the first cause first: it says why a worker died."""
    if error is None:
        return ""
    return f"{_told(error.__cause__ or error.__context__)}\n{error}"


def _os_error(error: OSError) -> str | None:
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return _FEW_FILES
    if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENOMEM):
        return None
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    if error.filename is None:  # processes communicate through /dev/shm
        return "no space left on the disk, or in /dev/shm" if full else error.strerror
    return f"{error.filename}: {'no space left on the disk' if full else error.strerror}"
