"""A teacher's answers on disk: the same views come again with the same seed, in the next run or after a kill."""

import hashlib
import os
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import torch
from safetensors import torch as safetensors
from torch import Tensor, nn

from mnv2vision.contracts import Raw, RawDetections

_WAITING = 600.0
"""Seconds in which another process must have finished writing."""


class TeacherCache:
    """Raw outputs by the pixels that they are of, one by one, in an SQLite file for each teacher."""

    def __init__(self, folder: str | os.PathLike[str], teacher: nn.Module, about: str) -> None:
        """Open it, or make it.

        Args:
            folder: Of all teachers.
            teacher: Whose weights tell it from others.
            about: What else does, such as its preprocessing.
        """
        digest = hashlib.blake2b(about.encode(), digest_size=16)
        for name, tensor in sorted(teacher.state_dict().items()):
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
        rows = self._connection().execute(f"SELECT key, answer FROM answers WHERE key IN ({marks})", list(keys))
        return {key: safetensors.load(answer) for key, answer in rows}

    def write(self, answers: Mapping[bytes, Mapping[str, Tensor]]) -> None:
        """Keep answers, all of them or, after a kill, none."""
        rows = [(key, safetensors.save(dict(answer))) for key, answer in answers.items()]
        with (connection := self._connection()):
            connection.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?)", rows)

    def _connection(self) -> sqlite3.Connection:
        if self._opened is None or self._opened[0] != os.getpid():  # a connection must not cross a fork
            connection = sqlite3.connect(self._path, timeout=_WAITING, check_same_thread=False)
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, answer BLOB) WITHOUT ROWID")
            self._opened = os.getpid(), connection
        return self._opened[1]


def by_image(raw: Raw) -> list[dict[str, Tensor]]:
    """The raw output of each image of a batch."""
    if isinstance(raw, Tensor):
        return [{"raw": own} for own in raw.cpu().clone().unbind()]
    codes, logits = raw.box_codes.cpu().clone(), raw.class_logits.cpu().clone()
    return [
        {"box_codes": own, "class_logits": scores, "anchors": raw.anchors.cpu()}
        for own, scores in zip(codes, logits, strict=True)
    ]


def of_batch(answers: Sequence[Mapping[str, Tensor]], device: torch.device) -> Raw:
    """The raw output of a batch; the reverse of `by_image`."""
    if "raw" in answers[0]:
        return torch.stack([answer["raw"] for answer in answers]).to(device)
    names = [field.name for field in fields(RawDetections) if field.name != "anchors"]
    stacked = {name: torch.stack([answer[name] for answer in answers]).to(device) for name in names}
    return RawDetections(**stacked, anchors=answers[0]["anchors"].to(device))
