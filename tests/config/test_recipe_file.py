"""Recipes given by their path: the same as by their name, and refused in one line where they are none."""

from pathlib import Path

import pytest

from mnv2vision.config.compose import config_folder, load_config, load_values
from mnv2vision.config.options import values
from mnv2vision.config.schema import Train
from mnv2vision.errors import ConfigError

FILES = sorted(
    path.relative_to(config_folder() / "recipe").as_posix() for path in (config_folder() / "recipe").rglob("*.yaml")
)


def without_recipe(*arguments: str) -> dict[str, object]:
    return {key: value for key, value in values(load_config(Train, arguments)).items() if key != "recipe"}


@pytest.mark.parametrize("file", FILES)
def test_a_path_gives_what_the_name_gives(file: str, tmp_path: Path) -> None:
    copy = tmp_path / "with space, and = sign.yaml"
    copy.write_text((config_folder() / "recipe" / file).read_text())
    name, *task = Path(file).with_suffix("").parts if file.startswith("shapes/") else [Path(file).stem]
    by_name = [f"recipe={name}", *(f"task={kind}" for kind in task)]
    by_path = [f"recipe={copy}", *(f"task={kind}" for kind in task)]
    own = ["optimizer.lr=0.123", "loader.batch_size=7"]
    for more in ([], own, [*own, "backbone=mobilenet_v1"], ["dataset=coco"]):
        assert without_recipe(*by_path, *more) == without_recipe(*by_name, *more)
    assert load_config(Train, by_path).recipe == str(copy)


def test_what_is_typed_counts_more(tmp_path: Path) -> None:
    path = tmp_path / "own.yml"
    path.write_text(
        "defaults:\n  - override /task: detection\n  - override /dataset: shapes\n"
        "dataset:\n  train_size: 77\noptimizer:\n  lr: 0.5\ntrainer:\n  profiler: simple\n"
    )
    config = load_config(Train, [f"recipe={path}"])
    assert (config.task, config.dataset["train_size"], config.optimizer.lr) == ("detection", 77, 0.5)
    assert config.trainer.more == {"profiler": "simple"}
    assert load_config(Train, ["optimizer.lr=0.25", f"recipe={path}"]).optimizer.lr == 0.25
    assert load_values(Train, {"recipe": path, "optimizer.lr": 0.25}).optimizer.lr == 0.25
    other = load_config(Train, [f"recipe={path}", "dataset=voc"])
    assert other.dataset["name"] == "voc"
    assert "train_size" not in other.dataset
    with pytest.raises(ConfigError, match="is for task=detection, not task=segmentation"):
        load_config(Train, [f"recipe={path}", "task=segmentation"])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("optimizer:\n  lrr: 1\n", "unknown key optimizer.lrr; did you mean optimizer.lr"),
        ("optimizer:\n  lr: -1\n", "optimizer.lr takes a number of 0 or more or auto, not -1"),
        ("optimizer: 3\n", "recipe=.*: optimizer=3: optimizer is a section"),
        ("lr: [", "cannot be read"),
        ("- 1\n", "is not a recipe"),
        ("defaults: 3\n", "is not a recipe"),
        ("defaults: [task]\n", "defaults has task, but takes choices such as `override /dataset: voc`"),
        ("defaults:\n  - override /task: flying\n", "task=flying is unknown; valid: classification"),
        ("defaults:\n  - override /wings: two\n", "unknown key wings"),
    ],
)
def test_refused(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told) as caught:
        load_config(Train, [f"recipe={path}"])
    assert "\n" not in str(caught.value)


def test_unknown_recipes() -> None:
    with pytest.raises(ConfigError, match=r"recipe=none/such.yaml: no such file"):
        load_config(Train, ["recipe=none/such.yaml"])
    with pytest.raises(ConfigError, match=r"recipe=finetun is unknown; valid: ablation, .*, or the path of a .yaml"):
        load_config(Train, ["recipe=finetun"])
