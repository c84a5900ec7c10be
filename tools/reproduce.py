"""Put the paper's tables, and other projects', beside what the models here have (docs/reproduction.md).

    python tools/reproduce.py                          # all tables, counted; under a minute
    python tools/reproduce.py table=6                  # 2 to 7, slim_v2, deeplab_zoo, torchvision, ...
    python tools/reproduce.py table=6 format=csv       # markdown, csv or json
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

from mnv2vision.errors import ConfigError, Mnv2visionError
from mnv2vision.threads import set_up_threads

KEYS = ("table", "format", "output", "evaluate", "weights", "latency", "figure")
PLOTS = {"table6": "table6", "5": "figure5", "memory": "table3", "parameters": "parameters"}


def draw(name: str, output: Path) -> list[str]:
    """Draw a figure; the lines to print."""
    if name not in ("1", "all", *PLOTS):
        raise ConfigError(f"figure={name} is unknown; valid: 1, all, {', '.join(PLOTS)}")
    from mnv2vision.paper import figure1, plots

    lines = figure1.draw(output) if name in ("1", "all") else []
    chosen = [plot for key, plot in PLOTS.items() if name in (key, "all")]
    return [*lines, *(str(path) for plot in chosen for path in plots.draw(plot, output))]


def run(arguments: list[str]) -> str:
    """Do what the arguments ask for; the text to print."""
    given = {key: value for key, separator, value in (item.partition("=") for item in arguments) if separator}
    unknown = [item for item in arguments if item.partition("=")[0] not in KEYS or "=" not in item]
    if unknown and "evaluate" not in given:  # which passes them on to the evaluation's configuration
        raise ConfigError(f"unknown argument {unknown[0]}; valid: {', '.join(f'{key}=' for key in KEYS)}")
    output = Path(given["output"]) if "output" in given else None
    if "figure" in given:
        return "".join(f"{line}\n" for line in draw(given["figure"], output or Path("figures")))

    from mnv2vision.atomic import write_text
    from mnv2vision.paper import report, reproduce

    form = given.get("format", "markdown")
    report.check_format(form)
    chosen = reproduce.tables(given.get("table"))
    measured = {}
    if "evaluate" in given or given.get("latency", "false") != "false":
        from mnv2vision import reproduce_measured

        measured = reproduce_measured.measure(chosen, given, unknown)
    text = report.render([(table, reproduce.check(table, measured)) for table in chosen], form, page=output is not None)
    if output is None:
        return text
    write_text(output, text)
    return f"{output}\n"


def main(arguments: list[str]) -> int:
    """Run what the arguments ask for; the exit status."""
    if {"--help", "-h"} & set(arguments):
        print(__doc__)
        return 0
    set_up_threads()
    try:
        print(run(arguments), end="")
    except Mnv2visionError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
