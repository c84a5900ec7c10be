"""Other runtimes than torch for model files: exported once, kept, and chosen by themselves afterwards."""

import logging
from pathlib import Path

import numpy as np
import pytest

import mnv2vision as mv
from mnv2vision.common.cache import home
from mnv2vision.errors import ConfigError, WeightsError
from mnv2vision.inference import cached
from mnv2vision.models.vision_model import VisionModel
from mnv2vision.predictions.classification import Classification

pytest.importorskip("onnxscript", reason="formats=[onnx] is not installed")
pytest.importorskip("onnxruntime")

CLASSES = ("circle", "square", "triangle", "star", "ring", "cross")


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> VisionModel:
    monkeypatch.setenv("MNV2VISION_HOME", str(tmp_path / "home"))
    return mv.create_model("classification", width=0.35, names=CLASSES, image_size=64).eval()


def test_what_cannot_be(model: VisionModel, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    mv.save(model, path)
    with pytest.raises(ConfigError, match="runtime=tensorrt: unknown; valid: auto, torch, onnxruntime, openvino"):
        mv.Predictor(path, runtime="tensorrt")
    with pytest.raises(ConfigError, match="save the model, or export it"):
        mv.Predictor(model, runtime="onnxruntime")
    with pytest.raises(ConfigError, match="device=cuda: exported models run on the CPU"):
        mv.Predictor(path, runtime="onnxruntime", device="cuda")
    with pytest.raises(ConfigError, match="runtime=auto: unknown; valid: torch, onnxruntime, openvino"):
        mv.evaluate(path, run_dir=tmp_path / "run", runtime="auto")
    with pytest.raises(WeightsError, match=r"nothing\.safetensors: no such model file$"):
        mv.Predictor(tmp_path / "nothing.safetensors", runtime="onnxruntime")
    assert mv.Predictor(path).model.task == "classification"  # by torch: nothing is in the cache


def test_an_export_that_fails_is_a_line(model: VisionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    mv.save(model, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ConfigError, match=r"model.safetensors: cannot be exported to onnx: .+") as caught:
        mv.Predictor(path, runtime="onnxruntime")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.slow
def test_exported_once_and_chosen_by_itself(
    model: VisionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="mnv2vision")
    path = tmp_path / "模型, a=b.safetensors"
    mv.save(model, path)
    photo = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    by_torch = mv.Predictor(path, device="cpu", runtime="torch")(photo)
    by_runtime = mv.Predictor(path, runtime="onnxruntime")(photo)
    assert isinstance(by_torch, Classification)
    assert isinstance(by_runtime, Classification)
    np.testing.assert_allclose(by_runtime.scores, by_torch.scores, atol=1e-5)
    assert "exporting" in caplog.text
    (folder,) = (home() / "exports").glob("*/*/onnx")

    def export(*_: object) -> None:
        raise AssertionError("exported again")

    monkeypatch.setattr(cached, "_export", export)
    mv.Predictor(path, runtime="onnxruntime")
    caplog.clear()
    with pytest.raises(AttributeError):
        mv.Predictor(path, device="cpu").model  # noqa: B018
    assert "runtime: onnx, by the export of" in caplog.text
    given = {"trainer.limit_val_batches": 1, "loader.workers": 0}
    wanted = mv.evaluate(path, run_dir=tmp_path / "a", **given)
    assert mv.evaluate(path, run_dir=tmp_path / "b", runtime="onnxruntime", **given) == pytest.approx(wanted, abs=0.01)

    (folder / "model.onnx").write_bytes(b"cut")  # damaged: torch, or made again
    assert mv.Predictor(path, device="cpu").model.task == "classification"
    with pytest.raises(AssertionError, match="exported again"):
        mv.Predictor(path, runtime="onnxruntime")
