"""What a joint run starts with: its own weights, those of `init_from`, or of the heads' teachers."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mnv2vision as mv
from mnv2vision.config.compose import load_config
from mnv2vision.config.named import head_tasks
from mnv2vision.config.schema import Train
from mnv2vision.engine.initial import new_model
from mnv2vision.models.vision_model import VisionModel
from mnv2vision.tasks.teachers import of_vision_model

NAMES = {"classification": ("ant", "bee"), "segmentation": ("background", "ant", "bee")}
TOLD = "the head segmentation starts with the weights of its teacher, teacher.safetensors"


def made(seed: int, *heads: str, **options: Any) -> VisionModel:
    torch.manual_seed(seed)
    options = {"width": 0.35, "image_size": 32, **options}
    names = {name: {"names": NAMES[name]} for name in heads}
    return mv.create_model(names, **options)


def start(*arguments: str, teacher: VisionModel | None, resumed: Any = None) -> VisionModel:
    given = ["task=joint", "recipe=null", "heads=[classification,segmentation]", "backbone.width=0.35"]
    given += ["model.image_size=32", "teachers.segmentation=teacher.safetensors"]
    config = load_config(Train, [*given, *arguments])
    teachers = {}
    if teacher is not None:
        teachers["segmentation"] = of_vision_model(teacher, "segmentation", "segmentation", "teacher.safetensors")
    torch.manual_seed(9)
    return new_model(config, head_tasks("joint", config.heads), NAMES, resumed, teachers)


def part(model: VisionModel, name: str) -> dict[str, Tensor]:
    return {key: value for key, value in model.state_dict().items() if key.startswith(name)}


def equal(model: VisionModel, other: VisionModel, name: str) -> bool:
    ours, theirs = part(model, name), part(other, name)
    assert ours
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_a_taught_head_starts_with_its_teachers_weights(caplog: pytest.LogCaptureFixture) -> None:
    teacher = made(1, "segmentation")
    with caplog.at_level(logging.INFO):
        model = start(teacher=teacher)
    assert equal(model, teacher, "heads.segmentation.")
    assert caplog.text.count(TOLD) == 1
    untaught = start(teacher=None)
    assert equal(model, untaught, "heads.classification.")
    assert equal(model, untaught, "backbone.")
    assert not equal(untaught, teacher, "heads.segmentation.")


def test_a_teacher_of_other_classes_gives_the_lower_layers() -> None:
    torch.manual_seed(1)
    teacher = mv.create_model("segmentation", names=("background", "bee"), width=0.35, image_size=32)
    ours, theirs = (part(model, "heads.segmentation.") for model in (start(teacher=teacher), teacher))
    different = {key for key, value in ours.items() if not torch.equal(value, theirs[key])}
    assert different == {"heads.segmentation.classifier.weight", "heads.segmentation.classifier.bias"}


@pytest.mark.parametrize("options", [{"width": 0.5}, {"depth": 0.5}, {"backbone": "mobilenet_v1", "width": 0.35}])
def test_a_teacher_on_another_backbone_gives_none(options: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        model = start(teacher=made(1, "segmentation", **options))
    assert equal(model, start(teacher=None), "heads.")
    assert TOLD not in caplog.text


def test_weights_to_start_from_win(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    teacher = made(1, "segmentation")
    for heads in (("classification", "segmentation"), ("classification",)):
        weights = made(2, *heads)
        mv.save(weights, tmp_path / "start.safetensors")
        caplog.clear()
        with caplog.at_level(logging.INFO):
            model = start(f"init_from={tmp_path / 'start.safetensors'}", teacher=teacher)
        there = "segmentation" in heads
        assert equal(model, weights if there else teacher, "heads.segmentation.")
        assert equal(model, weights, "heads.classification.")
        assert (TOLD in caplog.text) is not there


def test_a_resumed_run_is_left_to_its_checkpoint(caplog: pytest.LogCaptureFixture) -> None:
    teacher = made(1, "segmentation")
    checkpoint = {"model": start(teacher=teacher).config.to_dict()}
    caplog.clear()
    with caplog.at_level(logging.INFO):
        model = start(teacher=teacher, resumed=checkpoint)
    assert not equal(model, teacher, "heads.segmentation.")
    assert TOLD not in caplog.text
