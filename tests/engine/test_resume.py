"""A run that was interrupted and resumed ends as the one that was not: to the bit."""

import csv
import json
import math
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import mnv2vision as mv
from mnv2vision.cli.main import main
from mnv2vision.data.formats.shapes import Shapes
from mnv2vision.weights import file

pytestmark = pytest.mark.slow

Train = Callable[..., int]


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def assert_same(first: Any, second: Any, where: str) -> None:
    assert type(first) is type(second), where
    if isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype, where
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_same(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for index, pair in enumerate(zip(first, second, strict=True)):
            assert_same(*pair, f"{where}[{index}]")
    elif isinstance(first, float) and math.isnan(first):  # a figure that no image has a say in
        assert math.isnan(second), where
    else:
        assert first == second, where


def assert_same_runs(first: Path, second: Path) -> None:
    """Everything that a run leaves, except where it was and when."""
    assert_same(load_file(first / "model.safetensors"), load_file(second / "model.safetensors"), "model")
    assert json.loads((first / "metrics.json").read_text()) == json.loads((second / "metrics.json").read_text())
    assert read_csv(first / "metrics.csv") == read_csv(second / "metrics.csv")
    tables = [
        {path.relative_to(run): path.read_text() for path in run.rglob("per_class.csv")} for run in (first, second)
    ]
    assert tables[0] == tables[1]
    assert tables[0]
    for name in ("best.ckpt", "last.ckpt"):
        states = [torch.load(run / "checkpoints" / name, weights_only=True) for run in (first, second)]
        for state in states:
            callbacks = state.pop("callbacks")
            state["callbacks"] = {key: value for key, value in callbacks.items() if "Checkpoint" not in key}
            state["scores"] = [value["best_model_score"] for key, value in callbacks.items() if "Checkpoint" in key]
            # How often an epoch was started is not the same, and of no consequence.
            state["loops"] = state["loops"]["fit_loop"]["epoch_progress"]["current"]
        assert_same(*states, name)


VARIANTS = {
    "plain": (),
    "averaged": ("ema.decay=0.9", "schedule.warmup_epochs=0.5"),
    "accumulated": ("trainer.accumulate_grad_batches=2", "ema.decay=0.9"),
    "rmsprop": ("optimizer.name=rmsprop_tf", "schedule.name=exponential", "schedule.decay_epochs=0.3"),
    "mixed": (
        "augmentation.mixup=0.2",
        "augmentation.cutmix=1.0",
        "augmentation.rand_augment=9",
        "augmentation.erasing=0.5",
        "augmentation.color_jitter=0.4",
        "model.dropout=0.5",
        "optimizer.name=adamw",
        "optimizer.lr=0.001",
    ),
    "worker": ("loader.workers=1", "+trainer.limit_train_batches=6"),
    "steps": ("trainer.max_steps=19", "loader.workers=1"),
    "seldom validated": ("trainer.check_val_every_n_epoch=2",),
}


def resume(train: Train, run: Path) -> int:
    """Resume a run as often as it is interrupted."""
    for interruptions in range(20):
        try:
            assert train(f"resume={run / 'checkpoints/last.ckpt'}") == 0
        except InterruptedError:
            continue
        return interruptions
    raise AssertionError("the run does not come to its end")


@pytest.mark.parametrize("variant", VARIANTS)
def test_resumed_amid_epochs(variant: str, tmp_path: Path, train: Train, interrupt: Callable[..., None]) -> None:
    arguments = ("trainer.max_epochs=3", "checkpoint.every_n_steps=2", *VARIANTS[variant])
    assert train(*arguments, f"run_dir={tmp_path / 'whole'}") == 0

    interrupt((0, 5), (1, 0), (1, 3), (1, "validation"), (2, 4))
    with pytest.raises(InterruptedError):
        train(*arguments, f"run_dir={tmp_path / 'parts'}")
    assert resume(train, tmp_path / "parts") >= 2
    assert_same_runs(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("averaged", [True, False])
def test_resumed_with_the_rounding_of_int8(
    averaged: bool, tmp_path: Path, train: Train, interrupt: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    model = mv.create_model("classification", width=0.35, depth=0.5, image_size=32, num_classes=3)
    mv.save(model, tmp_path / "start.safetensors")
    ema = ("ema.decay=0.9",) if averaged else ()
    arguments = ("quantize=true", f"init_from={tmp_path / 'start.safetensors'}", "checkpoint.every_n_steps=2", *ema)
    assert train(*arguments, f"run_dir={tmp_path / 'whole'}") == 0

    interrupt((0, 5), (1, 0), (1, "validation"))
    with pytest.raises(InterruptedError):
        train(*arguments, f"run_dir={tmp_path / 'parts'}")
    assert resume(train, tmp_path / "parts") >= 1
    assert_same_runs(tmp_path / "whole", tmp_path / "parts")

    model, start = (mv.load(tmp_path / name) for name in ("whole/model.safetensors", "start.safetensors"))
    assert model.state_dict().keys() == start.state_dict().keys()  # a float model as any other
    checkpoint = tmp_path / "whole/checkpoints/last.ckpt"
    assert train(f"resume={checkpoint}", "quantize=false", "trainer.max_epochs=3") == 2
    assert "cannot change quantize" in capsys.readouterr().err


def test_the_rounding_of_int8_needs_a_trained_model(
    tmp_path: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("quantize=true", f"run_dir={tmp_path / 'run'}") == 2
    assert "quantize=true goes on with a trained model: give init_from=" in capsys.readouterr().err


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny: tuple[str, ...]) -> Path:
    """A run without interruption."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert main(["train", *tiny, f"run_dir={folder}"]) == 0
    return folder


def test_resumed_at_the_end_of_an_epoch(
    whole: Path, tmp_path: Path, train: Train, interrupt: Callable[..., None]
) -> None:
    interrupt((1, 2))
    with pytest.raises(InterruptedError):
        train(f"run_dir={tmp_path}")
    assert resume(train, tmp_path) == 0
    assert_same_runs(whole, tmp_path)


def test_more_epochs(whole: Path, tmp_path: Path, train: Train) -> None:
    # Another total would stretch a cosine, and a warm-up of a fifth of the run.
    constant = ("schedule.name=constant", "schedule.warmup_epochs=0.0")
    assert train(f"run_dir={tmp_path / 'long'}", *constant) == 0
    assert train(f"run_dir={tmp_path / 'short'}", *constant, "trainer.max_epochs=1") == 0
    assert train(f"resume={tmp_path / 'short/checkpoints/last.ckpt'}", "trainer.max_epochs=2") == 0
    assert_same_runs(tmp_path / "long", tmp_path / "short")


@pytest.mark.parametrize("validation", [True, False])
def test_killed_behind_the_last_checkpoint(
    validation: bool, tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["ema.decay=0.9", "trainer.max_epochs=1", *([] if validation else ["trainer.limit_val_batches=0"])]
    assert train(*arguments, f"run_dir={tmp_path / 'whole'}") == 0
    save = file.save
    monkeypatch.setattr(file, "save", lambda *args: (_ for _ in ()).throw(InterruptedError))
    with pytest.raises(InterruptedError):
        train(*arguments, f"run_dir={tmp_path / 'parts'}")
    monkeypatch.setattr(file, "save", save)
    assert resume(train, tmp_path / "parts") == 0
    models = [load_file(tmp_path / run / "model.safetensors") for run in ("whole", "parts")]
    assert_same(*models, "model")
    metrics = [(tmp_path / run / "metrics.json").read_text() for run in ("whole", "parts")]
    assert metrics[0] == metrics[1]


def test_early_stopping(
    tmp_path: Path, train: Train, interrupt: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    # A model that stays as it is: the first epoch is the best, and the third one too many.
    arguments = ("early_stopping.patience=2", "freeze=99", "optimizer.lr=0.0", "trainer.max_epochs=9")
    assert train(*arguments, f"run_dir={tmp_path / 'whole'}") == 0
    assert "stopped early: top1 has not improved for 2 validations" in capsys.readouterr().err
    assert [row["epoch"] for row in read_csv(tmp_path / "whole/metrics.csv")] == ["1", "2", "3"]

    interrupt((1, 2), (2, "validation"))
    with pytest.raises(InterruptedError):
        train(*arguments, f"run_dir={tmp_path / 'parts'}")
    assert resume(train, tmp_path / "parts") == 1
    assert_same_runs(tmp_path / "whole", tmp_path / "parts")

    # Killed before its end, it stops at once when resumed; with more patience it goes on.
    last = tmp_path / "parts/checkpoints/last.ckpt"
    assert train(f"resume={last}") == 0
    assert_same_runs(tmp_path / "whole", tmp_path / "parts")
    assert train(f"resume={last}", "early_stopping.patience=3") == 0
    assert len(read_csv(tmp_path / "parts/metrics.csv")) == 4


def test_moved_run_keeps_its_best(tmp_path: Path, train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    # As above, no epoch is better than the first: Lightning alone would forget the first one's score.
    arguments = ("freeze=99", "optimizer.lr=0.0", "trainer.max_epochs=1")
    assert train(*arguments, f"run_dir={tmp_path / 'here'}") == 0
    (tmp_path / "here").rename(tmp_path / "there")
    assert train(f"resume={tmp_path / 'there/checkpoints/last.ckpt'}", "trainer.max_epochs=2") == 0
    assert not (tmp_path / "here").exists()
    assert torch.load(tmp_path / "there/checkpoints/best.ckpt", weights_only=True)["epoch"] == 0
    assert torch.load(tmp_path / "there/checkpoints/last.ckpt", weights_only=True)["epoch"] == 1
    assert len(read_csv(tmp_path / "there/metrics.csv")) == 2
    assert "has changed" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["backbone.width=0.5"], "but the model has"),
        (["model.num_classes=5"], "model.num_classes=5, but the data set has 6 classes"),
        (["optimizer.lr=0.1"], "a resumed run cannot change optimizer; start one with init_from="),
        (["optimizer.name=adamw"], "cannot change optimizer"),
        (["freeze=4"], "cannot change freeze"),
        (["ema.decay=0.9"], "cannot change ema"),
        (["recipe=finetune"], "recipe=finetune cannot change a resumed run"),
        (["backbone=mobilenet_v1"], "backbone=mobilenet_v1 cannot change a resumed run"),
    ],
)
def test_refused_changes(
    arguments: list[str], message: str, whole: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    config = (whole / "config.yaml").read_text()
    assert train(f"resume={whole / 'checkpoints/last.ckpt'}", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert (whole / "config.yaml").read_text() == config


def test_resumed_without_the_weights_it_started_from(tmp_path: Path, train: Train) -> None:
    weights = tmp_path / "start.safetensors"
    start = mv.create_model(
        "classification", names=("a", "b"), width=0.35, depth=0.5, padding="tf", norm_eps=1e-3, image_size=32
    )
    mv.save(start, weights)
    assert train(f"run_dir={tmp_path / 'whole'}", f"init_from={weights}", "trainer.max_epochs=2") == 0
    assert train(f"run_dir={tmp_path / 'parts'}", f"init_from={weights}", "trainer.max_epochs=1") == 0
    weights.unlink()
    assert train(f"resume={tmp_path / 'parts/checkpoints/last.ckpt'}", "trainer.max_epochs=2") == 0
    whole, parts = (mv.load(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert parts.config == whole.config
    assert parts.config.backbone_options["padding"] == "tf"


def test_a_checkpoint_of_before_there_were_named_heads(
    whole: Path, tmp_path: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = torch.load(whole / "checkpoints/last.ckpt", weights_only=True)
    checkpoint["model"] = {"config": {"task": "classification"}, "preprocessing": {}}
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    shutil.copy(whole / "config.yaml", tmp_path / "run")
    torch.save(checkpoint, tmp_path / "run/checkpoints/last.ckpt")
    assert train(f"resume={tmp_path / 'run/checkpoints/last.ckpt'}") == 2
    error = capsys.readouterr().err
    assert "was written when models had one head" in error
    assert error.endswith("start a run with init_from=<its run's model.safetensors>\n")
    assert error.count("\n") == 1


def test_a_run_is_not_replaced(whole: Path, train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    model = (whole / "model.safetensors").read_bytes()
    assert train(f"run_dir={whole}") == 2
    error = capsys.readouterr().err
    assert error == (
        f"error: run_dir={whole} holds a run: give another folder,"
        f" or go on with resume={whole / 'checkpoints/last.ckpt'}\n"
    )
    assert (whole / "model.safetensors").read_bytes() == model


def test_refused_other_classes(whole: Path, tmp_path: Path, train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "val"):
        for name in ("ants", "bees"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            Image.new("RGB", (48, 48)).save(tmp_path / "photos" / split / name / "one.png")
    checkpoint = shutil.copy(whole / "checkpoints/last.ckpt", tmp_path / "last.ckpt")  # without its config.yaml
    assert main(["train", f"resume={checkpoint}", "dataset=imagenet", f"dataset.root={tmp_path / 'photos'}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: resume={checkpoint}: ")
    assert "but the model has" in error
    assert error.count("\n") == 1


SLOWED = ("optimizer.reference_batch=32", "schedule.name=cosine", "schedule.warmup_epochs=0.5")


@pytest.mark.parametrize(
    "change", [("loader.batch_size=16", 2.0), ("trainer.accumulate_grad_batches=2", 2.0), ("loader.batch_size=4", 0.5)]
)
def test_another_global_batch_goes_on_at_its_own_rate(
    change: tuple[str, float], tmp_path: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    """As mmdetection#3800 asks: the log's rate is the one in use, and the schedule goes by epochs."""
    arguments = ("dataset.train_size=64", *SLOWED)
    assert train(*arguments, "trainer.max_epochs=4", f"run_dir={tmp_path}") == 0
    capsys.readouterr()
    last = tmp_path / "checkpoints/last.ckpt"
    assert train(f"resume={last}", change[0], "trainer.max_epochs=8") == 0
    log = capsys.readouterr().err
    rate = 0.05 * 8 * change[1] / 32
    assert f"learning rate {rate:.4g} = 0.05 x global batch {8 * change[1]:.0f} / 32" in log
    # Half of the 8 epochs are done: half a cosine, but for the warm-up.
    steps = round(8 / change[1])
    warmup = round(0.5 * steps)
    time_done = (4 * steps - warmup) / (8 * steps - warmup)
    wanted = rate * 0.5 * (1 + math.cos(math.pi * time_done))
    assert (
        f"resumed after 4 epochs with a global batch of {8 * change[1]:.0f} instead of 8: learning rate {wanted:.4g}"
        in log
    )
    # At the end the rate has fallen to nothing, not before.
    state = torch.load(last, weights_only=True)
    assert state["lr_schedulers"][0]["last_epoch"] == 8 * steps
    assert state["optimizer_states"][0]["param_groups"][0]["initial_lr"] == pytest.approx(rate)
    assert state["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(0, abs=1e-9)


def test_a_run_by_steps_keeps_its_global_batch(
    tmp_path: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("trainer.max_steps=7", f"run_dir={tmp_path}") == 0
    assert train(f"resume={tmp_path / 'checkpoints/last.ckpt'}", "trainer.max_steps=14", "loader.batch_size=16") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "a resumed run cannot change the global batch of 8 (it ends by trainer.max_steps)" in error


def test_refused_batch_amid_an_epoch(
    tmp_path: Path, train: Train, interrupt: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt((0, 5))
    with pytest.raises(InterruptedError):
        train(f"run_dir={tmp_path}", "checkpoint.every_n_steps=2")
    capsys.readouterr()
    assert train(f"resume={tmp_path / 'checkpoints/last.ckpt'}", "loader.batch_size=4") == 2
    error = capsys.readouterr().err
    assert "cannot change the global batch of 8" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "garbage", "foreign"])
def test_refused_files(
    damage: str, whole: Path, tmp_path: Path, tiny: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "broken.ckpt"
    data = (whole / "checkpoints/last.ckpt").read_bytes()
    if damage == "foreign":
        torch.save({"weights": torch.ones(3)}, path)
    elif damage != "missing":
        path.write_bytes({"empty": b"", "truncated": data[:-1000], "garbage": b"garbage" * 1000}[damage])
    assert main(["train", *tiny, f"resume={path}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: resume={path}: ")
    assert error.count("\n") == 1


def wait_for(reached: Callable[[], bool], process: "subprocess.Popen[str]", patience: float) -> None:
    deadline = time.monotonic() + patience
    while not reached() and process.poll() is None:
        assert time.monotonic() < deadline, "the run does not come on"
        time.sleep(0.001)


KILLED = {
    "one head": ("dataset.train_size=96",),
    "three heads": (
        "task=joint",
        "recipe=null",
        *(
            f"data.{name}.{key}={value}"
            for name, size in (("classification", 45), ("detection", 33), ("segmentation", 18))
            for key, value in {"dataset": "shapes", "train_size": size, "val_size": 17, "image_size": 48}.items()
        ),
    ),
}
KILLED["taught"] = (*KILLED["one head"], "distill.loss=dist", "distill.features=[block3,last]")
STEPS = 12
"""Of an epoch of 96 images."""


@pytest.mark.parametrize("kind", KILLED)
def test_killed(
    kind: str,
    tmp_path: Path,
    tiny: tuple[str, ...],
    start: Callable[..., "subprocess.Popen[str]"],
    patience: float,
) -> None:
    arguments = [
        *(item for item in tiny if kind != "three heads" or not item.startswith("dataset.")),
        *KILLED[kind],
        "trainer.max_epochs=8",
        "loader.workers=1",
        "checkpoint.every_n_steps=5",
        "ema.decay=0.9",
    ]
    if kind == "taught":
        teacher = mv.create_model("classification", names=Shapes.names, width=0.5, image_size=48)
        mv.save(teacher, tmp_path / "teacher.safetensors")
        arguments.append(f"teacher={tmp_path / 'teacher.safetensors'}")
    run = tmp_path / "parts"
    last, table = run / "checkpoints/last.ckpt", run / "metrics.csv"
    rng = random.Random(0)

    def changed(path: Path) -> Callable[[], bool]:
        def stamp() -> int:
            return path.stat().st_mtime_ns if path.exists() else 0

        before = stamp()
        return lambda: stamp() > before

    kills: list[str] = []
    steps: list[int] = []
    for moment in ("between a row and its checkpoint", "while saving", "at random", "at random"):
        process = start("train", *([f"resume={last}"] if kills else [*arguments, f"run_dir={run}"]))
        wait_for(changed(last), process, patience)  # so that every process gets somewhere
        if moment == "between a row and its checkpoint":
            wait_for(changed(table), process, patience)
        elif moment == "while saving":
            wait_for(lambda: any(last.parent.glob(".last.ckpt.*")), process, patience)
        else:
            since = time.monotonic()
            wait_for(changed(last), process, patience)
            time.sleep(rng.uniform(0, time.monotonic() - since))  # by the pace of this machine
        process.kill()
        process.wait()
        kills.append(f"{moment}: {process.returncode}")
        assert_whole(run)
        steps.append(torch.load(last, weights_only=True)["global_step"])
    assert sum(kill.endswith("-9") for kill in kills) >= 3, kills
    assert any(step % STEPS for step in steps), steps  # within an epoch

    processes = [start("train", f"resume={last}"), start("train", *arguments, f"run_dir={tmp_path / 'whole'}")]
    for process in processes:
        _, error = process.communicate(timeout=patience)
        assert process.returncode == 0, error
    assert_whole(run)
    assert_same_runs(tmp_path / "whole", run)


def assert_whole(run: Path) -> None:
    """No file under its final name is in part."""
    known = ("config.yaml", "metrics.csv", "checkpoints", "best.ckpt", "last.ckpt")
    at_the_end = ("model.safetensors", "metrics.json", "per_class.csv", "most_confused.csv", "worst_images.csv")
    at_the_end += ("predictions.json", "classification", "detection", "segmentation")
    at_the_end += ("errors.csv", "thresholds.csv", "report.html")
    pictures = ("confusion.png", "predictions.png", "precision_recall.png", "mistakes.png", "confident.png")
    pictures += ("calibration.png", "epochs.png", "errors.png", "thresholds.png")
    for path in run.rglob("*"):
        assert path.name.startswith(".") or path.name in known + at_the_end + pictures
        if path.name.startswith("."):
            continue
        if path.suffix == ".ckpt":
            assert torch.load(path, weights_only=True)["state_dict"]
        elif path.name == "model.safetensors":
            load_file(path)
        elif path.name == "metrics.json":
            json.loads(path.read_text())
        elif path.name == "report.html":
            assert path.read_text().endswith("</html>\n")
        elif path.name == "metrics.csv":
            rows = read_csv(path)
            assert [row["epoch"] for row in rows] == [str(epoch + 1) for epoch in range(len(rows))]
            assert all(value for row in rows for value in row.values())
