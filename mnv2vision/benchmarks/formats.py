"""A model's exported files side by side: accuracy, speed, size and memory, against PyTorch's eager mode."""

import json
import logging
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from mnv2vision.common.atomic import write_text
from mnv2vision.common.machine import processor
from mnv2vision.common.tables import write_rows
from mnv2vision.config.schema import Benchmark, Export
from mnv2vision.deploy.export import Target, check_folder, check_formats, is_installed, remove_partial
from mnv2vision.deploy.report import Proof
from mnv2vision.deploy.timing import Timing, time_model
from mnv2vision.engine.export import Exporter
from mnv2vision.engine.run_folder import claimed
from mnv2vision.errors import ConfigError, Mnv2visionError
from mnv2vision.inference.bundle import is_bundle
from mnv2vision.inference.runtimes.base import FORMATS
from mnv2vision.weights import registry

log = logging.getLogger(__name__)

ROUNDS = 3
EAGER = "torch"
"""The format's name of what the files are compared with: the model in PyTorch, as it is loaded."""


class Row(NamedTuple):
    """A file; None for what was not measured.

    Attributes:
        format: Of `FORMATS`, or `EAGER`.
        precision: Of weights and activations.
        metric: Name of the main metric.
        value: Of it, in 0..1.
        difference: From the model's.
        low: End of the difference's interval.
        high: Likewise.
        largest: Difference of a raw output, by its range.
        batch_1_ms: Median of the rounds' medians.
        batch_32_ms: Likewise.
        ratio_1: Median of the rounds' ratios of eager PyTorch's time to this one's.
        ratio_32: Likewise.
        size_mb: Of the model's files.
        peak_memory_mb: Of a process that runs it with one image.
        remark: Why something is missing.
    """

    format: str
    precision: str
    metric: str | None = None
    value: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    largest: float | None = None
    batch_1_ms: float | None = None
    batch_32_ms: float | None = None
    ratio_1: float | None = None
    ratio_32: float | None = None
    size_mb: float | None = None
    peak_memory_mb: float | None = None
    remark: str = ""


@dataclass
class _Entry:
    target: Target | None
    model: Path
    proof: Proof | None
    timings: list[Timing]
    remark: str = ""


def measure(config: Benchmark) -> list[Row]:
    """Export to every format and precision, measure each file, and write `table.md`, `.csv` and `.json` to `output`.

    Args:
        config: Of the command `benchmark`, with `checkpoint`.

    Returns:
        The table's rows, eager PyTorch first.
    """
    targets, output = _targets(config), Path(config.output)
    if is_bundle(str(config.checkpoint)):
        raise ConfigError(f"checkpoint={config.checkpoint}: is exported already; give the model it came from")
    for target in targets:
        check_folder(output / target.name)
    wanted = Export(config.checkpoint, output=config.output, dataset=config.dataset)
    if config.dataset:
        wanted = replace(wanted, quantize="int8")
    with claimed(output, "output"):
        remove_partial(output)
        exporter = Exporter(wanted, None)
        eager = _Entry(None, registry.resolve(str(config.checkpoint)), None, [])
        entries = [eager]
        for number, target in enumerate(targets, 1):
            log.info("file %d of %d", number, len(targets))
            entries.append(_exported(exporter, target, output / target.name))
        _time(entries)
        rows = [_row(entry, eager) for entry in entries]
        rows[0] = _of_the_model(rows[0], entries)
        text = table(rows, f"{processor()}, {eager.timings[0].threads} threads, medians of {ROUNDS} rounds")
        write_text(output / "table.md", text)
        write_rows(output / "table.csv", rows)
        write_text(output / "table.json", json.dumps([row._asdict() for row in rows], indent=1) + "\n")
    return rows


def _targets(config: Benchmark) -> list[Target]:
    names = [name for name in FORMATS if is_installed(name)] if config.formats == ("all",) else config.formats
    if not names:
        raise ConfigError("formats=all: none is installed: pip install 'mnv2vision[onnx]', for one")
    if missing := [name for name in FORMATS if config.formats == ("all",) and name not in names]:
        log.info("not installed, left out: %s", ", ".join(missing))
    if not config.dataset:
        log.info("int8 is left out, and accuracy is not measured: both take dataset=")
    return [
        target
        for name in check_formats(names, "float")
        for precision in FORMATS[name.format].precisions
        if precision != "int8" or config.dataset
        for target in [Target(name.format, precision)]
    ]


