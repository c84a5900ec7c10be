"""Tables as files."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from mnv2vision.common.atomic import atomic_path


class Row(Protocol):
    """A named tuple."""

    def _asdict(self) -> Mapping[str, object]: ...


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows of one kind to a .csv file, their fields' names above."""
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0]._asdict().keys() if rows else ["empty"])
        writer.writeheader()
        writer.writerows(row._asdict() for row in rows)
