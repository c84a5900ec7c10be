"""The score with the best F1, by trying every one; kept in model files, and used by prediction."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mnv2vision as mv
from mnv2vision.cli.main import main
from mnv2vision.contracts import HeadInUse
from mnv2vision.data.sample import Boxes
from mnv2vision.detection.errors import judge
from mnv2vision.detection.prediction import DetectionDecoder
from mnv2vision.detection.results import ImageResult
from mnv2vision.detection.thresholds import class_thresholds, recommended, score_curve
from mnv2vision.errors import ConfigError, WeightsError
from mnv2vision.models.tasks import TASKS
from mnv2vision.models.vision_model import VisionModel
from mnv2vision.predictions.base import Exported
from mnv2vision.predictions.detection import Detection, DetectionArrays

NAMES = ("ant", "bee", "cat")


def line(row: int) -> list[float]:
    return [0, 20 * row, 10, 20 * row + 10]


def result(objects: list[tuple[int, int]], found: list[tuple[int, float, int]]) -> ImageResult:
    """Objects by row and class, detections by row, score and class; rows are far apart."""
    rows, scores, labels = zip(*found, strict=True) if found else ((), (), ())
    boxes = np.array([line(row) for row in rows], np.float32).reshape(-1, 4)
    truth = Boxes.of([line(row) for row, _ in objects], [label for _, label in objects])
    return ImageResult(0, Detection(boxes, np.array(scores), np.array(labels, np.int64)), truth)


def judged(*results: ImageResult) -> Any:
    return judge(results, [one.truth.crowd for one in results])


@pytest.mark.parametrize("seed", range(20))
def test_best_f1(seed: int) -> None:
    """No score has a better F1; F1 counted anew from what is at least the threshold."""
    rng = np.random.default_rng(seed)
    results = []
    for _ in range(10):
        objects = [(row, int(rng.integers(0, 2))) for row in range(4)]
        found = [
            (int(rng.integers(0, 6)), float(np.round(0.1 + 0.9 * rng.random(), 1 + seed % 3)), int(rng.integers(0, 2)))
            for _ in range(6)
        ]
        results.append(result(objects, sorted(found, key=lambda entry: -entry[1])))

    def f1(label: int, threshold: float) -> float:
        right = wrong = 0
        for one in results:
            left = [tuple(box) for box, own in zip(one.truth.boxes, one.truth.labels, strict=True) if own == label]
            for box, score, own in zip(one.found.boxes, one.found.scores, one.found.labels, strict=True):
                if own == label and score >= threshold:
                    right, wrong = right + (tuple(box) in left), wrong + (tuple(box) not in left)
                    left = [other for other in left if other != tuple(box)]
        objects = sum(int((one.truth.labels == label).sum()) for one in results)
        return 2 * right / (right + wrong + objects)

    for label, row in enumerate(class_thresholds(judged(*results), NAMES[:2])):
        scores = {float(score) for one in results for score in one.found.scores[one.found.labels == label]}
        assert row.threshold is not None
        assert f1(label, row.threshold) == pytest.approx(row.F1)
        assert max(f1(label, score) for score in scores) == pytest.approx(row.F1)
        assert row.threshold not in scores


def test_halfway_to_what_is_wrong() -> None:
    found = [(0, 0.9, 0), (1, 0.6, 0), (5, 0.2, 0), (6, 0.1, 0), (2, 0.7, 1)]
    of_all = judged(result([(0, 0), (1, 0), (2, 2)], found))
    rows = class_thresholds(of_all, NAMES)
    assert rows[0] == ("ant", 2, pytest.approx(0.4), 1.0, 1.0, 1.0)
    assert rows[1] == ("bee", 0, None, None, None, None)
    assert rows[2] == ("cat", 1, None, 0.0, None, 0.0)
    # Both that were not found take what is best for all: from 0.6 on, of four objects two of three are right.
    assert recommended(of_all, NAMES) == pytest.approx((0.4, 0.4, 0.4))
    assert score_curve(of_all).f1.tolist() == pytest.approx([2 / 4, 2 / 5, 4 / 6, 4 / 7, 4 / 8])


def test_nothing_right() -> None:
    assert recommended(judged(result([(0, 0)], [(3, 0.9, 0)])), NAMES) == ()
    assert recommended(judged(), NAMES) == ()


# ---- in models ----


def detector(**more: Any) -> VisionModel:
    model = mv.create_model("detection", width=0.35, names=NAMES, image_size=64)
    for key, value in more.items():
        model.config.heads["detection"].__dict__[key] = value
    return model.eval()


def test_decoders_drop_by_class() -> None:
    model = detector(thresholds=(0.5, 0.8, 0.2))
    with torch.no_grad():
        raw: Any = model(torch.zeros(2, 3, 64, 64))
    raw.class_logits.copy_(2 * torch.randn(raw.class_logits.shape, generator=torch.Generator().manual_seed(0)))
    raw.box_codes.copy_(torch.randn(raw.box_codes.shape, generator=torch.Generator().manual_seed(1)))
    in_use = HeadInUse(model.head, model.config.head, model.preprocessing)
    sizes = [(64, 64)] * 2

    def by_torch(threshold: float | str) -> list[Detection]:
        decode = DetectionDecoder(in_use, score_threshold=threshold, max_detections=1000)
        return decode(lambda _: raw, torch.zeros(2, 3, 64, 64), sizes)

    parameters = TASKS["detection"].export.parameters(model.head, raw) | {"thresholds": [0.5, 0.8, 0.2]}
    outputs = {"box_codes": raw.box_codes.numpy(), "class_logits": raw.class_logits.numpy()}
    by_numpy = DetectionArrays(
        Exported(NAMES, parameters, model.preprocessing), score_threshold="auto", max_detections=1000
    )(outputs, sizes)
    for every, ours, exported in zip(by_torch(0.0), by_torch("auto"), by_numpy, strict=True):
        wanted = every.scores > np.array([0.5, 0.8, 0.2], np.float32)[every.labels]
        assert 0 < wanted.sum() < len(every)
        np.testing.assert_array_equal(ours.boxes, every.boxes[wanted])
        np.testing.assert_array_equal(ours.labels, every.labels[wanted])
        np.testing.assert_array_equal(exported.labels, ours.labels)
        np.testing.assert_allclose(exported.boxes, ours.boxes, atol=0.01)


def test_kept_in_files(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    mv.save(detector(thresholds=(0.25, 0.5, 1.0)), path)
    assert mv.load(path).config.head.thresholds == (0.25, 0.5, 1.0)
    mv.save(detector(), path)
    assert mv.load(path).config.head.thresholds == ()
    assert "thresholds" not in path.read_bytes()[:20_000].decode(errors="replace")  # earlier versions read it
    for wrong in ([0.5], [0.5, 0.5, 2.0], [0.5, 0.5, "a"], 0.5):
        mv.save(detector(thresholds=wrong if isinstance(wrong, list) else [wrong]), path)
        with pytest.raises(WeightsError, match="thresholds"):
            mv.load(path)


def test_a_model_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    mv.save(detector(), "model.safetensors")
    Image.new("RGB", (70, 50)).save("photo.png")
    arguments = ["predict", "checkpoint=model.safetensors", "images=photo.png"]
    assert main([*arguments, "threshold=auto"]) == 2
    assert "error: threshold=auto: the model recommends none" in capsys.readouterr().err
    assert not Path("predictions").exists()
    assert main([*arguments, "threshold=most"]) == 2
    assert "threshold" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"threshold=most is not in 0\.\.1, nor auto"):
        mv.Predictor(detector(), score_threshold="most")
    classifier = mv.create_model("classification", width=0.35, num_classes=3, image_size=32)
    with pytest.raises(ConfigError, match="threshold=auto is for detection, not for a model of classification"):
        mv.Predictor(classifier, score_threshold="auto")


def test_auto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = detector(thresholds=(0.0, 1.0, 1.0))
    mv.save(model, "model.safetensors")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save("photo.png")
    arguments = ["predict", "checkpoint=model.safetensors", "images=photo.png", "runtime=torch", "threshold=auto"]
    assert main(arguments) == 0
    (told,) = json.loads(Path("predictions/predictions.json").read_text())
    assert {found["name"] for found in told["objects"]} == {"ant"}
