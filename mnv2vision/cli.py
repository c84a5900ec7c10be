"""The command line: `mnv2vision train …` of an installed package, `python tools/train.py …` in a checkout."""

import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from mnv2vision import __version__
from mnv2vision.errors import ConfigError, Mnv2visionError
from mnv2vision.threads import set_up_threads

COMMANDS = ("train", "eval", "predict", "convert")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The command and its key=value pairs; those of the process by default.

    Returns:
        Exit status: 0, or 2 after one line about what is wrong with the configuration, the files or the data.
    """
    command, *rest = (sys.argv[1:] if arguments is None else arguments) or [""]
    if command == "--version":
        print(__version__)
        return 0
    if command not in COMMANDS:
        asked = command in ("-h", "--help", "help")
        unknown = "" if asked or not command else f"error: {command} is no command; "
        usage = f"usage: mnv2vision {'|'.join(COMMANDS)} [--help] [key=value ...]"
        print(f"{unknown}{usage}", file=None if asked else sys.stderr)
        return 0 if asked else 2
    _set_up_logging()
    set_up_threads()
    try:
        if "--help" in rest or "-h" in rest:
            print(_help(command, [item for item in rest if item not in ("--help", "-h")]))
        else:
            _run(command, rest)
    except Mnv2visionError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a folder that cannot be written to, a full disk
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _run(command: str, arguments: Sequence[str]) -> None:
    from mnv2vision.config import load_config  # Hydra and torch are imported when there is something to do

    config = load_config(command, arguments)
    if command == "train":
        from mnv2vision.run import train

        train(config)
    elif command == "eval":
        _require(config, checkpoint="model.safetensors")  # before the imports, which take seconds
        from mnv2vision.run import evaluate

        evaluate(config)
    elif command == "predict":
        _require(config, checkpoint="model.safetensors", images="a file, a folder or a pattern")
        from mnv2vision.predict_files import predict_files

        predict_files(**config)
    else:
        from mnv2vision.weights.convert import convert, describe

        given = {key: value for key, value in config.items() if value is not None}
        if (path := given.pop("info", None)) is not None:
            print(describe(path))
        else:
            convert(**given)


def _require(config: dict[str, Any], **wanted: str) -> None:
    for key, what in wanted.items():
        if config[key] is None:
            raise ConfigError(f"{key}=<{what}> is required; see --help")


def _help(command: str, arguments: Sequence[str]) -> str:
    from omegaconf import OmegaConf

    from mnv2vision.config import comments, config_folder, groups, load_config, with_keys

    header = [
        line[2:] for line in (config_folder() / f"{command}.yaml").read_text().splitlines() if line.startswith("# ")
    ]
    choices = [f"  {group}={'|'.join(names)}" for group, names in groups(command).items()]
    config = load_config(command, arguments)
    told = comments(command, config)
    options = "\n".join(
        f"{line:<30} # {told[key]}" if key in told else line
        for key, line in with_keys(OmegaConf.to_yaml(OmegaConf.create(config)))
    )
    parts = ["\n".join(header)]
    if choices:
        parts.append("Groups (a choice changes the options below):\n" + "\n".join(choices))
    parts.append(f"Options, set as in loader.batch_size=64:\n\n{options}")
    return "\n\n".join(parts)


class _Stderr(logging.StreamHandler[Any]):
    """Writes to the present sys.stderr, which a progress bar may have replaced."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def _set_up_logging() -> None:
    handler = _Stderr()
    handler.setFormatter(logging.Formatter("%(message)s"))
    root = logging.getLogger("mnv2vision")
    root.handlers[:] = [handler]
    root.propagate = False
    other_process = os.environ.get("LOCAL_RANK", "0") != "0" or os.environ.get("RANK", "0") != "0"
    root.setLevel(logging.ERROR if other_process else logging.INFO)


if __name__ == "__main__":
    sys.exit(main())
