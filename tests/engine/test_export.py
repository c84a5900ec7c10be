"""Exports of a small model: what comes to lie in a folder, what is measured, and what is refused."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import mnv2vision as mv
from mnv2vision.cli.main import main
from mnv2vision.data.formats.shapes import Shapes
from mnv2vision.deploy.report import HeadProof
from mnv2vision.deploy.sensitivity import Trial
from mnv2vision.deploy.timing import Timing
from mnv2vision.engine import export as exporting
from mnv2vision.engine.run_folder import claimed
from mnv2vision.errors import ConfigError, ExportError
from mnv2vision.inference.bundle import Bundle
from mnv2vision.models.vision_model import VisionModel

pytest.importorskip("onnxscript", reason="formats=[onnx] is not installed")

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
FEW = {"dataset.val_size": 20, "dataset.train_size": 30, "dataset.image_size": 64}
SHAPES = ["dataset=shapes", *(f"{key}={value}" for key, value in FEW.items())]


@pytest.fixture(scope="session")
def model(randomize: Callable[[nn.Module], None]) -> VisionModel:
    made = mv.create_model("classification", width=0.35, depth=0.5, num_classes=6, image_size=32)
    randomize(made)
    return made.eval()


@pytest.fixture(scope="session")
def weights(model: VisionModel, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("Gewichte für 日本") / "model.safetensors"
    mv.save(model, path, provenance={"source": "a test"})
    return str(path)


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds of calls are of no use here."""
    monkeypatch.setattr(exporting, "time_model", lambda folder: Timing((0.002,), (0.05,), 10**8, 1))


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.mark.usefixtures("untimed")
def test_a_folder_has_all_that_is_needed(weights: str, tmp_path: Path) -> None:
    output = tmp_path / "für Ünal 日本"
    assert main(["export", f"checkpoint={weights}", *SHAPES, f"output={output}"]) == 0
    assert left(output) == ["onnx"]
    folder = output / "onnx"
    assert left(folder) == ["model.json", "model.onnx", "predict.py", "report.json", "report.md"]
    bundle = Bundle.read(folder)
    assert bundle.provenance == {"source": "a test"}
    assert bundle.heads["classification"].names == tuple(f"class {i}" for i in range(6))
    assert "torch" in bundle.versions
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert bundle.report["heads"] == report["heads"]
    head = report["heads"]["classification"]
    assert head["main_metric"] == "top1"
    assert head["agreement"] == 1
    assert head["metrics"]["top1"]["difference"] == 0
    assert head["metrics"]["top1"]["interval"] == [0, 0]
    assert head["outputs"]["logits"]["largest"] < 1e-4
    assert report["speed"]["batch_1_p50_ms"] == pytest.approx(2)
    assert "all 20 images of the validation part of dataset=shapes" in (folder / "report.md").read_text("utf-8")


