"""Exported folders: predicted with and evaluated like the model they came from, and refused in a line."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torch import nn

import mnv2vision as mv
from mnv2vision.cli.main import main
from mnv2vision.errors import ConfigError, WeightsError
from mnv2vision.inference.bundle import digest
from mnv2vision.models.vision_model import VisionModel
from mnv2vision.predictions.classification import Classification
from mnv2vision.predictions.detection import Detection
from mnv2vision.predictions.segmentation import Segmentation

pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NAMES = ("яблоко", "梨", "a plum", "fig")
TASKS = ("classification", "detection", "segmentation")


def photo(seed: int, height: int = 90, width: int = 120) -> NDArray[np.uint8]:
    cells = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return np.array(Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC))


PHOTOS = [photo(0), photo(1, 300, 50), photo(2, 20, 20), photo(3, 64, 64)]


@pytest.fixture(scope="module")
def models(randomize: Callable[[nn.Module], None]) -> dict[str, VisionModel]:
    made = {}
    for task in TASKS:
        options: dict[str, Any] = {} if task == "classification" else {"padding": "tf"}
        made[task] = mv.create_model(task, width=0.35, depth=0.5, names=NAMES, image_size=65, **options)
        randomize(made[task])
        made[task].eval()
    return made


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("an outing 出")


@pytest.fixture(scope="module")
def folders(models: dict[str, VisionModel], exported: Callable[..., Path], place: Path) -> dict[str, Path]:
    return {task: exported(model, place / f"{task} é 模型") for task, model in models.items()}


@pytest.fixture
def folder(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A classifier's, to damage."""
    return Path(shutil.copytree(folders["classification"], tmp_path / "onnx"))


def same(ours: Any, theirs: Any) -> None:
    assert ours.names == theirs.names == NAMES
    if isinstance(theirs, Classification):
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=0.05)  # the weights are random
    elif isinstance(theirs, Detection):
        assert abs(len(ours) - len(theirs)) <= 0.1 * len(theirs) + 2
    else:
        assert isinstance(theirs, Segmentation)
        assert (ours.mask == theirs.mask).mean() > 0.9


# ---- prediction ----


def test_several_heads_in_one_file(
    exported: Callable[..., Path], randomize: Callable[[nn.Module], None], tmp_path: Path
) -> None:
    """All answers of one pass, as the model's own."""
    heads = {task: {"names": NAMES} for task in TASKS}
    model = mv.create_model(heads, width=0.35, depth=0.5, image_size=65, padding="tf", output_stride=32)
    randomize(model)
    model.eval()
    folder = exported(model, tmp_path / "joint")
    ours: Any = mv.Predictor(folder, score_threshold=0.5)([photo(7, 65, 65), photo(8, 65, 65)])
    theirs: Any = mv.Predictor(model, device="cpu", score_threshold=0.5)([photo(7, 65, 65), photo(8, 65, 65)])
    for answers, wanted in zip(ours, theirs, strict=True):
        assert set(answers) == set(TASKS)
        for task in TASKS:
            same(answers[task], wanted[task])
        np.testing.assert_allclose(answers.classification.scores, wanted.classification.scores, atol=1e-5)
    only: Any = mv.Predictor(exported(model.only("detection", "segmentation"), tmp_path / "two"))(photo(7, 65, 65))
    assert set(only) == {"detection", "segmentation"}


@pytest.mark.parametrize("task", TASKS)
def test_predicts_like_the_model(task: str, models: dict[str, VisionModel], folders: dict[str, Path]) -> None:
    """On photos of the network's own size to rounding; on others but for the other resizing's grey level."""
    by_torch = mv.Predictor(models[task], device="cpu", score_threshold=0.5)
    by_runtime = mv.Predictor(folders[task], score_threshold=0.5, batch_size=3)
    assert (by_runtime.task, by_runtime.names) == (task, NAMES)
    assert by_runtime.preprocessing == models[task].preprocessing
    many = by_runtime(list(PHOTOS))
    for image, ours in zip(PHOTOS, many, strict=True):
        same(ours, by_torch(image))
    exact = photo(7, 65, 65)
    if task == "classification":  # whose crop resizes any photo
        size = by_torch.preprocessing.placement(90, 120)
        exact = photo(7, size.height, size.width)
    ours, theirs = by_runtime(exact), by_torch(exact)
    if isinstance(ours, Classification):
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)  # type: ignore[union-attr]
    elif isinstance(ours, Detection):
        assert isinstance(theirs, Detection)
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-4)
        apart = np.diff(theirs.scores, prepend=2, append=-1) < -1e-4  # others may change places
        certain = apart[:-1] & apart[1:]
        np.testing.assert_allclose(ours.boxes[certain], theirs.boxes[certain], atol=0.5)
        np.testing.assert_array_equal(ours.labels[certain], theirs.labels[certain])
    else:
        assert (ours.mask == theirs.mask).mean() > 0.999  # type: ignore[union-attr]
    assert by_runtime([]) == []


