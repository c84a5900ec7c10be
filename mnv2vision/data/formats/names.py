"""Many names in two arrays, and checks of file names."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnv2vision.data.formats.index_cache import Arrays


@dataclass(frozen=True, slots=True)
class FileNames:
    """A sequence of names in two arrays: a million Python strings would be copied into every worker.

    Attributes:
        text: (b,) uint8, all names concatenated.
        ends: (n + 1,) start of each name, and the end of the last one.
    """

    text: NDArray[np.uint8]
    ends: NDArray[np.integer]

    @classmethod
    def of(cls, names: Sequence[str]) -> "FileNames":
        """Pack the names."""
        encoded = [os.fsencode(name) for name in names]
        return cls(np.frombuffer(b"".join(encoded), np.uint8), _ends(np.array([len(name) for name in encoded], int)))

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> str:
        return os.fsdecode(self.text[self.ends[index] : self.ends[index + 1]].tobytes())

    def take(self, order: NDArray[np.integer]) -> "FileNames":
        """The names at these indices."""
        lengths = np.diff(self.ends)[order]
        ends = _ends(lengths)
        source = np.repeat(self.ends[order] - ends[:-1], lengths) + np.arange(ends[-1], dtype=ends.dtype)
        return FileNames(self.text[source], ends)


def _ends(lengths: NDArray[np.integer]) -> NDArray[np.integer]:
    ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return ends.astype(np.int32) if ends[-1] < 2**31 else ends


def texts(arrays: Arrays, name: str) -> FileNames:
    """A text array with its ends."""
    return FileNames(arrays[name], arrays[f"{name}_ends"])


def leads_out(name: str) -> bool:
    """Whether a file name points outside its folder."""
    return os.path.isabs(name) or os.path.normpath(name).split(os.sep)[0] == os.pardir
