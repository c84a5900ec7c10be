"""Look a data set over before training: what the command `check` calls."""

import json
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mnv2vision.common.atomic import write_text
from mnv2vision.common.logs import warnings_of
from mnv2vision.common.progress import told
from mnv2vision.config.schema import Check
from mnv2vision.contracts import Target
from mnv2vision.data.check import boxes, classes, duplicates, files, masks
from mnv2vision.data.check.finding import KINDS, Finding
from mnv2vision.data.check.page import Table, write_page
from mnv2vision.data.check.records import Record, look_over, readable
from mnv2vision.data.formats import faults
from mnv2vision.data.sample import SampleSource, names_of
from mnv2vision.data.sources import Part, create_source, offered
from mnv2vision.engine.check_figures import class_table, reach_table, resize_table
from mnv2vision.engine.check_fix import FOLDER, check_fixable, check_own_files, kinds, table, write_fixed
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
    output, target = Path(config.output), None if kind is None else kind.target
    if config.fix:
        check_fixable(config)
    with claimed(output, "output"):
        report = _look(config.dataset, target, preprocessing)
        _write(output, report, config.dataset)
        log.info("%s: %s", output / "check.html", _summary(report.findings))
        if config.fix:
            _fix(output, report, config.dataset, target, preprocessing)
            _write(output, report, config.dataset)
    return report.findings


def _fix(
    output: Path,
    report: "_Report",
    dataset: Mapping[str, object],
    target: Target | None,
    preprocessing: Preprocessing,
) -> None:
    """Write a mended copy, look at that as well, and add both to the report."""
    folder = output / FOLDER
    changes, mended = write_fixed(dataset, target, report.sources, report.records, folder)
    if not changes:
        log.info("nothing that can be mended: no copy is written")
        return
    log.info("%s: looking at the mended copy", folder)
    again = _look(mended, target, preprocessing)
    check_own_files(again.records, folder)
    done, left = kinds(change.kind for change in changes), kinds(finding.kind for finding in again.findings)
    log.info("%s: mended: %s; still there: %s", folder, done, left)
    report.tables.insert(0, table(folder, changes, again.findings))
    report.fixed = {
        "folder": str(folder),
        "changes": [change._asdict() for change in changes],
        "left": [finding.as_dict() for finding in again.findings],
    }


def _task_of(dataset: str) -> str | None:
    """The task of a data set's first kind of annotations; None if it has none."""
    return next(
        (name for target in offered(dataset)[:1] for name, kind in TASKS.items() if kind.target == target), None
    )


def _summary(findings: Sequence[Finding]) -> str:
    if not findings:
        return "nothing was found"
    levels = Counter(finding.level for finding in findings)
    parts = [f"{level}s: {count}" for level, count in levels.items()]
    return "; ".join([*parts, kinds(finding.kind for finding in findings)])


@dataclass
class _Report:
    """What a look at a data set gave.

    Attributes:
        images: How many, by split.
        findings: The errors first.
        counts: Examples, by class and split.
        tables: Figures that are no faults.
        notes: What the reader said.
        sources: Samples by split.
        records: Of their images.
        fixed: Of a mended copy: its folder, what was done, and what is still found in it.
    """

    images: dict[str, int]
    findings: list[Finding]
    counts: dict[str, dict[str, int]]
    tables: list[Table]
    notes: list[str]
    sources: dict[str, SampleSource]
    records: dict[str, list[Record]]
    fixed: dict[str, object] | None = None


def _look(dataset: Mapping[str, object], target: Target | None, preprocessing: Preprocessing) -> _Report:
    size = preprocessing.image_size
    sources: dict[str, SampleSource] = {}
    records: dict[str, list[Record]] = {}
    names: dict[str, tuple[str, ...]] = {}
    found: list[Finding] = []
    notes: list[str] = []
    # Photos without labels have one part; what `split` will divide, with near-duplicates on one side, is whole.
    for part in PARTS[:1] if not target or dataset.get("split") is not None else PARTS:
        with faults.collected() as collected, warnings_of("mnv2vision.data", notes):
            try:
                source = sources[part] = create_source(dataset, part, *([target] if target else []))
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
    found = boxes.merged(found)
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
    images = {part: len(own) for part, own in records.items()}
    return _Report(images, found, by_class, tables, notes, sources, records)


def _write(output: Path, report: _Report, dataset: Mapping[str, object]) -> None:
    plain: dict[str, object] = {
        "images": report.images,
        "findings": [finding.as_dict() for finding in report.findings],
        "classes": report.counts,
        "figures": [asdict(table) for table in report.tables],
        "notes": report.notes,
    }
    if report.fixed is not None:
        plain["fixed"] = report.fixed
    write_text(output / "check.json", json.dumps(plain, indent=2, allow_nan=False, ensure_ascii=False) + "\n")
    name, root = dataset["name"], dataset.get("root")
    title, above = (str(name), "") if root is None else (f"{name}, {root}", os.path.join(str(root), ""))
    page = write_page(title, report.images, report.findings, report.tables, report.notes, root=above)
    write_text(output / "check.html", page)
