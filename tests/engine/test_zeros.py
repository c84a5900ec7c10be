"""Classes of which nothing is found are named after an evaluation, once, of every task alike."""

import csv
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

import mnv2vision as mv
from mnv2vision.cli.main import main
from mnv2vision.contracts import Evaluator, HeadSettings
from mnv2vision.data.formats.shapes import Shapes
from mnv2vision.data.sample import Boxes, Sample
from mnv2vision.engine.evaluate import tell_of_zeros
from mnv2vision.models.tasks import TASKS
from mnv2vision.predictions.detection import Detection
from mnv2vision.tasks.base import Task

SIDE = 40
PHOTO = np.zeros((SIDE, SIDE, 3), np.uint8)


@pytest.fixture(autouse=True)
def _log_is_heard(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(logging.getLogger("mnv2vision"), "propagate", True)
    caplog.set_level(logging.INFO)


def evaluated(kind: str, names: Sequence[str], protocol: str | None = None) -> tuple[Task, Evaluator]:
    """A task without predictions, and its evaluator."""
    source = Shapes("val", 1)
    source.names = source.mask_names = tuple(names)
    ((name, head),) = mv.create_model(kind, width=0.35, names=tuple(names), image_size=64).heads_in_use()
    training = TASKS[kind].training().create(head, source, HeadSettings(protocol=protocol))
    model = mv.create_model(kind, width=0.35, names=tuple(names), image_size=64)
    return Task(model, {name: training}), training.evaluator


def test_recall(caplog: pytest.LogCaptureFixture) -> None:
    task, evaluator = evaluated("classification", ("ant", "bee", "cat", "dog"))
    # An ant and a cat, the cat taken for a dog: of bees and dogs there is none.
    logits = torch.tensor([[9.0, 0, 0, 0], [0.0, 0, 0, 9]])
    evaluator.update(logits, [Sample(PHOTO, 0, "", 0), Sample(PHOTO, 1, "", 2)])  # type: ignore[attr-defined]
    evaluator.compute()
    tell_of_zeros(task)
    assert caplog.messages == ["recall is 0 for 1 of the 2 classes that have examples: cat"]


def test_iou_and_a_long_list(caplog: pytest.LogCaptureFixture) -> None:
    names = ("background", *"abcdefgh")
    task, evaluator = evaluated("segmentation", names)
    mask = np.repeat(np.arange(8, dtype=np.uint8), 5)[None].repeat(SIDE, 0)  # all but h
    found = np.where(mask == 3, 3, 0).astype(np.uint8)
    evaluator.update([found], [Sample(PHOTO, 0, "", mask=mask)])  # type: ignore[attr-defined]
    evaluator.compute()
    tell_of_zeros(task)
    assert caplog.messages == ["IoU is 0 for 6 of the 8 classes that have examples: a, b, d, e, f and 1 more"]


@pytest.mark.parametrize("protocol", ["coco", "voc"])
def test_average_precision(protocol: str, caplog: pytest.LogCaptureFixture) -> None:
    task, evaluator = evaluated("detection", ("ant", "bee", "cat"), protocol)
    boxes = [[0, 0, 10, 10], [20, 20, 30, 30]]
    found = Detection(np.array(boxes, np.float32), np.array([0.9, 0.8]), np.array([0, 2]))
    sample = Sample(PHOTO, 0, "", boxes=Boxes.of(boxes, [0, 1]))
    evaluator.update([found], [sample])  # type: ignore[attr-defined]
    evaluator.compute()
    tell_of_zeros(task)
    assert caplog.messages == ["AP is 0 for 1 of the 2 classes that have examples: bee"]


def test_nothing_to_say(caplog: pytest.LogCaptureFixture) -> None:
    task, evaluator = evaluated("classification", ("ant", "bee"))
    evaluator.compute()
    tell_of_zeros(task)
    assert caplog.messages == []


@pytest.mark.slow
def test_once_a_run(tmp_path: Path, tiny: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """An evaluation each epoch, and one line at the end, before the figures."""
    epochs = ("trainer.max_epochs=2", "trainer.check_val_every_n_epoch=1")
    assert main(["train", *tiny, "task=segmentation", *epochs, f"run_dir={tmp_path}"]) == 0
    with (tmp_path / "per_class.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if int(row["pixels"])]
    zeros = [row["name"] for row in rows if float(row["IoU"]) == 0]
    assert zeros, "a run as short as this finds not all classes"
    lines = capsys.readouterr().err.splitlines()
    assert sum("IoU is 0 for" in line for line in lines) == 1
    assert lines[-2].startswith(f"IoU is 0 for {len(zeros)} of the {len(rows)} classes that have examples: ")
