"""The divisions of data sets without a split: made once for a run, written to its folder, and used again."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning_fabric.utilities.rank_zero import rank_zero_only

from mnv2vision.common.atomic import write_text
from mnv2vision.data.sources import create_whole
from mnv2vision.data.split import hold_out
from mnv2vision.errors import DataError

FILE = "split.json"
"""In a run's folder."""
ONLY = "dataset"
"""Name of the only data set in it."""


def divided(
    dataset: Mapping[str, object], name: str, targets: Sequence[str], seed: int, model: str | None
) -> Mapping[str, object]:
    """A data set's section with `held_out`, the ids for validation, where `split` asks for a division.

    Args:
        dataset: The section.
        name: Of the data set among several; that of the only one is empty.
        targets: That its samples need.
        seed: Of the run.
        model: A checkpoint, or a model's file, of a run whose division is used, if it has one.

    Raises:
        ConfigError: For a data set that has a split already.
        DataError: For data that cannot be divided, or a damaged `split.json`.
    """
    share = dataset.get("split")
    if share is None:
        return dataset
    assert isinstance(share, float)
    folders = Path(model).parents if model else ()
    found = next(filter(None, (_read(folder / FILE, name) for folder in folders[:2])), None)  # above checkpoints/, too
    if found is None:
        found = hold_out(create_whole(dataset, *targets), share, seed, str(dataset["root"]))
    return {**dataset, "held_out": found}


def _read(file: Path, name: str) -> list[int | str] | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        found = content.get(name or ONLY)
        if found is None:
            return None
        if not all(isinstance(item, int | str) for item in found):
            raise ValueError
        return list(found)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DataError(f"{file}: is not the division of a run's data") from error


@rank_zero_only
def write_splits(datasets: Mapping[str, Mapping[str, object]], run_dir: Path) -> None:
    """Write the ids that are held out, by data set, if there are any, to `split.json`."""
    held_out = {name or ONLY: dataset["held_out"] for name, dataset in datasets.items() if "held_out" in dataset}
    if held_out:
        write_text(run_dir / FILE, json.dumps(held_out, indent=1, ensure_ascii=False) + "\n")
