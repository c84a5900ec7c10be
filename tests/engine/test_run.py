"""Whole runs: what they leave behind, what stops them, and several processes."""

import csv
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from mnv2vision.backbones.folding import carry_bias
from mnv2vision.classification.training import ClassificationTraining
from mnv2vision.cli.main import main
from mnv2vision.models.create import create_model
from mnv2vision.segmentation.evaluator import SegmentationEvaluator
from mnv2vision.segmentation.training import SegmentationTraining
from mnv2vision.tasks.base import Task
from mnv2vision.weights import file

pytestmark = pytest.mark.slow

Train = Callable[..., int]
Capture = pytest.CaptureFixture[str]


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as table:
        return list(csv.DictReader(table))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A data set of two classes in folders; the last image of ants is unreadable in both parts."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 9), ("val", 3)):
        for name in ("ants", "bees"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                Image.fromarray(rng.integers(0, 256, (50, 60, 3), np.uint8)).save(folder / f"{index}.png")
        (tmp_path / "photos" / split / "ants" / f"{count - 1}.png").write_bytes(b"no image")
    return tmp_path / "photos"


PHOTOS = (
    "backbone.width=0.35",
    "model.image_size=32",
    "loader.batch_size=8",
    "trainer.accelerator=cpu",
    "trainer.precision=32",
    "trainer.max_epochs=2",
    "loggers=[]",
)


def test_what_a_run_leaves(tmp_path: Path, train: Train, capsys: Capture) -> None:
    run = tmp_path / "run"
    assert train(f"run_dir={run}", "optimizer.reference_batch=16", "trainer.accumulate_grad_batches=3") == 0
    error = capsys.readouterr().err
    assert "learning rate 0.075 = 0.05 x global batch 24 / 16" in error
    assert "58 training and 17 validation images, 3 steps per epoch, 6 in all, 1 x CPU, precision 32-true" in error
    rows = read_csv(run / "metrics.csv")
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "3"), ("2", "6")]
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["top1"] == pytest.approx(max(float(row["top1"]) for row in rows))
    assert f"top1 {metrics['top1']:.4f}" in error
    assert file.load(run / "model.safetensors").num_classes == 6
    best = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    assert set(best["state_dict"]) == {f"model.{name}" for name in load_file(run / "model.safetensors")}


def test_each_run_has_its_own_folder(
    tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    for dataset in ("a", "b"):  # the name of the data set is in the folder's; the clock may not have moved
        assert train("trainer.max_epochs=1", "dataset.val_size=1", "trainer.limit_train_batches=1") == 0
        (next((tmp_path / "runs/classification/shapes").iterdir())).rename(tmp_path / dataset)
    assert (tmp_path / "a/metrics.json").is_file()
    assert (tmp_path / "b/metrics.json").is_file()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert train() == 2
    assert "give run_dir=<folder>" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["dataset.train_size=1", "dataset.val_size=1"],
        ["dataset.train_size=3", "dataset.val_size=2", "loader.batch_size=64"],
        ["dataset.train_size=9"],
        ["loader.batch_size=1", "dataset.train_size=3", "model.image_size=48"],
    ],
)
def test_small_data_sets(arguments: list[str], tmp_path: Path, train: Train) -> None:
    assert train(f"run_dir={tmp_path}", *arguments, "trainer.max_epochs=1") == 0
    assert len(read_csv(tmp_path / "metrics.csv")) == 1
    assert 0 <= json.loads((tmp_path / "metrics.json").read_text())["top1"] <= 1


def test_a_finished_run_that_is_resumed_says_so(tmp_path: Path, train: Train, capsys: Capture) -> None:
    limits = ("trainer.limit_train_batches=1", "dataset.val_size=4")
    for ending in ("trainer.max_epochs=1", "trainer.max_steps=1"):
        run = tmp_path / ending
        assert train(f"run_dir={run}", ending, *limits) == 0
        assert "the run was complete" not in capsys.readouterr().err
        before = (run / "model.safetensors").read_bytes()
        assert train(f"resume={run / 'checkpoints/last.ckpt'}") == 0
        assert "the run was complete after epoch 1, with nothing left to train" in capsys.readouterr().err
        assert (run / "model.safetensors").read_bytes() == before
    assert train(f"resume={tmp_path / 'trainer.max_epochs=1/checkpoints/last.ckpt'}", "trainer.max_epochs=2") == 0
    error = capsys.readouterr().err
    assert "the run was complete" not in error
    assert "kept the weights of epoch " in error