BLOCKER = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(name + " is blocked here")
sys.meta_path.insert(0, Refuse())
"""
TORCH = ("torch", "torchvision", "pytorch_lightning", "lightning_fabric", "torchmetrics", "albumentations")


def run_without(blocked: tuple[str, ...], program: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    code = BLOCKER.format(blocked=blocked) + program
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=cwd, env=environment, check=False
    )


@pytest.mark.parametrize("task", TASKS)
def test_predicts_without_torch(task: str, folders: dict[str, Path], tmp_path: Path) -> None:
    for index, image in enumerate(PHOTOS):
        Image.fromarray(image).save(tmp_path / f"фото {index}.png")
    program = "from mnv2vision.cli.main import main; sys.exit(main(sys.argv[1:]))"
    given = [f"checkpoint={folders[task]}", "images='*.png'", "output=без torch", "threshold=0.5"]
    done = run_without(TORCH, program, "predict", *given, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    data = json.loads((tmp_path / "без torch/predictions.json").read_text(encoding="utf-8"))
    predict = mv.Predictor(folders[task], score_threshold=0.5)
    for record in data:
        found: Any = predict(tmp_path / record["image"])
        if task == "classification":
            assert [(item["name"], pytest.approx(item["score"])) for item in record["classes"]] == found.top()
        elif task == "detection":
            assert [item["name"] for item in record["objects"]] == [found.names[label] for label in found.labels]
            np.testing.assert_allclose(
                np.array([item["box"] for item in record["objects"]]).reshape(-1, 4), found.boxes
            )
        else:
            assert [(item["name"], item["share"]) for item in record["classes"]] == found.shares()
    assert len(data) == len(list(tmp_path.glob("без torch/*.jpg"))) == len(PHOTOS)
    program = "import mnv2vision as mv; print(mv.Predictor(sys.argv[1])(sys.argv[2]).names)"
    done = run_without(TORCH, program, str(folders[task]), "фото 0.png", cwd=tmp_path)
    assert done.stdout.strip() == repr(NAMES), done.stderr


# ---- what is refused ----


def line(folder: Path) -> str:
    with pytest.raises((ConfigError, WeightsError)) as caught:
        mv.Predictor(folder)
    (only,) = str(caught.value).splitlines()
    assert str(folder) in only
    return only


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "model.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def test_damaged_files(folder: Path) -> None:
    whole = (folder / "model.onnx").read_bytes()
    for content in (whole[: len(whole) // 2], b"", whole[:-1] + b"?"):
        (folder / "model.onnx").write_bytes(content)
        assert "cut, or another file than the one exported (its sha256 differs)" in line(folder)
    (folder / "model.onnx").unlink()
    assert "incomplete: model.onnx is missing" in line(folder)


def test_a_foreign_file_with_its_digest(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"no model at all")
    edit(folder, lambda data: data.update(sha256=digest(folder / "model.onnx")))
    assert "onnxruntime" in line(folder)


def test_damaged_descriptions(folder: Path) -> None:
    path = folder / "model.json"
    whole = path.read_text(encoding="utf-8")
    for text in (whole[: len(whole) // 2], "", "[]", "{}", "null", '{"format_version": 1}', "[" * 100_000):
        path.write_text(text, encoding="utf-8")
        assert "model.json: damaged" in line(folder)
    path.write_bytes(b"\xff\xfe\x00")
    assert "model.json: damaged" in line(folder)
    path.unlink()
    with pytest.raises(WeightsError) as caught:
        mv.Predictor(folder)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "key",
    ["format", "precision", "file", "sha256", "input", "layout", "post", "outputs", "heads", "preprocessing", "model"],
)
def test_descriptions_with_a_wrong_value(key: str, folder: Path) -> None:
    whole = (folder / "model.json").read_text(encoding="utf-8")
    for value in (None, 7, "nonsense", [], {}, [7], {"a": 7}):
        (folder / "model.json").write_text(whole, encoding="utf-8")
        edit(folder, lambda data, value=value: data.update({key: value}))  # type: ignore[misc]
        try:
            mv.Predictor(folder)(photo(0))
        except (ConfigError, WeightsError) as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017
        else:
            assert key == "model"  # which prediction reads little of


def test_a_newer_version(folder: Path) -> None:
    edit(folder, lambda data: data.update(format_version=99))
    assert "in format 99; this version reads up to 1: upgrade mnv2vision" in line(folder)


def test_a_missing_runtime(folders: dict[str, Path], tmp_path: Path) -> None:
    Image.fromarray(photo(0)).save(tmp_path / "a.png")
    program = "from mnv2vision.cli.main import main; sys.exit(main(sys.argv[1:]))"
    given = [f"checkpoint={folders['classification']}", "images=a.png"]
    done = run_without((*TORCH, "onnxruntime"), program, "predict", *given, cwd=tmp_path)
    assert done.returncode == 2
    (only,) = done.stderr.splitlines()
    assert only.startswith("error: onnx models need onnxruntime")
    assert "pip install 'mnv2vision[onnx]'" in only


def test_options_that_exported_models_do_not_have(folders: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="max_detections is for detection, not for a model of classification"):
        mv.Predictor(folders["classification"], max_detections=3)
    for value in (0, -1, 2.5, True, "100"):
        with pytest.raises(ConfigError, match=rf"max_detections={value!r} must be an integer of at least 1"):
            mv.Predictor(folders["detection"], max_detections=value)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="device=cuda"):
        mv.Predictor(folders["detection"], device="cuda")
    with pytest.raises(AttributeError):
        mv.Predictor(folders["detection"]).model  # noqa: B018


# ---- evaluation ----


@pytest.mark.parametrize("task", TASKS)
def test_evaluates_like_the_model(
    task: str, exported: Callable[..., Path], randomize: Callable[[nn.Module], None], tmp_path: Path
) -> None:
    classes = ("background",) * (task == "segmentation") + (*("circle", "square", "triangle", "star", "ring", "cross"),)
    model = mv.create_model(task, width=0.35, depth=0.5, names=classes, image_size=64)
    randomize(model)
    folder = exported(model.eval(), tmp_path / "exported")
    options: dict[str, Any] = {"trainer.limit_val_batches": 2, "loader.batch_size": 8, "loader.workers": 0}
    wanted = mv.evaluate(model, run_dir=tmp_path / "a", **options)
    ours = mv.evaluate(folder, run_dir=tmp_path / "b", **options)
    assert ours.keys() == wanted.keys()
    for name, value in wanted.items():
        assert ours[name] == pytest.approx(value, abs=0.01, nan_ok=True)
    assert json.loads((tmp_path / "b/metrics.json").read_text()).keys() == wanted.keys()
    assert {path.name for path in (tmp_path / "a").iterdir()} == {path.name for path in (tmp_path / "b").iterdir()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model.image_size=96"], "model.image_size"),
        (["model.output_stride=8"], "model.output_stride"),
        (["inference.scales=[0.5,1]"], "inference.scales"),
        (["trainer.devices=2", "trainer.accelerator=cpu"], "trainer.devices"),
        (["task=detection"], "task=detection"),
    ],
)
def test_options_of_eval_that_a_file_does_not_have(
    arguments: list[str], message: str, folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"checkpoint={folders['segmentation']}", f"run_dir={tmp_path / 'run'}"]
    assert main(["eval", *given, *arguments]) == 2
    (only,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error")]
    assert message in only


def test_finished_answers_predict_but_are_not_evaluated(
    models: dict[str, VisionModel], exported: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for task, model in models.items():
        folder = exported(model, tmp_path / task, post="fixed", layout="NCHW")
        by_torch, predict = (
            mv.Predictor(model, device="cpu", score_threshold=0.5),
            mv.Predictor(folder, score_threshold=0.5),
        )
        for image in PHOTOS:
            ours, theirs = predict(image), by_torch(image)
            if isinstance(ours, Segmentation):  # whose labels, not scores, are brought to the photo's size
                assert (ours.mask == theirs.mask).mean() > 0.8  # type: ignore[union-attr]
            else:
                same(ours, theirs)
        assert main(["eval", f"checkpoint={folder}", f"run_dir={tmp_path / 'run'}"]) == 2
        (only,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error")]
        assert "post=fixed" in only
    most = mv.Predictor(models["detection"]).model.head.max_detections
    with pytest.raises(ConfigError, match=f"max_detections={most + 1}.*{most} at most"):
        mv.Predictor(tmp_path / "detection", max_detections=most + 1)(PHOTOS[0])