def _exported(exporter: Exporter, target: Target, folder: Path) -> _Entry:
    try:
        proof = exporter.export(target, folder, timed=False).proof
    except Mnv2visionError as error:
        return _Entry(target, folder, None, [], str(error))
    return _Entry(target, folder, proof, [], "" if proof.heads else "not run here")


def _time(entries: Sequence[_Entry]) -> None:
    """Each in a process of its own, one after another, round by round: other work on the machine meets all alike."""
    for number in range(1, ROUNDS + 1):
        log.info("speed, round %d of %d", number, ROUNDS)
        for entry in entries:
            if not entry.remark:
                entry.timings.append(time_model(entry.model))


def _row(entry: _Entry, eager: _Entry) -> Row:
    target, proof = entry.target, entry.proof
    row = Row(EAGER, "float") if target is None else Row(target.format, target.precision, remark=entry.remark)
    if proof is not None:
        row = _with_accuracy(row, proof)
    elif target is None:
        row = row._replace(size_mb=entry.model.stat().st_size / 1e6)
    if not entry.timings:
        return row
    singles, batches = _of_rounds(entry, lambda timing: timing.single), _of_rounds(entry, lambda timing: timing.batch)
    return row._replace(
        batch_1_ms=statistics.median(singles) * 1e3,
        batch_32_ms=statistics.median(batches) * 1e3,
        ratio_1=_ratio(_of_rounds(eager, lambda timing: timing.single), singles),
        ratio_32=_ratio(_of_rounds(eager, lambda timing: timing.batch), batches),
        peak_memory_mb=statistics.median(timing.peak_memory for timing in entry.timings) / 1e6,
    )


def _of_rounds(entry: _Entry, times: Callable[[Timing], Sequence[float]]) -> list[float]:
    return [statistics.median(times(timing)) for timing in entry.timings]


def _ratio(eager: Sequence[float], own: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(eager, own, strict=True))


def _with_accuracy(row: Row, proof: Proof) -> Row:
    """With the metric of the head that loses most."""
    outputs = [output.largest for head in proof.heads.values() for output in head.outputs.values()]
    row = row._replace(size_mb=proof.size / 1e6, largest=max(outputs, default=None))
    measured = [head for head in proof.heads.values() if head.main]
    if not measured:
        return row
    worst = max(measured, key=lambda head: head.drop)
    compared = worst.metrics[worst.main]
    return row._replace(
        metric=worst.main,
        value=compared.file,
        difference=compared.difference,
        low=compared.low,
        high=compared.high,
    )


def _of_the_model(row: Row, entries: Sequence[_Entry]) -> Row:
    """Eager PyTorch's row with the model's own metric."""
    for entry in entries:
        for head in entry.proof.heads.values() if entry.proof else ():
            if head.main:
                return row._replace(metric=head.main, value=head.metrics[head.main].model)
    return row


def table(rows: Sequence[Row], machine: str) -> str:
    """The rows in Markdown.

    Args:
        rows: Of the files.
        machine: What they were measured on, in words.
    """
    return "\n".join(_lines(rows, machine)) + "\n"


def _lines(rows: Sequence[Row], machine: str) -> Iterator[str]:
    metric = next((row.metric for row in rows if row.metric), "accuracy")
    yield (
        f"| format | precision | {metric} | difference (95 % interval) | largest output difference"
        " | batch 1, ms | batch 32, ms | times eager, batch 1 | batch 32 | MB | peak MB |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        cells = [
            row.format,
            row.precision,
            _cell(row.value, ".4f"),
            "" if row.difference is None else f"{row.difference:+.4f} ({row.low:+.4f} to {row.high:+.4f})",
            _cell(row.largest, ".1e"),
            _cell(row.batch_1_ms, ".2f"),
            _cell(row.batch_32_ms, ".1f"),
            _cell(row.ratio_1, ".2f"),
            _cell(row.ratio_32, ".2f"),
            _cell(row.size_mb, ".2f"),
            _cell(row.peak_memory_mb, ".0f"),
        ]
        yield f"| {' | '.join(cells)} |"
    yield f"\n{machine}."
    yield from (f"\n{row.format} {row.precision}: {row.remark}." for row in rows if row.remark)


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
