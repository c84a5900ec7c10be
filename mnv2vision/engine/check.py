"""Look a data set over before training: what the command `check` calls."""

import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from mnv2vision.common.atomic import write_text
from mnv2vision.common.progress import told
from mnv2vision.config.schema import Check
from mnv2vision.contracts import Target
from mnv2vision.data.check import boxes, classes, duplicates, files, masks
from mnv2vision.data.check.finding import KINDS, Finding
from mnv2vision.data.check.page import Table, write_page
from mnv2vision.data.check.records import Record, look_over, readable
from mnv2vision.data.formats import faults
from mnv2vision.data.sample import names_of
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
        report = _look(config.dataset, None if kind is None else kind.target, preprocessing)
        _write(output, report, str(config.dataset["name"]), None if root is None else str(root))
    log.info("%s: %s", output / "check.html", _summary(report.findings))
    return report.findings


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


@dataclass
class _Report:
    """What a look at a data set gave.

    Attributes:
        images: How many, by split.
        findings: The errors first.
        counts: Examples, by class and split.
        tables: Figures that are no faults.
        notes: What the reader said.
    """

    images: dict[str, int]
    findings: list[Finding]
    counts: dict[str, dict[str, int]]
    tables: list[Table]
    notes: list[str]


def _look(dataset: Mapping[str, object], target: Target | None, preprocessing: Preprocessing) -> _Report:
    size = preprocessing.image_size
    records: dict[str, list[Record]] = {}
    names: dict[str, tuple[str, ...]] = {}
    found: list[Finding] = []
    notes: list[str] = []
    # Photos without labels have one part; what `split` will divide, with near-duplicates on one side, is whole.
    for part in PARTS[:1] if not target or dataset.get("split") is not None else PARTS:
        with faults.collected() as collected, _warnings(notes):
            try:
                source = create_source(dataset, part, *([target] if target else []))
            except DataError as error:
                log.warning("%s is not looked at: %s", part, error)
                found.append(Finding("refused", part, "", str(error)))
                continue
        records[part] = own = list(told(look_over(source, part), len(source), f"images of {part}"))
        of_reader = list(boxes.of_reader(collected, part, own))
        found += of_reader
        if target:
            names[part] = names_of(source, target)
            found += boxes.find(own, names[part], size, {finding.file for finding in of_reader})
            found += masks.find(own, names[part])
    everything = [record for own in records.values() for record in own]
    found += files.find(everything, size)
    found += duplicates.find(everything)
    counts = {part: classes.count(records[part], len(names[part])) for part in names}
    found += classes.find(names, counts)
    known = next(iter(names.values()), ())
    by_class, tables = {}, list[Table]()
    if known and len(set(names.values())) == 1:
        by_class = {name: {part: int(counts[part][label]) for part in counts} for label, name in enumerate(known)}
        tables.append(class_table(known, counts))
    if sizes := [record.size for record in readable(everything)]:
        tables.append(resize_table(sizes, preprocessing))
    if (reach := reach_table(everything, size)) is not None:
        tables.append(reach)
    order = list(KINDS)
    found.sort(key=lambda finding: (finding.level, order.index(finding.kind)))
    return _Report({part: len(own) for part, own in records.items()}, found, by_class, tables, notes)


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


def _write(output: Path, report: _Report, dataset: str, root: str | None) -> None:
    plain = {
        "images": report.images,
        "findings": [finding.as_dict() for finding in report.findings],
        "classes": report.counts,
        "figures": [asdict(table) for table in report.tables],
        "notes": report.notes,
    }
    write_text(output / "check.json", json.dumps(plain, indent=2, allow_nan=False, ensure_ascii=False) + "\n")
    title, above = (dataset, "") if root is None else (f"{dataset}, {root}", os.path.join(root, ""))
    page = write_page(title, report.images, report.findings, report.tables, report.notes, root=above)
    write_text(output / "check.html", page)