def test_no_limit_is_refused(tmp_path: Path, train: Train, capsys: Capture) -> None:
    assert train(f"run_dir={tmp_path}", "trainer.max_epochs=-1") == 2
    assert "trainer.max_epochs and trainer.max_steps are both without a limit" in capsys.readouterr().err


@pytest.mark.parametrize("end", [("trainer.max_epochs=4",), ("trainer.max_epochs=9", "trainer.max_steps=26")])
def test_the_last_epoch_is_validated(end: tuple[str, ...], tmp_path: Path, train: Train, capsys: Capture) -> None:
    """And what was kept is told, with the reason."""
    assert train(f"run_dir={tmp_path}", "trainer.check_val_every_n_epoch=3", *end) == 0
    scores = {int(row["epoch"]): row["top1"] for row in read_csv(tmp_path / "metrics.csv")}
    validated = {epoch: float(score) for epoch, score in scores.items() if score}
    assert list(validated) == [3, 4]
    kept = max(validated, key=lambda epoch: validated[epoch])
    assert json.loads((tmp_path / "metrics.json").read_text())["top1"] == pytest.approx(validated[kept])
    line = f"kept the weights of epoch {kept} of 4: top1 {validated[kept]:.4f}, the best of 2 validations"
    assert line in capsys.readouterr().err
    if len(end) == 1:  # resumed, another epoch is the last
        last = tmp_path / "checkpoints/last.ckpt"
        assert train(f"resume={last}", "trainer.max_epochs=5") == 0
        assert [int(row["epoch"]) for row in read_csv(tmp_path / "metrics.csv") if row["top1"]] == [3, 4, 5]


def test_without_validation_the_last_is_kept(tmp_path: Path, train: Train, capsys: Capture) -> None:
    assert train(f"run_dir={tmp_path}", "trainer.limit_val_batches=0") == 0
    assert "kept the weights of the last epoch, 2: no epoch was validated" in capsys.readouterr().err


def test_the_first_line_says_how_many_steps(tmp_path: Path, train: Train, capsys: Capture) -> None:
    assert train(f"run_dir={tmp_path}", "trainer.accumulate_grad_batches=2", "schedule.warmup_epochs=1") == 0
    first, second, *rest = capsys.readouterr().err.splitlines()
    assert first == (
        f"{tmp_path}: recipe shapes, 58 training and 17 validation images, 4 steps per epoch, 8 in all, 1 x CPU,"
        " precision 32-true"
    )
    assert second.startswith("8 steps in total: too few to learn much; use a smaller loader.batch_size")
    assert "warm-up: 1 steps, 20 % of the run, instead of schedule.warmup_epochs=1" in rest


def test_max_steps_without_epochs(tmp_path: Path, train: Train) -> None:
    assert train(f"run_dir={tmp_path}", "trainer.max_epochs=-1", "trainer.max_steps=3") == 0
    row = read_csv(tmp_path / "metrics.csv")[-1]
    assert (row["step"], row["epoch"]) == ("3", "1")
    assert row["top1"]  # the short epoch is validated, too
    assert (tmp_path / "checkpoints/best.ckpt").is_file()


