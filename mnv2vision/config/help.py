"""What the schema says of itself: `--help`, and the tables of options for the documentation.

python -m mnv2vision.config.help > docs/options.md
"""

import json
from collections.abc import Iterator, Mapping, Sequence

from mnv2vision.config.commands import COMMANDS, GROUPS, SECTIONS, command_options
from mnv2vision.config.compose import DEFAULTS, OWN, groups, load_config
from mnv2vision.config.named import PartOptions
from mnv2vision.config.options import Option, options, values

_PAGE = """# Options

Every key of the command line, of recipes, and of `mv.train` and `mv.evaluate` (`**{"optimizer.lr": 0.01}`), with what
it takes. `--help` shows the same for the chosen task, data set, backbone and recipe. This page is written by
`python -m mnv2vision.config.help`.
"""


_NAMED = """### data.<name>

Of several data sets, each with a name of your own (docs/joint.md); the keys of its kind stand beside these, such as
`data.<name>.root`. Of several heads (`task=joint`), each has its task's options as `model.<head>.…` and
`loss.<head>.…`, the weight of its loss as `loss.weights.<head>` and of its main metric as `monitor.<head>` (both 1),
and a model that teaches it as `teachers.<head>`.

"""


def command_help(command: str, arguments: Sequence[str], program: str) -> str:
    """The text of `--help`, for what the arguments choose.

    Args:
        command: A key of `COMMANDS`.
        arguments: key=value.
        program: How the command is called, such as "mnv2vision train".

    Raises:
        ConfigError: See `load_config`.
    """
    about = COMMANDS[command]
    settings: object = load_config(about.schema, arguments)
    config = values(settings)
    lines = [str(about.schema.__doc__), *([about.note] if about.note else [])]
    lines += [f"  {program} {example}".rstrip() for example in about.examples]
    choices = [f"  {group}={'|'.join(names)}" for group, names in groups(command).items()]
    if choices:
        lines += ["", "Groups (a choice changes the options below):", *choices]
    chosen = {
        group: getattr(settings, group)["name"] if group in SECTIONS else getattr(settings, group)
        for group in groups(command)
        if getattr(settings, group)
    }
    told = {option.key: option.help for option in command_options(command, chosen)}
    lines += ["", "Options, set as in loader.batch_size=64:" if "loader" in config else "Options:", ""]
    lines += [f"{line:<30} # {told[key]}" if key in told else line for key, line in _lines(config)]
    return "\n".join(lines)


def _lines(config: Mapping[str, object], section: str = "") -> Iterator[tuple[str, str]]:
    """A configuration as YAML: keys with their sections, such as loader.batch_size, and lines."""
    indent = "  " * section.count(".")
    for name, value in config.items():
        if isinstance(value, dict):
            yield "", f"{indent}{name}:"
            yield from _lines(value, f"{section}{name}.")
        else:
            yield section + name, f"{indent}{name}: {_typed(value)}"


def options_page() -> str:
    """The page of all options, in Markdown."""
    parts = [_PAGE]
    for command, about in COMMANDS.items():
        parts.append(f"## {command}\n\n{about.schema.__doc__}\n\n{_table(options(about.schema))}")
        for group in about.groups if command == "train" else ():
            for name, schema in GROUPS.get(group, {}).items():
                if name != OWN:
                    default = ", the default" if DEFAULTS[group] == name else ""
                    section = f"{group}." if group in SECTIONS else ""
                    table = _table(
                        option for option in options(schema, section) if option.key not in (group, f"{group}.name")
                    )
                    parts.append(f"### {group}={name}{default}\n\n{schema.__doc__}\n\n{table}")
        if command == "train":
            parts.append(_NAMED + _table(options(PartOptions, "data.<name>.")))
    return "\n".join(parts)


def _table(rows: Iterator[Option]) -> str:
    lines = ["| key | default | takes | |", "|---|---|---|---|"]
    for row in rows:
        words = row.kind.words.removesuffix(", or null").replace("|", "\\|")
        lines.append(f"| `{row.key}` | `{_typed(row.default)}` | {words} | {row.help.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def _typed(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


if __name__ == "__main__":
    print(options_page(), end="")
