"""Tables of figures as Markdown, CSV and JSON."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields

from mnv2vision.errors import ConfigError
from mnv2vision.paper.published import Table
from mnv2vision.paper.reproduce import MEASURED, Figure, summary

_LABELS = {"madds": "MAdds", "madds in PyTorch": "MAdds in PyTorch", "top1": "top-1", "top5": "top-5"}


FORMATS = ("markdown", "csv", "json")
_PAGE = """\
# The paper, reproduced by command

Written by `python tools/reproduce.py output=docs/reproduction.md`; the command above each table prints it alone.
{summary}

What is published stands beside what the models here have, counted without computing anything. "Exact" is equal at the
published precision, by the table's own way of counting parameters (with or without those of batch norm) and of rounding
(tables 3 to 5, slim_v3 and d-li14 mix truncated and rounded figures: either is exact there). Peak memory, in bytes, is
that of all activations alive at one time in float32, layer by layer with batch norm folded. Accuracy and latency stand
as published; `evaluate=` and `latency=true` put measured ones beside them, as `python tools/reproduce.py --help` shows.

"""
_PLOTS = """
## Figures

`python tools/reproduce.py figure=all output=docs/figures` draws them all, as PNG and as SVG.

COCO mAP by multiply-adds: table 6, TensorFlow's zoo and others (`figure=table6`).
Each is as its own source measured it: the paper on test-dev, the others on validation images.

![COCO mAP by multiply-adds](figures/table6.png)

Figure 5, top-1 by multiply-adds over widths and image sizes, published (`figure=5`).

![Top-1 by multiply-adds](figures/figure5.png)

The same top-1 by parameters (`figure=parameters`).

![Top-1 by parameters](figures/parameters.png)

Memory of the largest feature maps, table 3 (`figure=memory`).

![Memory of feature maps by size](figures/table3.png)

Figure 6, linear bottlenecks and shortcuts, on a small scale: [measured.md](measured.md)
(`python tools/train.py dataset=imagenet dataset.root=<folder> recipe=ablation`). Section 5.1, `mv.split_inference`:
[memory.md](memory.md).

Figure 1: a spiral, embedded in n dimensions by a random matrix, after a ReLU, and back by the inverse (`figure=1`,
which also prints the error by n).

![A spiral behind ReLU in 2, 3, 5, 15 and 30 dimensions](figures/figure1.png)
"""


def check_format(form: str) -> None:
    """Raise ConfigError, with the formats there are, for another one."""
    if form not in FORMATS:
        raise ConfigError(f"format={form} is unknown; valid: {', '.join(FORMATS)}")


def render(checked: Sequence[tuple[Table, Sequence[Figure]]], form: str, *, page: bool = False) -> str:
    """The figures of some tables.

    Args:
        checked: Tables with their figures.
        form: "markdown", "csv" or "json"; the latter two have a record for each figure.
        page: Markdown that stands by itself, with an introduction; otherwise the summary is the last line.
    """
    check_format(form)
    figures = [figure for _, group in checked for figure in group]
    if form == "markdown":
        body = "\n".join(_markdown(table, group) for table, group in checked)
        line = summary(figures)
        return _PAGE.format(summary=f"{line[0].upper()}{line[1:]}.") + body + _PLOTS if page else f"{body}\n{line}\n"
    if form == "json":
        return json.dumps([asdict(figure) for figure in figures], indent=2, ensure_ascii=False) + "\n"
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Figure)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(figure) for figure in figures)
    return text.getvalue()


def _markdown(table: Table, figures: Sequence[Figure]) -> str:
    rows: dict[str, dict[str, Figure]] = {}
    for figure in figures:
        rows.setdefault(figure.row, {})[figure.column] = figure
    # A column of a table is a pair of a figure's column and one of the figure's two texts.
    columns: list[tuple[str, str, str]] = []
    for column in sorted(dict.fromkeys(figure.column for figure in figures), key="latency".__eq__):  # it comes last
        of_column = [figure for figure in figures if figure.column == column]
        label = _LABELS.get(column, column)
        published = any(figure.published for figure in of_column)
        if published:
            columns.append((label, column, "published"))
        if any(figure.ours for figure in of_column):
            ours = "measured" if column in MEASURED else "ours"
            columns.append((ours if published else f"{label}, {ours}", column, "ours"))
    compared = any(figure.published and figure.column not in MEASURED for figure in figures)
    heading = ["model", *(label for label, _, _ in columns), *(["agreement"] if compared else [])]
    lines = [heading, ["---"] * len(heading)]
    for name, by_column in rows.items():
        cells = [str(getattr(by_column[column], text)) if column in by_column else "" for _, column, text in columns]
        lines.append([name, *cells, *([_agreement(by_column.values())] if compared else [])])
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    reasons = "".join(f"- {line}\n" for line in _reasons(figures))
    parts = [
        f"## {table.title} (`table={table.name}`)",
        f"{table.source}. {table.notes}".strip(),
        f"```sh\npython tools/reproduce.py table={table.name}\n```",
        body,
    ]
    if reasons:
        parts.append(reasons.rstrip())
    return "\n\n".join(parts) + "\n"


def _agreement(figures: Iterable[Figure]) -> str:
    """The states of a row's figures in a few words."""
    columns: dict[str, list[str]] = {}
    for figure in figures:
        if figure.published and figure.column not in MEASURED:
            missed = figure.state == "not matched" and figure.deviation
            state = f"{figure.state} ({figure.deviation})" if missed else figure.state
            columns.setdefault(state, []).append(_LABELS.get(figure.column, figure.column))
    if len(columns) == 1:
        return next(iter(columns))
    return "; ".join(f"{', '.join(names)} {state}" for state, names in columns.items())


def _reasons(figures: Iterable[Figure]) -> list[str]:
    """Each reason once, with the figures it is for."""
    places: dict[str, dict[str, list[str]]] = {}
    for figure in figures:
        if figure.reason:
            label = _LABELS.get(figure.column, figure.column)
            places.setdefault(figure.reason, {}).setdefault(figure.row, []).append(label)
    return [
        "; ".join(f"{row} ({', '.join(labels)})" for row, labels in by_row.items()) + f": {reason}."
        for reason, by_row in places.items()
    ]
