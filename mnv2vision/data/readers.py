"""The worker processes of a data loader: they answer to the main process only, and end with it."""

import multiprocessing
import os
import signal
import threading
import time
from multiprocessing import queues, util
from pathlib import Path

from torch.utils.data import get_worker_info

from mnv2vision.common.faults import READER_WITHOUT_DESCRIPTORS

_SPARE = 3
"""Descriptors with which a folder is removed."""
_CHECK = 1.0
"""Seconds between two checks of the main process."""
_SHARED = Path("/dev/shm")
_UNDER_WAY = 3
"""Batches per worker: two prefetched, one in use."""


def start_reader(worker_id: int) -> None:
    """Set up a worker process, before its first batch.

    Signals sent to all processes of a run are left to the main process, which may need more batches for a checkpoint.
    A worker ends when the main process is killed, or when it cannot send a batch: otherwise one would wait for the
    other forever.
    """
    parent = multiprocessing.parent_process()
    if parent is None or parent.pid is None or os.name != "posix":
        return
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_heed, args=(parent.pid,), daemon=True).start()
    queues.Queue._on_queue_feeder_error = staticmethod(_end)  # type: ignore[attr-defined]
    # Given back at its end: where descriptors have run out, multiprocessing could not tidy up, and says so at length.
    for spare in [os.open(os.devnull, os.O_RDONLY) for _ in range(_SPARE)]:
        util.Finalize(None, os.close, (spare,), exitpriority=0)


def has_room(size: int) -> bool:
    """Whether shared memory has room for the batches of all workers of this loader and a second one.

    Half of it is left to others: semaphores, other runs.

    Args:
        size: Bytes of a batch.
    """
    info = get_worker_info()
    if info is None or not _SHARED.is_dir():
        return True
    room = os.statvfs(_SHARED)
    total, free = room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize
    return 2 * info.num_workers * _UNDER_WAY * size <= total / 2 and free - size >= total / 4


def _heed(parent: int) -> None:
    """End this process with the main one, or on its signal."""
    while os.getppid() == parent:
        if hasattr(signal, "sigtimedwait"):
            told = signal.sigtimedwait({signal.SIGTERM}, _CHECK)
            if told is not None and told.si_pid == parent:
                break
        else:  # macOS
            time.sleep(_CHECK)
    os._exit(0)


def _end(error: BaseException, batch: object) -> None:
    few = "open files" in str(error) or getattr(error, "errno", None) in (23, 24)
    os._exit(READER_WITHOUT_DESCRIPTORS if few else 70)
