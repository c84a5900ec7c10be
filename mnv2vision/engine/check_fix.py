"""A mended copy of a data set that was looked at: what `check fix=copy` adds."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from mnv2vision.config.schema import Check
from mnv2vision.contracts import Target
from mnv2vision.data.check.finding import Finding
from mnv2vision.data.check.page import Table
from mnv2vision.data.check.records import Record
from mnv2vision.data.formats.voc import Voc
from mnv2vision.data.formats.yolo import Yolo
from mnv2vision.data.mend import coco, voc, yolo
from mnv2vision.data.mend.copy import copy_folder
from mnv2vision.data.mend.plan import Change, Edits, Plan, make_plan
from mnv2vision.data.sample import SampleSource
from mnv2vision.errors import ConfigError, DataError

FOLDER = "fixed"
"""Below `output`."""
_EDITORS: dict[str, Callable[[Plan], Edits]] = {"coco": coco.edit, "voc": voc.edit, "yolo": yolo.edit}


def check_fixable(config: Check) -> None:
    """Raise ConfigError for a data set or an output that `fix=copy` cannot work with."""
    root, name, folder = config.dataset.get("root"), config.dataset["name"], Path(config.output) / FOLDER
    if root is None:
        raise ConfigError(f"fix=copy: dataset={name} has no files")
    if config.dataset.get("sbd") is not None:
        raise ConfigError("fix=copy: files of dataset.sbd are not mended: leave it out")
    if folder.exists():
        raise ConfigError(f"fix=copy: {folder} is there already: give another output")
    top = os.path.realpath(str(root))
    if _inside(os.path.realpath(folder), os.path.dirname(top) if os.path.isfile(top) else top):
        raise ConfigError(f"fix=copy: output={config.output} lies in dataset.root={root}: give one outside of it")


def write_fixed(
    dataset: Mapping[str, object],
    target: Target | None,
    sources: Mapping[str, SampleSource],
    records: Mapping[str, Sequence[Record]],
    folder: Path,
) -> tuple[list[Change], Mapping[str, object]]:
    """Write a mended copy; none where nothing can be mended.

    Args:
        dataset: The section of the configuration.
        target: The annotations that were looked at.
        sources: Samples by split.
        records: Of their images.
        folder: Of the copy.

    Returns:
        What was done, and the section for the copy.

    Raises:
        ConfigError: For images outside of the data set's folder.
        DataError: If no split could be read.
    """
    root = Path(str(dataset["root"]))
    if not records:
        raise DataError(f"{root}: no split can be read, so nothing can be mended: see check.html")
    one = dataset.get("train_split") == dataset.get("val_split")
    listed = dataset["name"] == "coco" or (dataset["name"] == "voc" and voc.has_lists(root))
    plan = make_plan(dataset, sources, records, target, listed=listed and not one)
    edits = _EDITORS[str(dataset["name"])](plan) if dataset["name"] in _EDITORS else Edits()
    done = [change for split in plan.gone for change in plan.gone[split].values()] + edits.changes
    if not done:
        return [], dataset
    alone = set(plan.dropped)
    for split, own in plan.gone.items():
        source = sources[split]
        if isinstance(source, Voc | Yolo):
            gone = [index for index, change in own.items() if os.path.abspath(change.file) in plan.dropped]
            alone.update(os.path.abspath(file) for index in gone for file in source.annotation_files(index))
    copy_folder(plan.top, folder, alone, edits.texts)
    return done, {**dataset, "root": str(folder / root.name if root.is_file() else folder)}


def check_own_files(records: Mapping[str, Sequence[Record]], folder: Path) -> None:
    """Raise DataError, and remove a copy, if its lists name the files of the original."""
    for record in (record for own in records.values() for record in own):
        if not _inside(record.path, os.path.abspath(folder)):
            shutil.rmtree(folder)
            raise DataError(f"fix=copy: the copy would read {record.path}: give paths below dataset.root in its lists")


def table(folder: Path, changes: Sequence[Change], left: Sequence[Finding]) -> Table:
    """What was done, counted, and what was not."""
    rows = Counter((change.kind, _short(change.what)) for change in changes)
    words = f"In {folder}, checked again. Still there: {kinds(finding.kind for finding in left)}."
    head = ["found", "done", "how often"]
    return Table("The mended copy", head, [[*told, f"{count:,}"] for told, count in rows.items()], words)


def kinds(found: Iterable[str]) -> str:
    """Kinds of findings or changes, counted."""
    return ", ".join(f"{kind} {count}" for kind, count in Counter(found).items()) or "nothing"


def _short(what: str) -> str:
    """What is done, without the place."""
    return "clipped" if what.endswith("clipped") else what.partition(";")[0] if what.startswith("left") else "left out"


def _inside(path: str, folder: str) -> bool:
    return os.path.abspath(path).startswith(os.path.join(folder, ""))
