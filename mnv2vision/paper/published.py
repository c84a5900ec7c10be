"""Published figures: records for tables, rows and models, and tables 2 and 3 of the paper (arXiv 1801.04381)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Rounding = Literal["truncated", "rounded", "either"]


class Model(NamedTuple):
    """How the model of a row is built and counted.

    Attributes:
        kind: A task of `create_model`, "head" (a detector without its backbone), "stage", "map" or "peak" (for
            tables 2 and 3), or a key of `structures.STRUCTURES`.
        size: (height, width) of the input in pixels.
        options: Options of the model.
        scales: Input scales; with more than one, each is counted twice, for the flipped image ("MF" in table 7).
    """

    kind: str
    size: tuple[int, int]
    options: tuple[tuple[str, object], ...] = ()
    scales: tuple[float, ...] = (1.0,)


def model(kind: str, size: int | tuple[int, int], scales: tuple[float, ...] = (1.0,), /, **options: object) -> Model:
    """A `Model` from keywords."""
    return Model(kind, (size, size) if isinstance(size, int) else size, tuple(options.items()), scales)


@dataclass(frozen=True, eq=False)
class Row:
    """A row of a table.

    Attributes:
        name: As published.
        model: The model to count; None if it cannot be built here.
        figures: As published, by column: "3.47M" gives precision and unit.
        reasons: Why a figure is not exact, by column; "model" says why there is no model.
    """

    name: str
    model: Model | None
    figures: Mapping[str, str]
    reasons: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A published table.

    Attributes:
        name: What `table=` takes.
        title: Heading.
        source: Where it is published.
        rows: Its rows.
        rounding: How its figures are rounded.
        params: Which parameters it counts: all, all except batch norm's, or all plus the running statistics.
        madds: What its multiply-adds count: convolutions and matrix products; those on the padding of TensorFlow's
            space_to_batch as well; or one for each channel of a batch norm as well. See `counts`.
        notes: Notes for the reader.
    """

    name: str
    title: str
    source: str
    rows: tuple[Row, ...]
    rounding: Rounding = "either"
    params: Literal["params", "params_without_norm", "params_and_statistics"] = "params"
    madds: Literal["madds", "madds_space_to_batch", "madds_and_norms"] = "madds"
    notes: str = ""


PAPER = "arXiv 1801.04381"


def _stage(index: int, size: str, name: str, **figures: str) -> Row:
    return Row(f"{size} {name}", model("stage", 224, index=index), {"input": size, **figures})


TABLE_2 = Table(
    "2",
    "Architecture of MobileNetV2",
    f"{PAPER}, table 2",
    (
        _stage(0, "224x224x3", "conv2d", c="32", n="1", s="2"),
        _stage(1, "112x112x32", "bottleneck", t="1", c="16", n="1", s="1"),
        _stage(2, "112x112x16", "bottleneck", t="6", c="24", n="2", s="2"),
        _stage(3, "56x56x24", "bottleneck", t="6", c="32", n="3", s="2"),
        _stage(4, "28x28x32", "bottleneck", t="6", c="64", n="4", s="2"),
        _stage(5, "14x14x64", "bottleneck", t="6", c="96", n="3", s="1"),
        _stage(6, "14x14x96", "bottleneck", t="6", c="160", n="3", s="2"),
        _stage(7, "7x7x160", "bottleneck", t="6", c="320", n="1", s="1"),
        _stage(8, "7x7x320", "conv2d 1x1", c="1280", n="1", s="1"),
        Row(
            "bottlenecks, section 4",
            model("stage", 224, index=None),
            {"n": "19"},
            {"n": "the text says 19; the n of the bottlenecks in the table sum to 17, as in TF-slim"},
        ),
    ),
)

_HALVED = "the table pairs the channels after a stride of 2 with the size before it"
_TWO_DIGITS = "the table gives only one or two digits"
_STEM = "the stem has 24 channels at scale 1 (arXiv 1707.01083, table 1), so 48 here, as the table has at 56x56"


def _map(net: str, size: str, most: str, kilobytes: str, **reasons: str) -> Row:
    reasons = {"memory": _TWO_DIGITS} | reasons
    side = int(size.split("x")[0]) if size != "max" else None
    figures = {"channels": most, "memory": kilobytes} if most else {"memory": kilobytes}
    return Row(f"{net}, {size}", model("map", 224, net=net, side=side), figures, reasons)


TABLE_3 = Table(
    "3",
    "Largest feature maps between blocks at 224x224, 16 bit",
    f"{PAPER}, table 3",
    (
        _map("MobileNetV1", "112x112", "64", "1600K"),
        _map("MobileNetV1", "56x56", "128", "800K"),
        _map("MobileNetV1", "28x28", "256", "400K"),
        _map("MobileNetV1", "14x14", "512", "200K"),
        _map("MobileNetV1", "7x7", "1024", "199K", memory="twice the memory of 1024 channels at 7x7"),
        _map("MobileNetV1", "1x1", "1024", "2K"),
        _map("MobileNetV1", "max", "", "1600K"),
        _map("MobileNetV2", "112x112", "16", "400K"),
        _map("MobileNetV2", "56x56", "32", "200K", channels=_HALVED, memory=_HALVED),
        _map("MobileNetV2", "28x28", "64", "100K", channels=_HALVED, memory=_HALVED),
        _map("MobileNetV2", "14x14", "160", "62K", channels=_HALVED, memory=_HALVED),
        _map("MobileNetV2", "7x7", "320", "32K", memory="rounded up"),
        _map("MobileNetV2", "1x1", "1280", "2K"),
        _map("MobileNetV2", "max", "", "400K"),
        _map("ShuffleNet 2x", "112x112", "32", "800K", channels=_STEM, memory=_STEM),
        _map("ShuffleNet 2x", "56x56", "48", "300K"),
        _map("ShuffleNet 2x", "28x28", "400", "600K", memory="the memory of 400 channels, rounded to one digit"),
        _map("ShuffleNet 2x", "14x14", "800", "310K"),
        _map("ShuffleNet 2x", "7x7", "1600", "156K"),
        _map("ShuffleNet 2x", "1x1", "1600", "3K"),
        _map("ShuffleNet 2x", "max", "", "600K", memory="the table's maximum omits 112x112"),
        Row("MobileNetV1, alive at one time", model("peak", 224, backbone="mobilenet_v1"), {"memory": ""}),
        Row("MobileNetV2, alive at one time", model("peak", 224), {"memory": ""}),
    ),
    notes="ShuffleNet is counted with g=2, which gives the table's channels; the table says g=3. 1K is 1000 bytes. A "
    "later version of the table omits the size 112x112. Alive at one time: in PyTorch, layer by layer, with "
    "expansions and image.",
)
