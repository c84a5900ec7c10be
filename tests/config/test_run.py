"""`run=`: a run's model and data set, without further words."""

import os
from pathlib import Path

import pytest

from mnv2vision.config.compose import load_config
from mnv2vision.config.schema import Eval, Export, Predict
from mnv2vision.errors import ConfigError

VOC = "dataset: {name: voc, root: /data/voc, year: 2012, split: 0.2}\ndata: {on_error: raise, alpha: 0.5}\n"
JOINT = """
dataset: {name: shapes}
data: {on_error: raise, boxes: {dataset: coco, root: /data/coco}, masks: {dataset: voc, root: /data/voc}}
"""


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for age, (name, config) in enumerate({"mine/new": VOC, "joint": JOINT, "mine/old": VOC}.items()):
        folder = Path("runs") / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(config)
        (folder / "model.safetensors").touch()
        os.utime(folder / "model.safetensors", (10**9 - age, 10**9 - age))
    Path("runs/unfinished").mkdir()
    Path("runs/unfinished/config.yaml").touch()


def test_model_and_data_set() -> None:
    config = load_config(Eval, ["run=runs/mine/old"])
    assert config.checkpoint == "runs/mine/old/model.safetensors"
    told = {key: config.dataset[key] for key in ("name", "root", "year", "split")}
    assert told == {"name": "voc", "root": "/data/voc", "year": 2012, "split": 0.2}


@pytest.mark.parametrize("schema", [Eval, Export, Predict])
def test_latest(schema: type[Eval | Export | Predict]) -> None:
    assert load_config(schema, ["run=latest"]).checkpoint == "runs/mine/new/model.safetensors"


def test_several_data_sets() -> None:
    config = load_config(Eval, ["run=runs/joint"])
    told = {name: (part["dataset"], part["root"]) for name, part in config.data.more.items()}  # type: ignore[index]
    assert told == {"boxes": ("coco", "/data/coco"), "masks": ("voc", "/data/voc")}


def test_what_is_typed_counts() -> None:
    config = load_config(Eval, ["run=latest", "dataset.root=/elsewhere", "dataset.year=2012", "dataset=voc"])
    assert (config.dataset["root"], config.dataset["split"]) == ("/elsewhere", None)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["run=runs/unfinished"], "run=runs/unfinished: there is no model.safetensors"),
        (["run=latest", "checkpoint=a.safetensors"], "leave out checkpoint=a.safetensors"),
    ],
)
def test_refused(arguments: list[str], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        load_config(Eval, arguments)


def test_a_data_set_that_another_folder_had() -> None:
    Path("runs/joint/config.yaml").write_text(VOC.replace("/data/voc", "photos"))
    with pytest.raises(
        ConfigError, match=r"root was photos, which is not there from .*; give dataset=voc dataset.root="
    ):
        load_config(Eval, ["run=runs/joint"])
    Path("photos").mkdir()
    assert load_config(Eval, ["run=runs/joint"]).dataset["root"] == "photos"


def test_no_run_and_no_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("runs/joint/config.yaml").write_text("dataset: {name: own}\n")
    with pytest.raises(ConfigError, match="given in Python; give dataset="):
        load_config(Eval, ["run=runs/joint"])
    assert load_config(Predict, ["run=runs/joint"]).checkpoint == "runs/joint/model.safetensors"
    Path("runs/joint/config.yaml").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.yaml: cannot be read"):
        load_config(Eval, ["run=runs/joint"])
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(ConfigError, match="there is no run with a model below"):
        load_config(Eval, ["run=latest"])