@pytest.mark.usefixtures("untimed")
def test_the_description_is_in_the_file_too(model: VisionModel, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    (exported,) = mv.export(model, tmp_path)
    embedded = {item.key: item.value for item in onnx.load(exported.folder / "model.onnx").metadata_props}
    described = json.loads((exported.folder / "model.json").read_text(encoding="utf-8"))
    assert json.loads(embedded["mnv2vision"]) == {**described, "sha256": ""}
    assert exported.proof.size == (exported.folder / "model.onnx").stat().st_size
    page = (exported.folder / "report.md").read_text(encoding="utf-8")
    assert "32 built-in pictures" in page
    assert "Accuracy was not measured: no annotated images were given." in page
    assert model.training is False


@pytest.mark.usefixtures("untimed")
def test_int8_of_own_data(
    model: VisionModel, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Shapes("train", 40, 64), Shapes("val", 12, 64)
    with caplog.at_level(logging.WARNING):
        (exported,) = mv.export(model, tmp_path, quantize="int8", data=data, allow_drop=None, images=25, seed=3)
    assert exported.folder == tmp_path / "onnx-int8"
    assert "int8 is calibrated with 25 images; 300 or more are better" in caplog.text
    kept: Any = Bundle.read(exported.folder).quantisation
    assert len(set(kept["calibration_images"])) == 25
    assert kept["calibration_images"] != list(range(25))
    assert exported.proof.heads["classification"].photos == "all 12 images of the validation part of dataset=own"


@pytest.mark.usefixtures("untimed")
def test_too_large_a_drop_is_told_and_kept(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(HeadProof, "drop", property(lambda self: 1.25))
    tried: list[float] = []

    def search(measure: Callable[[frozenset[str]], float], ranked: object, allowed: float) -> list[Trial]:
        tried.append(measure(frozenset()))
        return [Trial(frozenset(), tried[0])]

    monkeypatch.setattr(exporting, "search", search)
    arguments = ["export", f"checkpoint={weights}", "quantize=int8", *SHAPES, f"output={tmp_path}"]
    assert main(arguments) == 2
    folder = tmp_path / "onnx-int8"
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert lines == [f"error: {folder}: 1.25 points are lost, more than allow_drop=0.5; it is written, with its report"]
    assert tried == [1.25]
    assert Bundle.read(folder).quantisation["sensitivity_search"] == ["0 layers in float: 1.25 points lost"]
    assert main([*arguments, "allow_drop=null"]) == 0


@pytest.mark.usefixtures("untimed")
def test_a_float_file_that_differs_is_refused(
    model: VisionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "FLOAT_TOLERANCE", 1e-12)
    with pytest.raises(ExportError, match=r"onnx: not kept: classification's logits differ by up to .*e-\d+ of their"):
        mv.export(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantize": "int8"}, "quantize=int8 is calibrated with photos: give dataset= and dataset.root="),
        ({"formats": ["onnx", "coral"]}, r"formats=\[coral\]: unknown; valid: onnx, openvino"),
        ({"quantize": "int4"}, "quantize=int4: quantize takes none, fp16, int8"),
        ({"heads": ["wheels"]}, r"heads=\['wheels'\]: unknown; the model has classification"),
        ({"layout": "NWHC"}, "layout=NWHC: layout takes NHWC, NCHW"),
    ],
)
def test_what_cannot_work_is_refused_first(
    options: dict[str, Any], message: str, model: VisionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=message):
        mv.export(model, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_folders_of_others_stay(model: VisionModel, tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="onnx: exists, and is not an exported model"):
        mv.export(model, tmp_path)
    assert left(tmp_path / "onnx") == ["thesis.tex"]


def test_two_at_once(model: VisionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mnv2vision.engine.run_folder._LINGER", 0.1)
    with (
        claimed(tmp_path / "out", "output"),
        pytest.raises(ConfigError, match=r"output=.*out is in use by process \d+"),
    ):
        mv.export(model, tmp_path / "out")


def test_an_exported_model_is_not_exported(tmp_path: Path) -> None:
    (tmp_path / "model.json").touch()
    with pytest.raises(ConfigError, match="is exported already; give the model it came from"):
        mv.export(tmp_path, tmp_path / "out")


def test_killed_half_way(weights: str, tmp_path: Path, patience: float) -> None:
    """Killed where the file is written and not yet measured: no folder, and the next export clears what was left."""
    program = (
        "import os, signal, sys\n"
        "from mnv2vision.engine import export\n"
        "export.Exporter._prove = lambda *_: os.kill(os.getpid(), int(sys.argv[1]))\n"
        "from mnv2vision.cli.main import main\n"
        "sys.exit(main(sys.argv[2:]))"
    )
    for number, status in ((15, 143), (9, -9)):
        command = [sys.executable, "-c", program, str(number), "export", f"checkpoint={weights}", f"output={tmp_path}"]
        done = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, timeout=patience
        )
        assert done.returncode == status, done.stderr.decode()
        assert not (tmp_path / "onnx").exists()
        if number == 15:
            assert left(tmp_path) == []


@pytest.mark.parametrize("quantize", ["none", "int8"])
@pytest.mark.parametrize("task", ["classification", "detection", "segmentation"])
def test_every_task_from_the_command_line(
    task: str, quantize: str, randomize: Callable[[nn.Module], None], tmp_path: Path
) -> None:
    classes = 7 if task == "segmentation" else 6
    made = mv.create_model(task, width=0.35, depth=0.5, num_classes=classes, image_size=64)
    randomize(made)
    mv.save(made.eval(), tmp_path / "model.safetensors")
    arguments = [f"checkpoint={tmp_path / 'model.safetensors'}", f"quantize={quantize}", f"output={tmp_path}"]
    assert main(["export", *arguments, "allow_drop=null", *SHAPES]) == 0
    folder = tmp_path / ("onnx" if quantize == "none" else "onnx-int8")
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    speed, head = report["speed"], report["heads"][task]
    assert 0 < speed["batch_1_p50_ms"] <= speed["batch_1_p95_ms"]
    assert speed["peak_memory_mb"] > 20
    assert head["metrics"]
    assert np.isfinite(head["outputs"][next(iter(head["outputs"]))]["largest"])
    size = (tmp_path / "model.safetensors").stat().st_size / 1e6
    assert report["size_mb"] < size * (1.1 if quantize == "none" else 0.8)


HEADS = {"classification": Shapes.names, "detection": Shapes.names, "segmentation": Shapes.mask_names}
SIZES = {"kinds": (30, 9), "near": (20, 7), "far": (10, 5)}
"""Of the training and validation part, and the seeds are their places."""


@pytest.fixture(scope="session")
def joint(randomize: Callable[[nn.Module], None]) -> VisionModel:
    made = mv.create_model({name: {"names": own} for name, own in HEADS.items()}, width=0.35, depth=0.5, image_size=64)
    randomize(made)
    return made.eval()


def data_of(name: str, *heads: str) -> dict[str, Any]:
    train, val = SIZES[name]
    sizes = {"train_size": train, "val_size": val, "image_size": 64, "seed": list(SIZES).index(name)}
    return {f"data.{name}.{key}": value for key, value in {"dataset": "shapes", **sizes, "heads": list(heads)}.items()}


@pytest.mark.usefixtures("untimed")
def test_each_head_is_measured_on_its_own_data(
    joint: VisionModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As `evaluate` measures it alone; a head without annotations is compared all the same."""
    data = {**data_of("kinds", "classification"), **data_of("near", "detection"), **data_of("far", "detection")}
    (exported,) = mv.export(joint, tmp_path / "out", **data)
    proofs = exported.proof.heads
    assert list(proofs) == ["classification", "detection/near", "detection/far", "segmentation"]
    for place, name, metric in (
        ("classification", "kinds", "top1"),
        ("detection/near", "near", "AP"),
        ("detection/far", "far", "AP"),
    ):
        proof, (_, count) = proofs[place], SIZES[name]
        assert proof.photos == f"all {count} images of the validation part of data.{name}.dataset=shapes"
        own = {key.replace(f"data.{name}.", "dataset."): value for key, value in data_of(name).items()}
        del own["dataset.heads"], own["dataset.dataset"]
        rest = {
            "loader.workers": 0,
            "loader.batch_size": 8,
            "trainer.accelerator": "cpu",
            "run_dir": str(tmp_path / name),
        }
        alone = mv.evaluate(joint.only(place.partition("/")[0]), **own, **rest)
        assert proof.metrics[metric].model == pytest.approx(alone[metric], abs=1e-6)
        assert proof.main == metric
    assert "not measured: segmentation, for which the data have no annotations" in caplog.text
    unannotated = proofs["segmentation"]
    assert unannotated.metrics == {}
    assert unannotated.agreement == 1
    assert unannotated.outputs["logits"].largest < 1e-4
    page = (exported.folder / "report.md").read_text(encoding="utf-8")
    assert "## detection/far, on all 5 images of the validation part of data.far.dataset=shapes" in page


@pytest.mark.usefixtures("untimed")
def test_int8_of_several_heads_from_the_command_line(joint: VisionModel, tmp_path: Path) -> None:
    """Calibrated with images of all data sets, in the ratio of their shares."""
    mv.save(joint, tmp_path / "model.safetensors")
    data = {**data_of("kinds", "classification"), **data_of("near", "detection"), **data_of("far", "segmentation")}
    data |= {"data.kinds.share": 3, "data.near.share": 2, "data.far.share": 1}
    given = [f"{key}=[{value[0]}]" if isinstance(value, list) else f"{key}={value}" for key, value in data.items()]
    output = tmp_path / "out"
    arguments = [f"checkpoint={tmp_path / 'model.safetensors'}", "quantize=int8", "allow_drop=null", "images=24"]
    assert main(["export", *arguments, *given, f"output={output}"]) == 0
    folder = output / "onnx-int8"
    kept: Any = Bundle.read(folder).quantisation
    assert kept["calibrated_with"] == [
        f"{count} images of the training part of data.{name}.dataset=shapes"
        for name, count in (("kinds", 12), ("near", 8), ("far", 4))
    ]
    assert len(kept["calibration_images"]) == 24
    page = (folder / "report.md").read_text(encoding="utf-8")
    assert "calibrated with: 12 images of the training part of data.kinds.dataset=shapes, 8 images of" in page
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    mains = {name: head["main_metric"] for name, head in report["heads"].items()}
    assert mains == {"classification": "top1", "detection": "AP", "segmentation": "mIoU"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            data_of("kinds", "wheels"),
            r"data\.kinds\.heads: there is no head 'wheels'; valid: classification",
        ),
        ({"data.x.root": "/data"}, r"data\.x: give data\.x\.dataset= as well"),
        ({**data_of("kinds", "detection"), "dataset": "shapes"}, "dataset=shapes: data.kinds names data sets"),
    ],
)
def test_data_that_fit_no_head(data: dict[str, Any], message: str, joint: VisionModel, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        mv.export(joint, tmp_path / "out", **data)
    assert not (tmp_path / "out").exists()
