"""Training and evaluation from Python: the same as the commands, on folders and on data sets of the user's own."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mnv2vision as mv
from mnv2vision.cli.main import main
from mnv2vision.contracts import find_classes
from mnv2vision.data.formats.shapes import Shapes
from mnv2vision.data.sample import names_of
from mnv2vision.engine import initial
from mnv2vision.errors import ConfigError, DataError

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {
    "backbone.width": 0.35,
    "model.image_size": 32,
    "loader.batch_size": 8,
    "loader.workers": 0,
    "trainer.accelerator": "cpu",
    "trainer.precision": "32",
    "loggers": [],
}


class Squares:
    """A data set of one's own: an image's class is its colour, and a box is around its middle."""

    names = ("red", "green", "blue")

    def __init__(self, size: int = 20, label: int | None = None) -> None:
        self.size, self.label = size, label

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> mv.Sample:
        label = index % 3 if self.label is None else self.label
        image = np.zeros((48, 64, 3), np.uint8)
        image[12:36, 16:48, label % 3] = 255
        boxes = mv.Boxes.of(np.array([[16, 12, 48, 36]], np.float32), np.array([label]))
        mask = (image.max(2) > 0).astype(np.uint8)
        return mv.Sample(image, index, f"square {index}", label=label, boxes=boxes, mask=mask)


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("task", ["classification", "detection", "segmentation"])
def test_a_data_set_of_ones_own(task: str) -> None:
    run = mv.train(task, Squares(), init_from="none", epochs=1, **SMALL)
    assert run.folder.parent == Path(f"runs/{task}/own")
    known = {name: None if math.isnan(value) else value for name, value in run.metrics.items()}
    assert known == json.loads((run.folder / "metrics.json").read_text())
    assert run.model.names == Squares.names
    assert not run.model.training
    again = mv.evaluate(run.model, Squares(1), **{"loader.workers": 0})
    assert again.keys() == run.metrics.keys()
    page = run._repr_html_()
    assert page.count("<img") == len(list(run.folder.glob("*.png"))) > 0
    assert next(iter(run.metrics)) in page


def test_what_the_command_does(tmp_path: Path) -> None:
    arguments = {**SMALL, "dataset.image_size": 48, "dataset.train_size": 16, "dataset.val_size": 8}
    run = mv.train("classification", epochs=1, run_dir=tmp_path / "python", **arguments)
    typed = [f"{key}={str(value).replace(' ', '')}" for key, value in arguments.items()]
    assert main(["train", "trainer.max_epochs=1", "run_dir=command", *typed]) == 0
    theirs = mv.load("command/model.safetensors").state_dict()
    ours = run.model.state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    metrics = mv.evaluate("command/model.safetensors", **{"dataset.val_size": 8, "dataset.image_size": 48})
    assert metrics == json.loads(Path("command/metrics.json").read_text())


def test_two_parts_and_a_run_that_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    data = (Squares(16), Squares(6))
    run = mv.train("classification", data, init_from="none", epochs=1, run_dir="run", **SMALL)
    last = run.folder / "checkpoints/last.ckpt"
    longer = mv.train("classification", data, resume=last, epochs=2)
    assert (longer.folder / "metrics.csv").read_text().count("\n") == 3
    with pytest.raises(ConfigError, match=r"task=detection, but resume=.* is of a run of task=classification"):
        mv.train("detection", data, resume=last)
    assert main(["train", f"resume={last}", "trainer.max_epochs=3"]) == 2
    assert "go on with mv.train(data=…, resume=…)" in capsys.readouterr().err


def test_a_model_that_is_evaluated_stays_as_it_is(randomize: Callable[[Any], None]) -> None:
    model = mv.create_model("classification", width=0.35, names=Squares.names, image_size=32)
    randomize(model)
    before = model.preprocessing
    metrics = mv.evaluate(model, Squares(), **{"model.image_size": 64, "loader.workers": 0})
    assert metrics.keys() == {"top1", "top5", "ece", "ece_calibrated", "temperature"}
    assert model.preprocessing == before


class Unnamed:
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> str:
        return "photo"


class Floats(Squares):
    """Images as networks have them, not as files do."""

    def __getitem__(self, index: int) -> mv.Sample:
        sample = super().__getitem__(index)
        return replace(sample, image=sample.image.transpose(2, 0, 1).astype(np.float32))


class Doubled(Squares):
    """Each image_id twice."""

    def __getitem__(self, index: int) -> mv.Sample:
        return replace(super().__getitem__(index), image_id=index // 2)


class Strings(Unnamed):
    names = ("a", "b")


@pytest.mark.parametrize(
    ("data", "overrides", "message"),
    [
        ("nowhere", {}, "data=nowhere: no such folder"),
        (Unnamed(), {}, "data: Unnamed is not a folder, a data set with __len__, __getitem__ and names, or a tuple"),
        ((Squares(), Squares(), Squares()), {}, r"data: a tuple of 3; it must be two, \(train, val\)"),
        (Floats(), {}, r"square \d+: an image is an \(H, W, 3\) uint8 RGB array, not float32 \(3, 48, 64\)"),
        (Strings(), {}, r"data\[\d+\] is a str, not an mnv2vision.Sample"),
        ((Doubled(), Doubled()), {}, r"data\[0\] and data\[1\] have the same image_id, 0: in evaluation, each"),
        (Squares(0), {}, "data: too few samples"),
        (Squares(1), {}, r"data: too few samples \(1\) to hold some out"),
        ((Squares(0), Squares()), {}, "data: the data set is empty"),
        (Squares(label=3), {}, r"square \d+: label 3, but there are 3 names"),
        (Squares(), {"optimizer.lrr": 1}, "unknown key optimizer.lrr; did you mean optimizer.lr"),
        (Squares(), {"seed": -1}, "seed takes a whole number in 0..4294967295, not -1"),
        (Squares(), {"backbone": "resnet"}, "backbone=resnet is unknown; valid: mobilenet_v1"),
        (Squares(), {"epochs": 0.5}, "trainer.max_epochs takes a whole number"),
        (Squares(), {"model.num_classes": 5}, "model.num_classes=5, but the data set has 3 classes"),
    ],
)
def test_refusals(data: Any, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        mv.train("classification", data, **{"init_from": "none", **SMALL, **overrides})
    assert not Path("runs").exists()


def test_samples_without_the_target() -> None:
    class Boxless(Squares):
        def __getitem__(self, index: int) -> mv.Sample:
            sample = super().__getitem__(index)
            sample.boxes = None
            return sample

    with pytest.raises(ConfigError, match="data: the samples have label, mask, but the task needs boxes"):
        mv.train("detection", Boxless(), init_from="none", **SMALL)


# ---- init_from=auto ----


def photos(folder: Path) -> Path:
    for split in ("train", "val"):
        for index, name in enumerate(("ant/1.jpg", "bee/1.jpg")):
            (folder / split / name).parent.mkdir(parents=True)
            Image.new("RGB", (48, 40), (90 * index, 0, 99)).save(folder / split / name)
    return folder


def test_own_photos_start_from_imagenet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, randomize: Callable[[Any], None], caplog: pytest.LogCaptureFixture
) -> None:
    kept = tmp_path / "kept.safetensors"
    model = mv.create_model("classification", num_classes=1000, image_size=64)
    randomize(model)
    mv.save(model, kept)
    asked: list[str] = []
    monkeypatch.setattr(initial.registry, "resolve", lambda name: asked.append(str(name)) or kept)
    small = {key: value for key, value in SMALL.items() if key != "backbone.width"}
    with caplog.at_level("INFO", logger="mnv2vision"):
        run = mv.train("classification", photos(tmp_path / "photos"), epochs=1, **small)
    name = "torchvision/mobilenet_v2-imagenet1k_v2"
    assert set(asked) == {name}
    assert any(message.startswith("recipe finetune: initialised ") for message in caplog.messages)
    assert f"init_from: {name}" in (run.folder / "config.yaml").read_text()


def test_offline_without_a_kept_copy(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MNV2VISION_OFFLINE", "1")
    photos(Path("photos"))
    assert main(["train", "dataset=imagenet", "dataset.root=photos"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: init_from=auto: torchvision/mobilenet_v2-imagenet1k_v2: not downloaded")
    assert line.endswith("or init_from=none to start from scratch")


@pytest.mark.parametrize(
    ("backbone", "name"),
    [
        ({"name": "mobilenet_v2"}, "torchvision/mobilenet_v2-imagenet1k_v2"),
        ({"name": "mobilenet_v2", "width": 0.35}, "tensorflow/mobilenet_v2_0.35-224"),
        ({"name": "mobilenet_v1", "width": None}, "tensorflow/mobilenet_v1_1.0-224"),
        ({"name": "mobilenet_v3_small", "minimalistic": True}, "tensorflow/mobilenet_v3_small_minimalistic_1.0-224"),
        ({"name": "mobilenet_v3_large"}, "torchvision/mobilenet_v3_large-imagenet1k_v2"),
    ],
)
def test_whose_weights(backbone: dict[str, object], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initial.registry, "resolve", lambda name: Path(name))
    assert initial.imagenet_weights(backbone) == name


def test_weights_that_nobody_published() -> None:
    with pytest.raises(ConfigError, match=r"no ImageNet weights of mobilenet_v2 with width=0\.6 are known; give init_"):
        initial.imagenet_weights({"name": "mobilenet_v2", "width": 0.6})


def test_classes_of_masks_are_not_those_of_boxes() -> None:
    """A set with boxes and masks: the mask's classes, the background among them, are the model's."""
    both = Shapes("train", 12, 48, 0, ("boxes", "mask"))
    run = mv.train("segmentation", (both, both), init_from="none", epochs=1, **SMALL)
    assert run.model.names == Shapes.mask_names
    assert find_classes(names_of(both, "mask"), run.model.config.head) is None
    assert mv.evaluate(run.model, both)["mIoU"] == pytest.approx(run.metrics["mIoU"], abs=1e-3)


def test_masks_of_other_values_are_refused() -> None:
    class Wrong(Squares):
        def __getitem__(self, index: int) -> mv.Sample:
            sample = super().__getitem__(index)
            assert sample.mask is not None
            return replace(sample, mask=sample.mask * 7)

    with pytest.raises(DataError, match=r"square \d+: a mask is uint8 with 3 labels and 255, but it has the value 7"):
        mv.train("segmentation", Wrong(), init_from="none", epochs=1, **SMALL)


def test_the_first_samples_may_lack_the_target() -> None:
    class Gappy(Squares):
        def __getitem__(self, index: int) -> mv.Sample:
            sample = super().__getitem__(index)
            return replace(sample, label=None) if index < 4 else sample

    run = mv.train("classification", (Gappy(), Squares()), init_from="none", epochs=1, **SMALL)
    assert 0 <= run.metrics["top1"] <= 1
    with pytest.raises(ConfigError, match="dataset=own: the data are given in Python"):
        mv.evaluate(run.model, dataset="own")
