"""Put the paper's tables, and other projects', beside what the models here have (docs/reproduction.md).

    python tools/reproduce.py                          # all tables, counted; under a minute
    python tools/reproduce.py table=6 format=csv       # 2 to 7, slim_v2, torchvision, ...; markdown, csv or json
    python tools/reproduce.py output=docs/reproduction.md
    python tools/reproduce.py table=6 latency=true     # this machine's CPU beside the paper's Pixel 1
    python tools/reproduce.py table=6 evaluate=coco dataset.root=/data/coco weights=ssdlite.safetensors
    python tools/reproduce.py table=4 evaluate=imagenet dataset.root=/data/imagenet weights=folder/
    python tools/reproduce.py table=7 evaluate=voc dataset.root=/data/VOCdevkit weights=a.safetensors,b.safetensors
    python tools/reproduce.py figure=1 output=figures/ # or all, table6, 5, memory, parameters

Each figure is exact, within x %, or not matched, with the reason; the last line says how many are which.
"""

import sys
from pathlib import Path

from mnv2vision.atomic import check_writable, write_text
from mnv2vision.errors import ConfigError, Mnv2visionError
from mnv2vision.threads import set_up_threads

KEYS = ("table", "format", "output", "evaluate", "weights", "latency", "figure")
PLOTS = {"table6": "table6", "5": "figure5", "memory": "table3", "parameters": "parameters"}


def draw(name: str, folder: Path) -> list[str]:
    """Draw a figure; the lines to print."""
    if name not in ("1", "all", *PLOTS):
        raise ConfigError(f"figure={name} is unknown; valid: 1, all, {', '.join(PLOTS)}")
    from mnv2vision.paper import figure1, plots

    check_writable(folder / "figure1.png")
    lines = figure1.draw(folder) if name in ("1", "all") else []
    chosen = (plot for key, plot in PLOTS.items() if name in (key, "all"))
    return [*lines, *(str(path) for plot in chosen for path in plots.draw(plot, folder))]


def run(arguments: list[str]) -> str:
    """Do what the arguments ask for; the text to print."""
    pairs = [item.split("=", 1) for item in arguments if "=" in item]
    given = dict(pairs)
    unknown = [item for item in arguments if item.partition("=")[0] not in KEYS or "=" not in item]
    if unknown and "evaluate" not in given:  # which passes them on to the evaluation's configuration
        raise ConfigError(f"unknown argument {unknown[0]}; valid: {', '.join(f'{key}=' for key in KEYS)}")
    if len(given) < len(pairs) or ("figure" in given and given.keys() - {"figure", "output"}):
        raise ConfigError("each argument stands once, and figure= goes with output= alone")
    output = Path(given["output"]) if given.get("output") else None
    if "figure" in given:
        return "".join(f"{line}\n" for line in draw(given["figure"], output or Path("figures")))

    from mnv2vision.paper import report, reproduce

    report.check_format(form := given.get("format", "markdown"))
    chosen = reproduce.tables(given.get("table"))
    if output is not None:
        check_writable(output)
    measured = {}
    if "evaluate" in given or given.get("latency", "false") != "false":
        from mnv2vision.reproduce_measured import measure

        measured = measure(chosen, given, unknown)
    text = report.render([(table, reproduce.check(table, measured)) for table in chosen], form, page=output is not None)
    if output is not None:
        write_text(output, text)
    return f"{output}\n" if output is not None else text


def main(arguments: list[str]) -> int:
    """Run what the arguments ask for; the exit status."""
    set_up_threads()
    try:
        print(f"{__doc__}\n" if {"--help", "-h"} & set(arguments) else run(arguments), end="")
    except Mnv2visionError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
