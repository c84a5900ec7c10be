"""Plots of the published figures (matplotlib), reproducible byte for byte, as PNG and SVG."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mnv2vision.common.atomic import atomic_path
from mnv2vision.errors import ConfigError
from mnv2vision.paper.published import TABLE_3, Row, Table
from mnv2vision.paper.published_classification import SLIM_V1, SLIM_V2, SLIM_V3, TABLE_4
from mnv2vision.paper.published_detection import DETECTION_ZOO, TABLE_6
from mnv2vision.paper.published_projects import DETECTORS, PADDLE, TIMM, TORCHVISION
from mnv2vision.paper.reproduce import counted

_BLUE, _GREY, _ORANGE, _GREEN, _PURPLE = "#1f5fa8", "#777777", "#d9730d", "#2e8b57", "#8a4fa0"
_UNITS = {"K": 1e3, "M": 1e6, "B": 1e9}


def write(figure: Figure, path: Path) -> list[Path]:
    """Write `path`.png and `path`.svg, with the same bytes for the same figure."""
    FigureCanvasAgg(figure)
    paths = [path.with_name(f"{path.name}.{suffix}") for suffix in ("png", "svg")]
    with matplotlib.rc_context({"svg.hashsalt": "mnv2vision"}):
        for target in paths:
            metadata = {"Software": None} if target.suffix == ".png" else {"Creator": None, "Date": None}
            with atomic_path(target) as temporary:
                figure.savefig(temporary, format=target.suffix[1:], dpi=110, metadata=metadata)
    return paths


def draw(name: str, output: Path) -> list[Path]:
    """Draw a plot.

    Args:
        name: "figure5" (top-1 by multiply-adds), "parameters" (top-1 by parameters), "table6" (COCO mAP by
            multiply-adds) or "table3" (memory of the largest feature maps).
        output: The folder.

    Returns:
        The files written: <name>.png and <name>.svg.

    Raises:
        ConfigError: For an unknown name.
    """
    if name not in PLOTS:
        raise ConfigError(f"plot {name!r} is unknown; valid: {', '.join(PLOTS)}")
    return write(PLOTS[name](), output / name)


def number(text: str) -> float:
    """The value of a published figure such as 3.47M or 72.0."""
    return float(text[:-1]) * _UNITS[text[-1]] if text[-1] in _UNITS else float(text)


class Point(NamedTuple):
    """A row with its x and y; `computed` if x is counted here instead of published."""

    row: Row
    x: float
    y: float
    computed: bool


def points(table: Table, x: str, y: str) -> Iterator[Point]:
    """The rows of a table that have both figures: y as published, x as published or counted here.

    Rows that repeat another row's network, quantised or distilled, are left out.

    Args:
        table: What is published.
        x: A column that can be counted: "madds" or "params".
        y: A column of accuracies.
    """
    for row in table.rows:
        if row.name.endswith(("8-bit", "ssld")):
            continue
        ours = row.model is not None and not row.figures.get(x)
        if row.figures.get(y) and (row.figures.get(x) or ours):
            value = float(counted(table, row)[x]) if ours else number(row.figures[x])
            yield Point(row, value, number(row.figures[y]), ours)


def _plot(axes: Axes, series: list[Point], color: str, marker: str, label: str | None, line: str = "-") -> None:
    series = sorted(series, key=lambda point: point.x)
    axes.plot([p.x for p in series], [p.y for p in series], linestyle=line, color=color, linewidth=1, alpha=0.7)
    for computed in {p.computed for p in series}:
        chosen = [p for p in series if p.computed == computed]
        fill = "white" if computed else color
        xs, ys = [p.x for p in chosen], [p.y for p in chosen]
        style: dict[str, Any] = {"marker": marker, "edgecolors": color, "linewidths": 1.2}
        axes.scatter(xs, ys, 26, fill, zorder=3, label=label, **style)


def _label(axes: Axes, point: Point, text: str, offset: tuple[int, int], side: str, color: str) -> None:
    where: dict[str, Any] = {"xytext": offset, "textcoords": "offset points", "ha": side}
    axes.annotate(text, (point.x, point.y), color=color, fontsize=8, **where)


def _caption(figure: Figure, *lines: str) -> None:
    figure.supxlabel("\n".join(lines), fontsize=8)


def _log_axis(axes: Axes, ticks: list[float], unit: float, suffix: str, label: str) -> None:
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick / unit:g}{suffix}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel(label)
    axes.grid(alpha=0.3)


def _groups(series: list[Point], key: Callable[[str], str]) -> dict[str, list[Point]]:
    groups: dict[str, list[Point]] = {}
    for point in series:
        groups.setdefault(key(point.row.name), []).append(point)
    return groups


def _figure5() -> Figure:
    figure = Figure(figsize=(8, 5.6), layout="constrained")
    axes = figure.add_subplot()
    for table, color, marker, label in (
        (SLIM_V1, _GREY, "s", "MobileNetV1, TensorFlow"),
        (SLIM_V2, _BLUE, "o", "MobileNetV2, TensorFlow"),
    ):
        series = list(points(table, "madds", "top1"))
        for index, (width, group) in enumerate(_groups(series, lambda name: name.split("_")[0]).items()):
            _plot(axes, group, color, marker, label if index == 0 else None)
            top = max(group, key=lambda point: point.x)
            offset = (-9, 6) if float(width) > 1 else (5, -9)  # not into PaddleClas's line
            _label(axes, top, width, offset, "left", color)
    v3 = [p for p in points(SLIM_V3, "madds", "top1") if "minimalistic" not in p.row.name]
    for index, (name, group) in enumerate(_groups(v3, lambda name: name.split()[0]).items()):
        _plot(axes, group, _ORANGE, "^", "MobileNetV3 Large and Small, TensorFlow" if index == 0 else None)
        _label(axes, group[0], name, (-5, 5), "right", _ORANGE)
    _plot(axes, list(points(PADDLE, "madds", "top1")), _GREEN, "D", "MobileNetV2 x0.25 to x2.0, PaddleClas", "--")
    _log_axis(axes, [1e7, 2e7, 5e7, 1e8, 2e8, 5e8, 1e9], 1e6, "M", "multiply-adds (log scale)")
    axes.set(ylabel="ImageNet top-1, %", title="Accuracy by multiply-adds, after figure 5 of arXiv 1801.04381")
    axes.legend(loc="lower right", fontsize=8)
    _caption(
        figure,
        "Lines join a width (numbers) at 96 to 224 pixels, V1 from 128 on; V3 and PaddleClas: widths at 224 pixels.",
        "Sources: tensorflow/models, research/slim/nets; PaddleClas. Multiply-adds as published; hollow: counted here.",
    )
    return figure


def _parameters() -> Figure:
    figure = Figure(figsize=(8, 5.2), layout="constrained")
    axes = figure.add_subplot()

    def at_224(table: Table) -> list[Point]:
        return [p for p in points(table, "params", "top1") if "_" not in p.row.name or p.row.name.endswith("_224")]

    named = {p.row.name: p for table in (TABLE_4, TIMM, TORCHVISION) for p in points(table, "params", "top1")}
    v3 = [p for p in at_224(SLIM_V3) if "minimalistic" not in p.row.name]
    _plot(axes, at_224(SLIM_V1), _GREY, "s", "MobileNetV1, widths 0.25 to 1.0, TensorFlow")
    _plot(axes, at_224(SLIM_V2), _BLUE, "o", "MobileNetV2, widths 0.35 to 1.4, TensorFlow")
    for index, group in enumerate(_groups(v3, lambda name: name.split()[0]).values()):
        _plot(
            axes,
            group,
            _ORANGE,
            "^",
            "MobileNetV3 Large and Small, widths 0.75 and 1.0, TensorFlow" if index == 0 else None,
        )
    _plot(axes, list(points(PADDLE, "params", "top1")), _GREEN, "D", "MobileNetV2 x0.25 to x2.0, PaddleClas", "--")
    timm = [p for name, p in named.items() if name.startswith("mobilenetv2_")]
    _plot(axes, timm, _PURPLE, "v", "MobileNetV2 100, 110d, 120d, 140, timm", "")
    others = [named[name] for name in ("ShuffleNet (1.5)", "NasNet-A", "ShuffleNet (x2)")]
    _plot(axes, others, "black", "P", "ShuffleNet 1.5, NasNet-A, ShuffleNet x2, table 4", "")
    _plot(axes, [named["MobileNetV2 (1.4)"]], "crimson", "*", "MobileNetV2 1.4 as table 4 has it, 6.9M", "")
    _log_axis(axes, [5e5, 1e6, 2e6, 5e6, 1e7], 1e6, "M", "parameters (log scale)")
    axes.set(ylabel="ImageNet top-1, %", title="Accuracy by parameters, images of 224 pixels")
    axes.legend(loc="lower right", fontsize=8)
    _caption(
        figure,
        "As published, by each source's rule (TensorFlow's V2 without batch norm, PaddleClas with statistics).",
        "Sources: tensorflow/models, research/slim/nets; PaddleClas; timm; table 4 of arXiv 1801.04381.",
    )
    return figure


# Label, and its offset in points from the dot; each row with a mAP on COCO and multiply-adds has one,
# but the 8-bit copy of another.
_DETECTORS: dict[str, tuple[str, tuple[int, int], str]] = {
    "SSD300": ("SSD300", (-7, -4), "right"),
    "SSD512": ("SSD512", (-7, -4), "right"),
    "YOLOv2": ("YOLOv2", (-7, -4), "right"),
    "MNet V1 + SSDLite": ("MobileNetV1 + SSDLite", (5, 7), "left"),
    "MNet V2 + SSDLite": ("MobileNetV2 + SSDLite", (-3, 18), "left"),
    "ssdlite_mobilenet_v2_coco": ("V2 + SSDLite", (-6, 5), "right"),
    "ssd_mobilenet_v1_coco": ("V1 + SSD", (7, -4), "left"),
    "ssd_mobilenet_v1_0.75_depth_coco": ("V1 0.75 + SSD", (7, -4), "left"),
    "ssd_mobilenet_v2_coco": ("V2 + SSD", (7, -4), "left"),
    "ssdlite320_mobilenet_v3_large": ("V3 Large + SSDLite", (-16, -16), "left"),
    "ssd300_vgg16": ("SSD300", (-7, -4), "right"),
    "mmdetection ssdlite_mobilenetv2-scratch, COCO": ("V2 + SSDLite", (7, -4), "left"),
}


def _table6() -> Figure:
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.add_subplot()
    for table, color, marker, label in (
        (TABLE_6, _BLUE, "o", "paper, table 6 (COCO test-dev)"),
        (DETECTION_ZOO, _ORANGE, "^", "TensorFlow's model zoo, 300 pixels (validation images)"),
        (TORCHVISION, _GREEN, "D", "torchvision (validation images)"),
        (DETECTORS, _PURPLE, "v", "mmdetection (validation images)"),
    ):
        chosen = [p for p in points(table, "madds", "mAP") if p.row.name in _DETECTORS]
        _plot(axes, chosen, color, marker, label, "")
        for p in chosen:
            text, offset, side = _DETECTORS[p.row.name]
            _label(axes, p, text, offset, side, color)
    _log_axis(axes, [5e8, 1e9, 2e9, 5e9, 1e10, 2e10, 5e10, 1e11], 1e9, "B", "multiply-adds (log scale)")
    axes.set(
        xlim=(3.5e8, 1.5e11),
        ylim=(17, 28),
        ylabel="COCO mAP, %",
        title="Detection by multiply-adds: table 6 of arXiv 1801.04381 and others",
    )
    axes.legend(loc="upper left", fontsize=8)
    _caption(
        figure,
        "Detectors whose mAP is published and whose multiply-adds are published (solid) or counted here (hollow).",
        "The axis of mAP starts at 17. Test-dev and validation images are not the same; TensorFlow's are rounded.",
    )
    return figure


def _table3() -> Figure:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    for axes, net in zip(panels, ("MobileNetV1", "MobileNetV2", "ShuffleNet 2x"), strict=True):
        rows = {
            row.name.split(", ")[1]: row for row in TABLE_3.rows if row.name.startswith(net) and row.name[-1].isdigit()
        }
        published = [number(row.figures["memory"]) / 1e3 for row in rows.values()]
        ours = [float(counted(TABLE_3, row)["memory"]) / 1e3 for row in rows.values()]
        places = range(len(rows))
        axes.bar([place - 0.2 for place in places], published, 0.4, color=_GREY, label="published")
        axes.bar([place + 0.2 for place in places], ours, 0.4, color=_BLUE, label="counted here")
        axes.set_xticks(places, [name.split("x")[0] for name in rows])
        axes.set(title=net, xlabel="side of the feature map")
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    panels[0].set_ylabel("kB (1000 bytes), 16 bit")
    panels[0].legend(fontsize=8)
    _caption(
        figure,
        "Largest feature map between blocks at each resolution, image of 224 pixels (arXiv 1801.04381, table 3).",
        "The table pairs V2's channels behind a stride of 2 with the size before it, has twice what V1's map",
        "at 7 takes, and other channels at 112 than ShuffleNet's own paper.",
    )
    return figure


PLOTS: dict[str, Callable[[], Figure]] = {
    "figure5": _figure5,
    "parameters": _parameters,
    "table6": _table6,
    "table3": _table3,
}
