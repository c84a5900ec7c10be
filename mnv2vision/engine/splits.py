"""The divisions of data sets without a split: made once for a run, written to its folder, and used again."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning_fabric.utilities.rank_zero import rank_zero_only

from mnv2vision.common.atomic import write_text
from mnv2vision.data.batch import OnError
from mnv2vision.data.sources import create_whole
from mnv2vision.data.split import Id, hold_out
from mnv2vision.errors import ConfigError, DataError

log = logging.getLogger(__name__)

FILE = "split.json"
"""In a run's folder: by data set, the share and the ids that are held out."""
ONLY = "dataset"
"""Name of the only data set in it."""


def divided(
    dataset: Mapping[str, object], name: str, targets: Sequence[str], seed: int, model: str | None, on_error: OnError
) -> Mapping[str, object]:
    """A data set's section with `held_out`, the ids for validation, where `split` asks for a division.

    Args:
        dataset: The section.
        name: Of the data set among several; that of the only one is empty.
        targets: That its samples need.
        seed: Of the run.
        model: A checkpoint, or a model's file, of a run whose division is used, if it has one.
        on_error: Of files that cannot be read.

    Raises:
        ConfigError: For a data set that has a split already, or a run that had another share.
        DataError: For data that cannot be divided, or a damaged `split.json`.
    """
    share = dataset.get("split")
    if share is None:
        return dataset
    assert isinstance(share, float)
    folders = [Path(model), *Path(model).parents][:3] if model else []  # last.ckpt lies in checkpoints/
    found = next(filter(None, (_read(folder / FILE, name or ONLY, share) for folder in folders)), None)
    if found is None:
        if model:
            told = "%s: there is no %s beside %s: divided anew, as in its training if that had the same seed and images"
            log.warning(told, dataset["root"], FILE, model)
        found = hold_out(create_whole(dataset, *targets), share, seed, str(dataset["root"]), on_error)
    return {**dataset, "held_out": found}


def _read(file: Path, name: str, share: float) -> list[Id] | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if name not in content:
            return None
        was, found = float(content[name]["split"]), list(content[name]["held_out"])
        if not all(isinstance(item, int | str) for item in found):
            raise ValueError
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: is not the division of a run's data") from error
    if was != share:
        raise ConfigError(f"dataset.split={share}, but {file} was made with {was}: give dataset.split={was}")
    return found


@rank_zero_only
def write_splits(datasets: Mapping[str, Mapping[str, object]], run_dir: Path) -> None:
    """Write the divisions of a run's data sets by name, if there are any, to `split.json`."""
    made = {
        name or ONLY: {key: dataset[key] for key in ("split", "held_out")}
        for name, dataset in datasets.items()
        if "held_out" in dataset
    }
    if made:
        write_text(run_dir / FILE, json.dumps(made, indent=1, ensure_ascii=False) + "\n")
