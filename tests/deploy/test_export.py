"""The folders that ship: what is refused, what is said in words, and how sure a difference is."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mnv2vision.classification.evaluator import ClassificationEvaluator
from mnv2vision.data.sample import Boxes, Sample
from mnv2vision.deploy import export as exporting
from mnv2vision.deploy.bootstrap import RESAMPLES, interval, resampled
from mnv2vision.deploy.export import check_folder, check_formats, placed, remove_partial
from mnv2vision.deploy.parity import differences
from mnv2vision.deploy.steps import steps
from mnv2vision.detection.coco_evaluator import CocoEvaluator
from mnv2vision.detection.voc_evaluator import VocEvaluator
from mnv2vision.errors import ConfigError, ExportError
from mnv2vision.inference.runtimes.base import FORMATS
from mnv2vision.predictions.detection import Detection, agreement
from mnv2vision.preprocessing import Preprocessing
from mnv2vision.segmentation.evaluator import SegmentationEvaluator

# ---- what can be written ----


def test_formats_by_name() -> None:
    assert [target.name for target in check_formats(["onnx", "onnx"], "int8")] == ["onnx-int8"]
    assert [target.name for target in check_formats(["openvino", "onnx"], "float")] == ["openvino", "onnx"]


def test_unknown_formats() -> None:
    with pytest.raises(ConfigError) as caught:
        check_formats(["onnx", "tensorrt"], "float")
    assert str(caught.value) == f"formats=[tensorrt]: unknown; valid: {', '.join(FORMATS)}, all"


def test_precisions_that_a_format_lacks() -> None:
    with pytest.raises(ConfigError) as caught:
        check_formats(["onnx", "executorch"], "fp16")
    assert str(caught.value) == "formats=[executorch]: cannot be written in fp16: executorch has float, int8"


def test_formats_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "is_installed", lambda name: name == "onnx")
    with pytest.raises(ConfigError) as caught:
        check_formats(["onnx", "litert", "coreml"], "float")
    assert str(caught.value) == "formats=[litert,coreml]: not installed: pip install 'mnv2vision[litert,coreml]'"


def test_every_format_says_what_it_needs() -> None:
    extras = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    for entry in FORMATS.values():
        assert f"\n{entry.extra} = [" in extras
        assert entry.written_with
        assert entry.precisions[0] == "float"


# ---- a folder comes to its place whole, or not at all ----


def test_a_folder_is_whole_or_absent(tmp_path: Path) -> None:
    folder = tmp_path / "日本 onnx"
    with suppress(RuntimeError), placed(folder) as partial:
        (partial / "model.json").touch()
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    for content in "ab":
        with placed(folder) as partial:
            (partial / "model.json").write_text(content)
            assert partial.parent == tmp_path
        assert (folder / "model.json").read_text() == content
        assert list(tmp_path.iterdir()) == [folder]


def test_a_killed_export_leaves_nothing_that_counts(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from mnv2vision.deploy.export import placed\n"
        "with placed(Path(sys.argv[1])) as partial:\n"
        "    (partial / 'model.onnx').touch(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    root = Path(__file__).parents[2]
    killed = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "onnx")], env={**os.environ, "PYTHONPATH": str(root)}
    )
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "onnx").exists()
    remove_partial(tmp_path)
    assert not list(tmp_path.iterdir())


def test_folders_of_others_stay(tmp_path: Path) -> None:
    check_folder(tmp_path / "absent")
    check_folder(tmp_path)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match=r"exists, and is not an exported model \(no model.json\): give another"):
        check_folder(tmp_path)
    with pytest.raises(ConfigError, match="not an exported model"):
        check_folder(tmp_path / "thesis.tex")
    (tmp_path / "model.json").touch()
    check_folder(tmp_path)


# ---- preprocessing in words ----


def follow(words: Sequence[str], height: int, width: int) -> tuple[int, int]:
    """The size that a photo is resized to, by the arithmetic of the words."""
    text = next(line for line in words if line.startswith("Keep"))
    condition, rest = text.removeprefix("Keep its aspect ratio: if ").split(", resize it to ", 1)
    first, second = rest.split(", else to ")
    names = {"h": height, "w": width, "round": round, "floor": int, "max": max}
    chosen = first if eval(condition, names) else second.partition(" (height")[0]
    tall, wide = chosen.split(" x ")
    return eval(tall, names), eval(wide, names)


@pytest.mark.parametrize("resize", ["crop", "letterbox"])
@pytest.mark.parametrize("image_size", [(224, 224), (96, 160), (513, 301)])
def test_the_words_give_the_size(resize: str, image_size: tuple[int, int]) -> None:
    preprocessing = Preprocessing(image_size=image_size, resize=resize)  # type: ignore[arg-type]
    words = steps(preprocessing, "NHWC", "uint8")
    for height, width in [(375, 500), (500, 375), (64, 1000), (97, 97), (3, 700)]:
        assert follow(words, height, width) == preprocessing.placement(height, width)[:2]


def test_the_words_name_what_is_given() -> None:
    words = " ".join(steps(Preprocessing(image_size=(300, 320), resize="stretch", antialias=False), "NCHW", "float32"))
    assert "Resize it to 300 x 320" in words
    assert "without antialiasing" in words
    assert "(N, 3, 300, 320) RGB, pixel values 0 to 255 as float32" in words
    assert "0.485" in words


# ---- differences ----


def test_differences_by_the_range() -> None:
    ours, theirs = torch.tensor([[0.0, 4.0], [-4.0, 2.0]]), torch.tensor([[0.0, 4.0], [-2.0, 2.0]])
    found = differences("classification", [(ours, theirs), (ours, ours)])["logits"]
    assert (found.range, found.largest, found.mean) == (8, 0.25, 2 / 8 / 8)
    with pytest.raises(ExportError, match="logits are not finite"):
        differences("classification", [(ours, theirs * float("nan"))])


def test_agreement_of_boxes() -> None:
    def found(*boxes: tuple[float, ...], labels: Sequence[int]) -> Detection:
        return Detection(np.array(boxes, np.float32).reshape(-1, 4), np.ones(len(labels)), np.array(labels, np.int64))

    a = found((0, 0, 100, 100), (0, 0, 100, 95), (50, 50, 60, 60), labels=[0, 0, 1])
    b = found((0, 0, 100, 98), (50, 50, 60, 60), labels=[0, 2])
    assert agreement(a, b) == (2, 5)
    assert agreement(a, a) == (6, 6)
    nothing = found(labels=[])
    assert agreement(a, nothing) == agreement(nothing, a) == (0, 3)
    assert agreement(nothing, nothing) == (0, 0)


# ---- the paired bootstrap ----

IMAGE = np.zeros((1, 1, 3), np.uint8)


def classified(right: Sequence[bool]) -> ClassificationEvaluator:
    evaluator = ClassificationEvaluator(6)
    logits = torch.eye(6)[[0 if hit else 5 for hit in right]]
    evaluator.update(logits, [Sample(IMAGE, index, "", label=0) for index in range(len(right))])
    evaluator.compute()
    return evaluator


def test_the_interval_is_that_of_known_arithmetic() -> None:
    """Of n images, the file loses k: the difference is a mean of n draws of -1 (k of n) and 0."""
    images, lost = 400, 40
    model = resampled(classified([True] * images), 0)["top1"]
    file = resampled(classified([index >= lost for index in range(images)]), 0)["top1"]
    assert (model == 1).all()
    share = lost / images
    deviation = np.sqrt(share * (1 - share) / images)
    low, high = interval(model, file)
    assert low == pytest.approx(-share - 1.96 * deviation, abs=0.4 * deviation)
    assert high == pytest.approx(-share + 1.96 * deviation, abs=0.4 * deviation)


def test_the_draws_are_paired() -> None:
    evaluator = classified([index % 3 > 0 for index in range(50)])
    draws = [resampled(evaluator, seed)["top1"] for seed in (1, 1, 2)]
    assert draws[0].std() > 0
    assert interval(draws[0], draws[1]) == (0, 0)
    assert len(draws[0]) == RESAMPLES
    assert interval(draws[0], draws[2]) != (0, 0)
    assert np.isnan(interval(draws[0], draws[0] * np.nan)).all()


def detected(kind: type[CocoEvaluator] | type[VocEvaluator], repeats: Sequence[int]) -> CocoEvaluator | VocEvaluator:
    evaluator, number = kind(["ant", "bee"]), 0
    for index, times in enumerate(repeats):
        box = np.array([[0, 0, 40 + index, 40]], np.float32)
        found = Detection(box + (index % 3) * 4, np.array([0.5 + index / 20]), np.array([index % 2]))
        for _ in range(times):
            evaluator.update([found], [Sample(IMAGE, number, "", boxes=Boxes.of(box, [index % 2]))])
            number += 1
    return evaluator


@pytest.mark.parametrize("kind", [CocoEvaluator, VocEvaluator])
def test_resampled_detections_are_those_of_repeated_images(kind: type[CocoEvaluator] | type[VocEvaluator]) -> None:
    evaluator, counts = detected(kind, [1] * 5), np.array([2, 0, 1, 3, 0])
    metrics = evaluator.compute()
    assert evaluator.images == 5
    assert evaluator.resampled(counts) == detected(kind, counts.tolist()).compute()
    assert evaluator.resampled(np.ones(5, np.int64)) == metrics
    assert evaluator.resampled(counts) != metrics


def test_resampled_masks_are_those_of_repeated_images() -> None:
    generator = np.random.default_rng(0)
    pairs = [generator.integers(0, 3, (2, 9, 9)).astype(np.uint8) for _ in range(4)]

    def segmented(repeats: Sequence[int]) -> SegmentationEvaluator:
        evaluator = SegmentationEvaluator(["a", "b", "c"])
        chosen: list[NDArray[np.uint8]] = [
            pair for pair, times in zip(pairs, repeats, strict=True) for _ in range(times)
        ]
        samples = [Sample(IMAGE, index, "", mask=mask) for index, (mask, _) in enumerate(chosen)]
        evaluator.update([predicted for _, predicted in chosen], samples)
        return evaluator

    evaluator = segmented([1] * 4)
    metrics = evaluator.compute()
    assert evaluator.resampled(np.array([0, 3, 1, 0])) == segmented([0, 3, 1, 0]).compute() != metrics
    assert evaluator.resampled(np.ones(4, np.int64)) == metrics
