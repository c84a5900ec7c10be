"""Published figures compared with ours."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from mnv2vision.errors import ConfigError
from mnv2vision.paper.counts import Value, measure
from mnv2vision.paper.published import TABLE_2, TABLE_3, Rounding, Row, Table
from mnv2vision.paper.published_classification import SLIM_V1, SLIM_V2, SLIM_V3, TABLE_4
from mnv2vision.paper.published_detection import DETECTION_ZOO, TABLE_5, TABLE_6
from mnv2vision.paper.published_projects import D_LI14, DETECTORS, PADDLE, TIMM, TORCHVISION
from mnv2vision.paper.published_segmentation import DEEPLAB_ZOO, TABLE_7

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        *(TABLE_2, TABLE_3, TABLE_4, TABLE_5, TABLE_6, TABLE_7),
        *(SLIM_V2, SLIM_V1, SLIM_V3, DETECTION_ZOO, DEEPLAB_ZOO),
        *(TORCHVISION, TIMM, PADDLE, D_LI14, DETECTORS),
    )
}

MEASURED = ("top1", "top5", "mAP", "mIoU", "latency")
"""Columns that need weights or a machine; all others are counted."""
TOLERANCE = 0.02
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}
_NUMBER = re.compile(r"(\d+)(?:\.(\d+))?([KMB]?)")


@dataclass(frozen=True)
class Figure:
    """A figure of a table.

    Attributes:
        table: Name of the table.
        row: Name of the row.
        column: Name of the column.
        published: As published; empty if unpublished.
        ours: In the published unit, with two more digits; empty if nothing was counted or measured.
        state: "exact", "within x %", "not matched", "measured" (accuracy and latency), "published only" or "ours only".
        deviation: Of ours from the published figure, as "+1.2 %", if not exact.
        reason: Why it is not exact, or why there is no model.
    """

    table: str
    row: str
    column: str
    published: str
    ours: str
    state: str
    deviation: str = ""
    reason: str = ""


def tables(name: str | None) -> list[Table]:
    """The table with a name, or all tables.

    Raises:
        ConfigError: For an unknown name, listing the valid ones.
    """
    if name is None:
        return list(TABLES.values())
    if name not in TABLES:
        raise ConfigError(f"table={name} is unknown; valid: {', '.join(TABLES)}")
    return [TABLES[name]]


def check(table: Table, measured: Mapping[tuple[str, str], str] | None = None) -> list[Figure]:
    """Compare all figures of a table.

    Args:
        table: What is published.
        measured: Accuracy and latency, as text, by row and column.
    """
    return [figure for row in table.rows for figure in _check_row(table, row, measured or {})]


def _check_row(table: Table, row: Row, measured: Mapping[tuple[str, str], str]) -> Iterator[Figure]:
    ours = counted(table, row)
    for column in dict.fromkeys((*row.figures, *ours)):
        published = row.figures.get(column, "")
        if column in MEASURED:
            text = measured.get((row.name, column), "")
            state = "measured" if text else "published only"
            reason = row.reasons.get("model", "")
            yield Figure(table.name, row.name, column, published, text, state, reason=reason)
        elif column not in ours:
            reason = row.reasons["model"]
            yield Figure(table.name, row.name, column, published, "", "published only", reason=reason)
        else:
            state = compare(published, ours[column], table.rounding) if published else "ours only"
            missed = state not in ("exact", "ours only")
            yield Figure(
                *(table.name, row.name, column, published, as_published(ours[column], published), state),
                deviation=deviation(published, ours[column]) if missed else "",
                reason=row.reasons.get(column, "") if missed else "",
            )


def counted(table: Table, row: Row) -> dict[str, Value]:
    """Our counts by column, by the rules of the table; none without a model."""
    if row.model is None:
        return {}
    ours = measure(row.model)
    if row.model.kind in ("stage", "map", "peak"):
        return {column: value for column, value in ours.items() if column in row.figures}
    figures = {"params": ours[table.params], "madds": ours[table.madds]}
    if table.madds == "madds_space_to_batch":
        figures["madds in PyTorch"] = ours["madds"]
    if row.model.kind != "head":  # the head's maps are alive together with the backbone's
        figures["peak memory"] = ours["peak memory"]
    return figures


def compare(published: str, ours: Value, rounding: Rounding) -> str:
    """The agreement of our figure with a published one.

    Returns:
        "exact" (equal at the published precision, by the table's way of rounding), "within x %" up to 2 %, or
        "not matched".
    """
    number = _NUMBER.fullmatch(published)
    if number is None or isinstance(ours, str):
        return "exact" if published == ours else "not matched"
    units, last_digit = _digits(number)
    truncated, rounded = math.floor(ours / last_digit), math.floor(ours / last_digit + Fraction(1, 2))
    if units in {"truncated": (truncated,), "rounded": (rounded,), "either": (truncated, rounded)}[rounding]:
        return "exact"
    relative = abs(ours / (units * last_digit) - 1)
    return f"within {math.ceil(relative * 1000) / 10} %" if relative <= TOLERANCE else "not matched"


def deviation(published: str, ours: Value) -> str:
    """The signed deviation of ours from a published figure; empty if it is not a number."""
    number = _NUMBER.fullmatch(published)
    if number is None or isinstance(ours, str):
        return ""
    units, last_digit = _digits(number)
    return f"{100 * float(ours / (units * last_digit) - 1):+.1f} %"


def _digits(number: re.Match[str]) -> tuple[int, Fraction]:
    """The digits of a published figure, and the value of its last digit."""
    decimals = number[2] or ""
    return int(number[1] + decimals), Fraction(_UNITS[number[3]], 10 ** len(decimals))


def as_published(ours: Value, published: str) -> str:
    """Our figure in the published unit, with two more digits; in M or B if unpublished."""
    if isinstance(ours, str):
        return ours
    number = _NUMBER.fullmatch(published)
    if number is None:
        return f"{ours / 1e9:.3f}B" if ours >= 1e9 else f"{ours / 1e6:.3f}M"
    if not number[3] and number[2] is None:
        return str(ours)
    return f"{ours / _UNITS[number[3]]:.{len(number[2] or '') + 2}f}{number[3]}"


def summary(figures: Sequence[Figure]) -> str:
    """One line: how many figures are matched."""
    states = [figure.state for figure in figures if figure.column not in MEASURED and figure.published]
    exact, close = states.count("exact"), sum(state.startswith("within") for state in states)
    missed, alone = states.count("not matched"), states.count("published only")
    return (
        f"matched {exact + close} of {len(states) - alone} figures: {exact} exact, {close} within"
        f" {TOLERANCE * 100:g} % and {missed} not matched, with reasons; {alone} more are published only"
    )
