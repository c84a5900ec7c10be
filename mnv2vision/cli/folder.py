"""`mnv2vision train photos/`: a folder in the place of key=value."""

import os
from collections.abc import Sequence

from mnv2vision.errors import ConfigError


def with_folder(arguments: Sequence[str], *, needs_task: bool = True) -> list[str]:
    """Arguments in which a folder has become the keys that name it.

    Args:
        arguments: key=value, and a folder or none.
        needs_task: Whether the command has to be told the task.

    Raises:
        ConfigError: For several folders, one beside dataset.root=, or a layout that is not clear.
    """
    folders = [item for item in arguments if "=" not in item and os.path.isdir(item)]
    if missing := [item for item in arguments if "=" not in item and os.sep in item and item not in folders]:
        raise ConfigError(f"{missing[0]}: no such folder")
    if not folders:
        return list(arguments)
    others = [item for item in arguments if item not in folders]
    given = dict(item.lstrip("+").split("=", 1) for item in others if "=" in item)
    if len(folders) > 1 or "dataset.root" in given:
        second = folders[1] if len(folders) > 1 else f"dataset.root={given['dataset.root']}"
        raise ConfigError(f"{folders[0]} and {second}: give one folder")
    from mnv2vision.engine.folder import folder_values  # takes seconds to import

    found = folder_values(folders[0], given.get("task"), given)
    if not needs_task:
        found.pop("task", None)
    return [*(f"{key}={value}" for key, value in found.items() if key not in given), *others]
