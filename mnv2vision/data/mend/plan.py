"""What a mended copy of a data set leaves out: images that cannot be read, copies and leaks."""

import os
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mnv2vision.data.check.duplicates import annotated_alike
from mnv2vision.data.check.records import Record
from mnv2vision.data.sample import SampleSource
from mnv2vision.errors import ConfigError

UNREADABLE = frozenset({"missing file", "empty file", "not an image", "unreadable image"})
"""Kinds of findings whose images are left out."""


class Change(NamedTuple):
    """What is done about a finding.

    Attributes:
        kind: Of the finding.
        split: That it is in.
        file: The image or annotation.
        what: Is done.
    """

    kind: str
    split: str
    file: str
    what: str


@dataclass(frozen=True)
class Plan:
    """A data set, and what is left out of it.

    Attributes:
        dataset: The section of the configuration.
        top: The folder that is copied.
        sources: Samples by split.
        records: Of their images, in order.
        gone: What is left out, by split and index.
        dropped: Whole paths of the images that no split keeps.
    """

    dataset: Mapping[str, object]
    top: str
    sources: Mapping[str, SampleSource]
    records: Mapping[str, Sequence[Record]]
    gone: Mapping[str, Mapping[int, Change]]
    dropped: frozenset[str]

    def kept(self, split: str) -> list[tuple[int, Record]]:
        """The images of a split that stay and have annotations that fit, with their indices."""
        return [
            (index, record)
            for index, record in enumerate(self.records[split])
            if index not in self.gone[split] and not record.problem
        ]


@dataclass
class Edits:
    """What changes beside whole images.

    Attributes:
        texts: New contents of annotation files and lists, by whole path.
        changes: What is done in them.
    """

    texts: dict[str, str] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)


def make_plan(
    dataset: Mapping[str, object],
    sources: Mapping[str, SampleSource],
    records: Mapping[str, Sequence[Record]],
    target: str | None,
    *,
    listed: bool,
) -> Plan:
    """Choose what is left out.

    Args:
        dataset: The section of the configuration.
        sources: Samples by split.
        records: Of their images.
        target: The annotations that were looked at: "label", "boxes", "mask".
        listed: Whether splits are lists, so that a file that is in two can be left out of one.

    Raises:
        ConfigError: For images outside the data set's folder.
    """
    root = os.path.abspath(str(dataset["root"]))
    top = os.path.dirname(root) if os.path.isfile(root) else root
    for record in (record for own in records.values() for record in own):
        if not os.path.abspath(record.path).startswith(os.path.join(top, "")):
            raise ConfigError(f"fix=copy: {record.path} lies outside of dataset.root={dataset['root']}: move it there")
    gone = _leave_out(records, target, listed=listed)
    for split, source in sources.items():
        if getattr(source, "flat", False):  # labels go by the order of files
            gone[split] = {}
    kept = {record.path for split, own in records.items() for i, record in enumerate(own) if i not in gone[split]}
    paths = {change.file for changes in gone.values() for change in changes.values()}
    return Plan(dataset, top, sources, records, gone, frozenset(map(os.path.abspath, paths - kept)))


def _leave_out(
    records: Mapping[str, Sequence[Record]], target: str | None, *, listed: bool
) -> dict[str, dict[int, Change]]:
    gone: dict[str, dict[int, Change]] = {split: {} for split in records}
    same: dict[bytes, list[tuple[int, Record]]] = defaultdict(list)
    for split, own in records.items():
        for index, record in enumerate(own):
            if record.kind in UNREADABLE:
                gone[split][index] = Change(record.kind, split, record.path, "left out")
            elif record.look is not None:
                same[record.digest].append((index, record))
    for group in same.values():
        if len({record.label for _, record in group}) > 1:  # which class is right, a person decides
            continue
        held = [record.path for _, record in group if record.split == "val"]
        kept: list[Record] = []
        for index, record in group:
            told = None
            if record.split == "train" and held:
                if listed or record.path not in held:
                    told = Change("leak", "train", record.path, f"left out of train; val has {held[0]}")
            elif other := _copy_of(record, kept, target):
                told = Change("copy", record.split, record.path, f"left out; {other.path} stays, annotated alike")
            if told is None:
                kept.append(record)
            else:
                gone[record.split][index] = told
    return gone


def _copy_of(record: Record, kept: Collection[Record], target: str | None) -> Record | None:
    """A record of the same split and file contents, if it is annotated alike for certain."""
    for other in kept:
        known = not (record.problem or other.problem)
        if target == "boxes":
            known &= record.boxes is not None and other.boxes is not None
        if known and other.split == record.split and annotated_alike(record, other):
            return other
    return None
