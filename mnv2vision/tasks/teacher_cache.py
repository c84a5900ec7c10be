"""A teacher's answers on disk: the same views come again with the same seed, in the next run or after a kill."""

import hashlib
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import torch
from safetensors import torch as safetensors
from torch import Tensor

from mnv2vision.contracts import Raw, RawDetections
from mnv2vision.errors import ConfigError

_WAITING = 600.0
"""Seconds in which another process must have finished writing."""


class TeacherCache:
    """Raw outputs by the pixels that they are of, one by one, in an SQLite file for each teacher."""

    def __init__(self, folder: str | os.PathLike[str], weights: Mapping[str, Tensor], about: str) -> None:
        """Open it, or make it.

        Args:
            folder: Of all teachers.
            weights: Which tell the teacher from others.
            about: What else does, such as its structure and its preprocessing.
        """
        digest = hashlib.blake2b(about.encode(), digest_size=16)
        for name, tensor in sorted(weights.items()):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._path = Path(folder) / f"{digest.hexdigest()}.sqlite"
        self._opened: tuple[int, sqlite3.Connection] | None = None

    def keys(self, images: Tensor) -> list[bytes]:
        """What (N, 3, H, W) pixel values are found by."""
        pixels = images.detach().cpu().contiguous()
        about = f"{pixels.dtype} {tuple(pixels.shape[1:])}".encode()
        return [hashlib.blake2b(about + image.numpy().tobytes(), digest_size=16).digest() for image in pixels]

    def read(self, keys: Sequence[bytes]) -> dict[bytes, Mapping[str, Tensor]]:
        """What is there of these keys."""
        marks = ",".join("?" * len(keys))
        with self._opened_file() as file:
            rows = file.execute(f"SELECT key, answer FROM answers WHERE key IN ({marks})", list(keys)).fetchall()
        return {key: safetensors.load(answer) for key, answer in rows}

    def write(self, answers: Mapping[bytes, Mapping[str, Tensor]]) -> None:
        """Keep answers, all of them or, after a kill, none."""
        rows = [(key, safetensors.save(dict(answer))) for key, answer in answers.items()]
        with self._opened_file() as file, file:
            file.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?)", rows)

    @contextmanager
    def _opened_file(self) -> Iterator[sqlite3.Connection]:
        try:
            if self._opened is None or self._opened[0] != os.getpid():  # a connection must not cross a fork
                file = sqlite3.connect(self._path, timeout=_WAITING, check_same_thread=False)
                file.execute("PRAGMA synchronous = NORMAL")
                file.execute("CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, answer BLOB) WITHOUT ROWID")
                self._opened = os.getpid(), file
            yield self._opened[1]
        except sqlite3.Error as error:  # damaged, or a disk that is full or read-only
            raise ConfigError(
                f"distill.cache: {self._path}: {error}; remove the file if it is damaged, or give another folder"
            ) from error


def by_image(raw: Raw) -> list[dict[str, Tensor]]:
    """The raw output of each image of a batch."""
    if isinstance(raw, Tensor):
        return [{"raw": _own(part)} for part in raw]
    anchors = _own(raw.anchors)
    return [
        {"box_codes": _own(codes), "class_logits": _own(logits), "anchors": anchors}
        for codes, logits in zip(raw.box_codes, raw.class_logits, strict=True)
    ]


def _own(part: Tensor) -> Tensor:
    return part.detach().cpu().clone(memory_format=torch.contiguous_format)  # as a file wants it


def of_batch(answers: Sequence[Mapping[str, Tensor]], device: torch.device) -> Raw:
    """The raw output of a batch; the reverse of `by_image`."""
    if "raw" in answers[0]:
        return torch.stack([answer["raw"] for answer in answers]).to(device)
    names = [field.name for field in fields(RawDetections) if field.name != "anchors"]
    stacked = {name: torch.stack([answer[name] for answer in answers]).to(device) for name in names}
    return RawDetections(**stacked, anchors=answers[0]["anchors"].to(device))
