"""`mnv2vision reproduce`: the paper's tables, and other projects', beside what the models here have."""

from collections.abc import Sequence
from pathlib import Path

from mnv2vision.common.atomic import check_writable, write_text
from mnv2vision.config.compose import kinds, load_config
from mnv2vision.config.schema import Reproduce
from mnv2vision.errors import ConfigError

_PLOTS = {"table6": "table6", "5": "figure5", "memory": "table3", "parameters": "parameters"}


def run(arguments: Sequence[str]) -> None:
    """Print or write tables, or draw figures."""
    own = [item for item in arguments if item.partition("=")[0] in kinds("reproduce")]
    config = load_config(Reproduce, own)
    rest = [item for item in arguments if item not in own]
    if config.evaluate is None:
        load_config(Reproduce, rest)  # which refuses the first of them
    output = Path(config.output) if config.output else None
    if config.figure is None:
        _tables(config, rest, output)
        return
    if others := [item for item in arguments if item.partition("=")[0] not in ("figure", "output")]:
        raise ConfigError(f"{others[0]}: figure= goes with output= alone")
    for line in _draw(config.figure, output or Path("figures")):
        print(line)


def _tables(config: Reproduce, evaluation: Sequence[str], output: Path | None) -> None:
    from mnv2vision.paper import report, reproduce

    report.check_format(config.format)
    chosen = reproduce.tables(config.table)
    if output is not None:
        check_writable(output)
    measured = {}
    if config.evaluate or config.latency:
        from mnv2vision.paper.measured import measure

        measured = measure(chosen, config.evaluate, config.weights, evaluation, latencies=config.latency)
    rows = [(table, reproduce.check(table, measured)) for table in chosen]
    text = report.render(rows, config.format, page=output is not None)
    if output is None:
        print(text, end="")
    else:
        write_text(output, text)
        print(output)


def _draw(name: str, folder: Path) -> list[str]:
    """Draw a figure; the lines to print."""
    if name not in ("1", "all", *_PLOTS):
        raise ConfigError(f"figure={name} is unknown; valid: 1, all, {', '.join(_PLOTS)}")
    from mnv2vision.paper import figure1, plots

    check_writable(folder / "figure1.png")
    lines = figure1.draw(folder) if name in ("1", "all") else []
    chosen = (plot for key, plot in _PLOTS.items() if name in (key, "all"))
    return [*lines, *(str(path) for plot in chosen for path in plots.draw(plot, folder))]
