"""The command line: `mnv2vision train …` of an installed package, `python tools/train.py …` in a checkout."""

import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

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
    if command not in COMMANDS:
        asked = command in ("-h", "--help", "help")
        print(f"usage: mnv2vision {'|'.join(COMMANDS)} [--help] [key=value ...]", file=None if asked else sys.stderr)
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
        from mnv2vision.run import evaluate

        evaluate(config)
    elif command == "predict":
        from mnv2vision.predict_files import predict_files

        predict_files(**_required(config, "checkpoint", "images"))
    else:
        from mnv2vision.weights.convert import convert, describe

        given = {key: value for key, value in config.items() if value is not None}
        if (path := given.pop("info", None)) is not None:
            print(describe(path))
        else:
            convert(**given)


def _required(config: dict[str, Any], *keys: str) -> dict[str, Any]:
    for key in keys:
        if config[key] is None:
            raise ConfigError(f"{key}=... is required; see --help")
    return config


def _help(command: str, arguments: Sequence[str]) -> str:
    from omegaconf import OmegaConf

    from mnv2vision.config import config_folder, groups, load_config

    header = [
        line[2:] for line in (config_folder() / f"{command}.yaml").read_text().splitlines() if line.startswith("# ")
    ]
    choices = [f"  {group}={'|'.join(names)}" for group, names in groups(command).items()]
    options = OmegaConf.to_yaml(OmegaConf.create(load_config(command, arguments)))
    parts = ["\n".join(header)]
    if choices:
        parts.append("Groups (a choice changes the options below):\n" + "\n".join(choices))
    parts.append(f"Options, set as in loader.batch_size=64 (the files in configs/ explain them):\n\n{options}")
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
