"""Runs that learn from a teacher: of every task and source, with labels or without; and what is refused."""

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import mnv2vision as mv
from mnv2vision.data.formats.shapes import Shapes

pytestmark = pytest.mark.slow

Train = Callable[..., int]
Capture = pytest.CaptureFixture[str]
STUDENT = ("trainer.max_epochs=1", "recipe=null")


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of the shapes for each task."""
    folder = tmp_path_factory.mktemp("teachers")
    found = {}
    for task in ("classification", "detection", "segmentation"):
        names = Shapes.mask_names if task == "segmentation" else Shapes.names
        torch.manual_seed(1)
        model = mv.create_model(task, names=names, width=0.5, image_size=48)
        mv.save(model, found.setdefault(task, folder / f"{task}.safetensors"))
    return found


@pytest.fixture(scope="module")
def in_onnx(
    teachers: dict[str, Path], exported: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """A task's teacher in the form of ONNX, exported when it is first asked for."""
    pytest.importorskip("onnxruntime")
    return cache(lambda task: exported(mv.load(teachers[task]), tmp_path_factory.mktemp("exported") / task))


def table(run: Path) -> str:
    return (run / "metrics.csv").read_text()


def weights(run: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = mv.load(run / "model.safetensors").state_dict()
    return state


@pytest.mark.parametrize("task", ["classification", "detection", "segmentation"])
def test_every_task_learns_from_a_teacher(
    task: str, tmp_path: Path, train: Train, teachers: dict[str, Path], capsys: Capture
) -> None:
    """Beside the labels, and from the teacher alone; each changes what is learned, and none the file's keys."""
    runs = {}
    for name, more in {
        "labels": [],
        "both": [f"teacher={teachers[task]}"],
        "alone": [f"teacher={teachers[task]}", "distill.labels=false"],
        "js": [f"teacher={teachers[task]}", "distill.loss=js", "distill.temperature=2"],
        "features": [f"teacher={teachers[task]}", "distill.features=[block3,block10.expand]", "ema.decay=0.9"],
    }.items():
        runs[name] = tmp_path / name
        assert train(f"task={task}", *STUDENT, *more, f"run_dir={runs[name]}") == 0, name
    states = {name: weights(run) for name, run in runs.items()}
    assert len({tuple(state) for state in states.values()}) == 1
    first = next(key for key in states["labels"] if key.startswith("backbone"))
    assert len({state[first].sum().item() for state in states.values()}) == len(states)
    assert json.loads((runs["alone"] / "metrics.json").read_text())
    told = f"{teachers[task]}: was made for 48x48 pixels and is asked at 32x32, where it may know less"
    assert capsys.readouterr().err.count(told) == (0 if task == "classification" else 4)


def test_a_teacher_that_is_the_student(tmp_path: Path, train: Train, teachers: dict[str, Path]) -> None:
    """By KL alone there is nothing to learn where both are the same and see alike: the loss begins at 0."""
    start = tmp_path / "model.safetensors"
    mv.save(mv.create_model("classification", names=Shapes.names, width=0.35, image_size=32), start)
    more = (f"init_from={start}", f"teacher={start}", "distill.labels=false", "distill.batch_statistics=true")
    arguments = ("trainer.max_steps=1", "model.dropout=0", "optimizer.lr=0", f"run_dir={tmp_path / 'run'}")
    assert train(*STUDENT, *more, *arguments) == 0
    header, row = (line.split(",") for line in table(tmp_path / "run").splitlines()[:2])
    assert float(row[header.index("loss")]) == pytest.approx(0, abs=1e-5)


def test_photos_without_labels_join_in(tmp_path: Path, train: Train, teachers: dict[str, Path]) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(9):
        pixels = np.random.default_rng(index).integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(photos / f"{index}.png")
    shapes = {"dataset": "shapes", "train_size": 24, "val_size": 9, "image_size": 48}
    parts = [f"data.shapes.{key}={value}" for key, value in shapes.items()]
    parts += ["data.photos.dataset=folder", f"data.photos.root={photos}"]
    run = tmp_path / "run"
    assert train(*STUDENT, *parts, f"teacher={teachers['classification']}", f"run_dir={run}") == 0
    assert "top1" in json.loads((run / "metrics.json").read_text())


def test_an_exported_teacher(
    tmp_path: Path, train: Train, teachers: dict[str, Path], in_onnx: Callable[[str], Path]
) -> None:
    """It says what the model says that it was exported from, up to rounding."""
    folder = in_onnx("classification")
    losses = []
    for name, source in (("file", folder), ("model", teachers["classification"])):
        more = ("distill.labels=false", "trainer.max_steps=2", f"run_dir={tmp_path / name}")
        assert train(*STUDENT, f"teacher={source}", *more) == 0
        header, row = (line.split(",") for line in table(tmp_path / name).splitlines()[:2])
        losses.append(float(row[header.index("loss")]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    more = ("trainer.max_steps=2", f"distill.cache={tmp_path / 'answers'}")
    for name in ("first", "again"):
        assert train(*STUDENT, f"teacher={folder}", *more, f"run_dir={tmp_path / name}") == 0
    assert len(list((tmp_path / "answers").iterdir())) == 1  # of one teacher, found again
    assert table(tmp_path / "again") == table(tmp_path / "first")
    refused = ("distill.batch_statistics=true", f"run_dir={tmp_path / 'no'}")
    assert train(*STUDENT, f"teacher={folder}", *refused) == 2


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_an_exported_teacher_and_photos_without_labels(
    task: str, tmp_path: Path, train: Train, teachers: dict[str, Path], in_onnx: Callable[[str], Path]
) -> None:
    """Labelled photos and others, from the teacher alone; a file says what its model says, up to rounding."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(9):
        Image.fromarray(Shapes("train", 9, 48)[index].image).save(photos / f"{index}.png")
    folder = in_onnx(task)
    parts = ("data.shapes.dataset=shapes", "data.shapes.train_size=24", "data.shapes.val_size=9")
    parts += ("data.photos.dataset=folder", f"data.photos.root={photos}", "model.image_size=48")
    losses = {}
    for name, source in (("file", folder), ("model", teachers[task])):
        more = (f"task={task}", f"teacher={source}", "trainer.max_steps=2", f"run_dir={tmp_path / name}")
        assert train(*STUDENT, *parts, *more, "distill.labels=false") == 0
        header, row = (line.split(",") for line in table(tmp_path / name).splitlines()[:2])
        losses[name] = float(row[header.index("loss")])
    assert losses["file"] == pytest.approx(losses["model"], rel=1e-3)
    assert losses["file"] > 0


@pytest.mark.parametrize("task", ["classification", "detection", "segmentation"])
def test_answers_that_are_kept(
    task: str, tmp_path: Path, train: Train, teachers: dict[str, Path], capsys: Capture
) -> None:
    more = (f"task={task}", f"teacher={teachers[task]}", "trainer.max_steps=2", f"distill.cache={tmp_path / 'answers'}")
    assert train(*STUDENT, *more, f"run_dir={tmp_path / 'first'}") == 0
    (kept,) = (tmp_path / "answers").iterdir()
    before = kept.read_bytes()
    assert train(*STUDENT, *more, f"run_dir={tmp_path / 'again'}") == 0
    assert kept.read_bytes() == before
    assert table(tmp_path / "again") == table(tmp_path / "first")
    kept.write_bytes(b"no answers" * 100)
    capsys.readouterr()
    assert train(*STUDENT, *more, f"run_dir={tmp_path / 'damaged'}") == 2
    assert f"distill.cache: {kept}: file is not a database; remove the file" in capsys.readouterr().err


@pytest.fixture
def imagenet(tmp_path: Path) -> Iterator[Path]:
    """Two of ImageNet's classes, by their synsets."""
    for part, synset in ((part, synset) for part in ("train", "val") for synset in ("n01440764", "n02102040")):
        folder = tmp_path / "imagenet" / part / synset
        folder.mkdir(parents=True)
        for index in range(4):
            pixels = np.random.default_rng(index).integers(0, 256, (40, 50, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}.png")
    return tmp_path / "imagenet"


def test_other_projects_teachers(
    tmp_path: Path,
    train: Train,
    imagenet: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    """torchvision's weights come from its own cache here; timm's are random, as its hub cannot be reached."""
    timm = pytest.importorskip("timm")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None, raising=False)
    name = Path(torchvision.models.get_model_weights("squeezenet1_1").DEFAULT.url).name
    kept = tmp_path / "home/hub/checkpoints" / name
    kept.parent.mkdir(parents=True)
    torch.save(torchvision.models.squeezenet1_1().state_dict(), kept)
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: create(name, pretrained=False))
    data = ("dataset=imagenet", f"dataset.root={imagenet}", "loader.batch_size=4", "trainer.max_steps=1")
    for source in ("torchvision/squeezenet1_1", "timm/resnet10t"):
        tiny = [f"run_dir={tmp_path / source.replace('/', '-')}", f"teacher={source}"]
        assert mv_train(*STUDENT, *data, *tiny) == 0
        told = capsys.readouterr().err
        assert f"{source}: knows 2 of the head's 2 classes, by name; 998 of its own are left out" in told


def mv_train(*arguments: str) -> int:
    from mnv2vision.cli.main import main

    common = ("backbone.width=0.35", "model.image_size=32", "loader.workers=0", "trainer.accelerator=cpu", "loggers=[]")
    return main(["train", *common, *arguments])


WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "of another task": (("teacher={detection}",), "is a model for detection, not for classification"),
    "no teacher": (("distill.labels=false",), "nothing is left to learn from: give teacher="),
    "options without a teacher": (("distill.loss=js",), "distill.loss=js: there is no teacher"),
    "joint": (("task=joint", "teacher={detection}"), "each head has its own: give teachers.classification="),
    "correlations of boxes": (
        ("task=detection", "teacher={detection}", "distill.loss=dist"),
        "distill.loss=dist: is for classification and segmentation; detection learns by kl or js",
    ),
    "unknown at timm": (("teacher=timm/mobilenetv9",), "timm has no model of that name; near it: none"),
    "unknown at torchvision": (("teacher=torchvision/mobilenet_v9",), "torchvision has no classifier of that name"),
    "not for boxes": (("task=detection", "teacher=timm/resnet10t"), "models of timm teach classification alone"),
    "missing": (("teacher=none.safetensors",), "no such model file"),
    "unknown tap": (("teacher={classification}", "distill.features=[block77]"), "of the student: unknown taps"),
    "unknown loss": (("teacher={classification}", "distill.loss=mse"), "kl"),
    "other anchors": (
        ("task=detection", "teacher={detection}", "backbone.output_stride=16"),
        "anchors for this input, of which not all are the student's",
    ),
    "exported for another size": (
        ("task=detection", "teacher={exported}"),
        "was exported for 48x48 pixels, not for 32x32",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_cannot_teach_is_one_line(
    kind: str, tmp_path: Path, train: Train, teachers: dict[str, Path], request: pytest.FixtureRequest, capsys: Capture
) -> None:
    arguments, message = WRONG[kind]
    if "{exported}" in "".join(arguments):
        teachers = teachers | {"exported": request.getfixturevalue("in_onnx")("detection")}
    given: list[Any] = [argument.format(**teachers) for argument in arguments]
    assert train(*STUDENT, *given, f"run_dir={tmp_path / 'run'}") == 2
    *before, error = capsys.readouterr().err.strip().splitlines()
    assert message in error
    assert all("knows all of the head's 6 classes" in line or "was made for 48x48" in line for line in before)
    assert not (tmp_path / "run").exists()