def test_loss_becomes_nan(tmp_path: Path, train: Train, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    step, loss = Task.training_step, ClassificationTraining.loss

    def broken(task: Any, batch: Any, batch_idx: int) -> Any:
        if task.current_epoch == 1 and batch_idx == 3:
            batch.image_ids = [f"photo-{index}" for index in range(8)]
            spoilt = lambda *args: {"loss": loss(*args)["loss"] * float("nan")}  # noqa: E731
            monkeypatch.setattr(ClassificationTraining, "loss", spoilt)
        return step(task, batch, batch_idx)

    monkeypatch.setattr(Task, "training_step", broken)
    assert train(f"run_dir={tmp_path}", "checkpoint.every_n_steps=1") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: the loss became nan in epoch 1, on the batch of images photo-0, photo-1, ")
    assert not (tmp_path / "metrics.json").exists()
    for name in ("best", "last"):
        state = torch.load(tmp_path / f"checkpoints/{name}.ckpt", weights_only=True)["state_dict"]
        assert all(tensor.isfinite().all() for tensor in state.values())


def test_learning_rate_too_high(tmp_path: Path, train: Train, capsys: Capture) -> None:
    assert train(f"run_dir={tmp_path}", "optimizer.lr=1e30") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: the loss became ")
    assert error.endswith("look at their annotations, or lower optimizer.lr")
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_file_stops(workers: int, photos: Path, tmp_path: Path, train: Train, capsys: Capture) -> None:
    arguments = ["dataset=imagenet", f"dataset.root={photos}", "init_from=none", f"loader.workers={workers}"]
    assert main(["train", *PHOTOS, *arguments, f"run_dir={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {photos}")
    assert "ants" in error


def test_unreadable_files_are_skipped(photos: Path, tmp_path: Path, train: Train, capsys: Capture) -> None:
    arguments = [
        "dataset=imagenet",
        f"dataset.root={photos}",
        "init_from=none",
        "data.on_error=skip",
        "loader.workers=1",
    ]
    assert main(["train", *PHOTOS, *arguments, f"run_dir={tmp_path / 'run'}"]) == 0
    error = capsys.readouterr().err
    listed = error[error.index("2 unreadable files were skipped:") :].splitlines()
    assert [line.split(":")[0].strip() for line in listed[1:]] == [
        f"{photos}/train/ants/8.png",
        f"{photos}/val/ants/2.png",
    ]
    # A run resumed at its end lists what it skipped before.
    assert main(["train", f"resume={tmp_path / 'run/checkpoints/last.ckpt'}"]) == 0
    assert f"{photos}/train/ants/8.png" in capsys.readouterr().err


def test_init_from_folded_weights(tmp_path: Path, train: Train, capsys: Capture, randomize: Any) -> None:
    torch.manual_seed(0)
    model = create_model("classification", width=0.35, depth=0.5, names=["a", "b"], image_size=32)
    randomize(model)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            carry_bias(module, torch.rand(module.num_features))
    file.save(model, tmp_path / "folded.safetensors")
    init = f"init_from={tmp_path / 'folded.safetensors'}"
    assert train(init, f"run_dir={tmp_path / 'run'}", "trainer.max_epochs=1") == 0
    error = capsys.readouterr().err
    assert "recovered the batch norm that was folded into the weights, from 58 training images" in error
    total = len(model.state_dict())
    assert f"initialised {total - 2} of {total} tensors from {tmp_path / 'folded.safetensors'}" in error
    layer = "heads.classification.classifier"
    assert f"new, for 6 classes instead of 2: {layer}.weight, {layer}.bias" in error


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_frozen_blocks_stay(ema: float, tmp_path: Path, train: Train) -> None:
    arguments = ["freeze=4", "trainer.max_epochs=1", f"ema.decay={ema}"]
    model = create_model("classification", width=0.35, depth=0.5, names=tuple("abcdef"), image_size=32)
    file.save(model, tmp_path / "start.safetensors")
    assert train(*arguments, f"init_from={tmp_path / 'start.safetensors'}", f"run_dir={tmp_path / 'run'}") == 0
    before, after = (load_file(tmp_path / name) for name in ("start.safetensors", "run/model.safetensors"))
    layers = [f"backbone.{name}." for name, _ in model.backbone.layers()]
    frozen = {name for name in before if name.startswith(tuple(layers[:5]))}
    assert len(frozen) > 20
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert not any(torch.equal(before[name], after[name]) for name in before if name not in frozen)


CLIPPED = ["trainer.precision=bf16-mixed", "trainer.gradient_clip_val=1.0"]  # which fused optimisers do not bear


@pytest.mark.parametrize(
    "arguments",
    [
        ["trainer.precision=bf16-mixed"],
        ["channels_last=false"],
        CLIPPED,
        [*CLIPPED, "optimizer.name=adamw", "optimizer.lr=1e-3"],
    ],
)
def test_other_ways_to_compute(arguments: list[str], tmp_path: Path, train: Train) -> None:
    assert train(f"run_dir={tmp_path}", "trainer.max_epochs=1", *arguments) == 0
    assert all(tensor.dtype != torch.bfloat16 for tensor in load_file(tmp_path / "model.safetensors").values())


def test_the_figures_of_an_averaged_run_are_those_of_the_weights_it_keeps(
    tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first epoch is made the best: what is evaluated at the end are its weights, not the last average."""
    compute, evaluate = SegmentationEvaluator.compute, SegmentationTraining.evaluate
    validations: list[SegmentationEvaluator] = []

    def falling(evaluator: SegmentationEvaluator) -> dict[str, float]:
        validations.append(evaluator)
        return compute(evaluator) | {"falling": 1 / len(validations)}

    def watched(training: SegmentationTraining, *arguments: Any) -> None:
        evaluate(training, *arguments)
        weights.append(training.head.state_dict()["classifier.bias"].clone())

    weights: list[torch.Tensor] = []
    monkeypatch.setattr(SegmentationTraining, "monitor", "falling")
    monkeypatch.setattr(SegmentationEvaluator, "compute", falling)
    monkeypatch.setattr(SegmentationTraining, "evaluate", watched)
    ema = ("ema.decay=0.5", "trainer.max_epochs=2", "trainer.check_val_every_n_epoch=1")
    assert train("task=segmentation", f"run_dir={tmp_path}", *ema) == 0
    first, second, final = weights[:: len(weights) // 3]  # of each validation
    kept = load_file(tmp_path / "model.safetensors")["heads.segmentation.classifier.bias"]
    assert torch.equal(kept, first)
    assert torch.equal(kept, final)
    assert not torch.equal(kept, second)


def test_compiled(tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    # The default backend takes a C++ compiler, and with it a minute and a half.
    calls: list[torch.nn.Module] = []
    real = torch.compile

    def traced(model: torch.nn.Module) -> Any:
        calls.append(model)
        return real(model, backend="eager")

    monkeypatch.setattr(torch, "compile", traced)
    assert train("compile=true", f"run_dir={tmp_path}", "ema.decay=0.9", "trainer.max_epochs=1") == 0
    assert len(calls) == 1
    assert not any("_orig_mod" in name for name in load_file(tmp_path / "model.safetensors"))
    assert file.load(tmp_path / "model.safetensors").num_classes == 6


def test_two_processes(
    tmp_path: Path,
    tiny: tuple[str, ...],
    start: Callable[..., "subprocess.Popen[str]"],
    capsys: Capture,
    patience: float,
) -> None:
    two = ("trainer.devices=2", "trainer.strategy=ddp")
    # With one image to validate, one of the processes has none.
    process = start("train", *tiny, *two, "optimizer.reference_batch=8", "ema.decay=0.5", "dataset.val_size=1")
    _, error = process.communicate(timeout=patience)
    assert process.returncode == 0, error
    assert "2 x CPU" in error
    assert "learning rate 0.1 = 0.05 x global batch 16 / 8" in error
    # A class that is never right has a line, too, which is chance.
    lines = [line for line in error.splitlines() if line and " is 0 for " not in line]
    # The plan, that it is short, the learning rate, the warm-up, that one image shows one of the classes, two epochs,
    # which is kept, the metrics.
    assert len(lines) == len(set(lines)) == 9, error

    (run,) = (tmp_path / "runs/classification/shapes").iterdir()
    assert len(list(tmp_path.rglob("metrics.json"))) == 1
    metrics = json.loads((run / "metrics.json").read_text())
    rows = read_csv(run / "metrics.csv")
    assert len(rows) == 2
    # The figures of training are those of the weights that are kept: statistics of batch norm included.
    assert metrics["top1"] == pytest.approx(max(float(row["top1"]) for row in rows))

    data = [
        argument for argument in tiny if argument.startswith(("dataset.val", "dataset.image", "loader.", "trainer."))
    ]
    data = [argument for argument in data if "max_epochs" not in argument]
    model = f"checkpoint={run / 'model.safetensors'}"
    process = start("eval", model, *data, *two, f"run_dir={tmp_path / 'two'}")
    # 17 images: one process has two batches, the other has one.
    assert main(["eval", model, *data, f"run_dir={tmp_path / 'one'}"]) == 0
    _, error = process.communicate(timeout=patience)
    assert process.returncode == 0, error
    for name in ("metrics.json", "per_class.csv"):
        assert (tmp_path / "one" / name).read_text() == (tmp_path / "two" / name).read_text()
