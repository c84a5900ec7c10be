"""Look a data set over before training: what the command `check` calls."""

import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from mnv2vision.common.atomic import write_text
from mnv2vision.common.progress import told
from mnv2vision.config.schema import Check
from mnv2vision.data.check import boxes, classes, duplicates, files, masks
from mnv2vision.data.check.finding import KINDS, Finding
from mnv2vision.data.check.page import Table, write_page
from mnv2vision.data.check.records import Record, look_over, readable
from mnv2vision.data.formats import faults
from mnv2vision.data.sample import SampleSource, names_of
from mnv2vision.data.sources import Part, create_source, offered
from mnv2vision.engine.check_figures import class_table, reach_table, resize_table
from mnv2vision.engine.run_folder import claimed
from mnv2vision.errors import DataError
from mnv2vision.models.tasks import TASKS, find_task
from mnv2vision.preprocessing import Preprocessing, as_pair

log = logging.getLogger(__name__)

PARTS: tuple[Part, ...] = ("train", "val")


def check(config: Check) -> list[Finding]:
    """Look at every image of the training and validation parts of a data set, and write check.html and check.json.

    Args:
        config: Of the command `check`.

    Returns:
        What was found, the errors first, by kind.

    Raises:
        ConfigError: For options that cannot work.
        DataError: If there is no data set.
    """
    root = config.dataset.get("root")
    if root is not None and not os.path.exists(str(root)):
        raise DataError(f"{root}: the data set's root folder does not exist")
    task = config.task or _task_of(str(config.dataset["name"]))
    kind = None if task is None else find_task(task)
    head = (TASKS["classification"] if kind is None else kind).head
    size = head.image_size if config.model.image_size is None else config.model.image_size
    preprocessing = Preprocessing(image_size=as_pair(size), resize=head.resize)
    output = Path(config.output)
    with claimed(output, "output"):
        look = _Look(config.dataset, None if kind is None else kind.target, preprocessing)
        _write(output, look, f"{config.dataset['name']}{'' if root is None else f', {root}'}")
    log.info("%s: %s", output / "check.html", _summary(look.findings))
    return look.findings


def _task_of(dataset: str) -> str | None:
    """The task of a data set's first kind of annotations; None if it has none."""
    return next(
        (name for target in offered(dataset)[:1] for name, kind in TASKS.items() if kind.target == target), None
    )


def _summary(findings: Sequence[Finding]) -> str:
    if not findings:
        return "nothing was found"
    levels = Counter(finding.level for finding in findings)
    kinds = Counter(finding.kind for finding in findings)
    parts = [f"{level}s: {count}" for level, count in levels.items()]
    return "; ".join([*parts, ", ".join(f"{kind} {count}" for kind, count in kinds.items())])


class _Look:
    """A look at a data set.

    Attributes:
        records: Of the images, by split.
        findings: The errors first.
        tables: Figures that are no faults.
        counts: Examples by class and split.
        notes: What the reader said.
    """

    def __init__(self, dataset: Mapping[str, object], target: str | None, preprocessing: Preprocessing) -> None:
        self.records: dict[str, list[Record]] = {}
        self.notes: list[str] = []
        self.counts: dict[str, dict[str, int]] = {}
        self.tables: list[Table] = []
        names: dict[str, tuple[str, ...]] = {}
        found: list[Finding] = []
        size = preprocessing.image_size
        for part in PARTS if target else PARTS[:1]:
            source, own = self._read(dataset, part, target, found)
            if source is None:
                continue
            records = list(told(look_over(source, part), len(source), f"images of {part}"))
            self.records[part] = records
            names[part] = names_of(source, target) if target else ()
            of_reader = list(boxes.of_reader(own, part, records))
            found += of_reader
            found += boxes.find(records, names[part], size, {finding.file for finding in of_reader})
            found += masks.find(records, names[part])
        everything = [record for records in self.records.values() for record in records]
        found += files.find(everything, size)
        found += duplicates.find(everything)
        if target and names:
            counts = {part: classes.count(self.records[part], len(names[part])) for part in names}
            found += classes.find(names, counts)
            if len(set(names.values())) == 1:
                known = next(iter(names.values()))
                self.tables.append(class_table(known, counts))
                for label, name in enumerate(known):
                    self.counts[name] = {part: int(own[label]) for part, own in counts.items()}
        if sizes := [record.size for record in readable(everything)]:
            self.tables.append(resize_table(sizes, preprocessing))
        if (table := reach_table(everything, size)) is not None:
            self.tables.append(table)
        order = list(KINDS)
        self.findings = sorted(found, key=lambda finding: (finding.level, order.index(finding.kind)))

    def _read(
        self, dataset: Mapping[str, object], part: Part, target: str | None, found: list[Finding]
    ) -> tuple[SampleSource | None, list[faults.Fault]]:
        with faults.collected() as collected, _warnings(self.notes):
            try:
                return create_source(dataset, part, *([target] if target else [])), collected
            except DataError as error:
                found.append(Finding("refused", part, "", str(error)))
                return None, collected


@contextmanager
def _warnings(notes: list[str]) -> Iterator[None]:
    """Keep what readers warn of."""

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if (line := record.getMessage()) not in notes:
                notes.append(line)

    keeper = Keeper(logging.WARNING)
    readers = logging.getLogger("mnv2vision.data")
    readers.addHandler(keeper)
    try:
        yield
    finally:
        readers.removeHandler(keeper)


def _write(output: Path, look: _Look, title: str) -> None:
    images = {part: len(records) for part, records in look.records.items()}
    report = {
        "images": images,
        "findings": [finding.as_dict() for finding in look.findings],
        "classes": look.counts,
        "figures": [
            {"title": table.title, "head": table.head, "rows": table.rows, "words": table.words}
            for table in look.tables
        ],
        "notes": look.notes,
    }
    write_text(output / "check.json", json.dumps(report, indent=2, allow_nan=False, ensure_ascii=False) + "\n")
    write_text(output / "check.html", write_page(title, images, look.findings, look.tables, look.notes))
