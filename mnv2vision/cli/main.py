"""The command line: `mnv2vision train …` of an installed package, `python tools/train.py …` in a checkout."""

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from mnv2vision.cli.command import run_command
from mnv2vision.common.logs import show_log
from mnv2vision.common.threads import set_up_threads
from mnv2vision.config.commands import COMMANDS
from mnv2vision.version import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The command and its key=value pairs; those of the process by default.

    Returns:
        Exit status, see `run_command`.
    """
    command, *rest = (sys.argv[1:] if arguments is None else arguments) or [""]
    if command == "--version":
        print(__version__)
        return 0
    usage = f"usage: mnv2vision {'|'.join(COMMANDS)} [--help] [key=value ...]"
    if command in ("-h", "--help", "help"):
        print(usage, *(f"  {name:<10} {about.schema.__doc__}" for name, about in COMMANDS.items()), sep="\n")
        return 0
    if command not in COMMANDS:
        print(
            f"error: unknown command {command!r}; valid: {', '.join(COMMANDS)}" if command else usage, file=sys.stderr
        )
        return 2
    show_log()
    set_up_threads()
    return run_command(lambda: _run(command, rest))


def _run(command: str, arguments: Sequence[str]) -> int | None:
    others = [item for item in arguments if item not in ("--help", "-h")]
    if len(others) < len(arguments):
        from mnv2vision.config.help import command_help

        print(command_help(command, others, _program(command)))
        return None
    status: int | None = import_module(f"mnv2vision.cli.{command}").run(arguments)  # each has a module beside this one
    return status


def _program(command: str) -> str:
    """How the command was called."""
    is_tool = Path(sys.argv[0]).name == f"{command}.py"
    return f"python tools/{command}.py" if is_tool else f"mnv2vision {command}"


if __name__ == "__main__":
    sys.exit(main())
