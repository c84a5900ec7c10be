"""What a teacher said is not asked again: of the same pixels and the same teacher alone, by several processes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mnv2vision as mv
from mnv2vision.classification.training import ClassificationTraining
from mnv2vision.contracts import RawDetections
from mnv2vision.errors import ConfigError
from mnv2vision.tasks.options import Distillation
from mnv2vision.tasks.teacher_cache import TeacherCache, by_image, of_batch
from mnv2vision.tasks.teachers import Teacher, of_vision_model


def test_only_what_is_new_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model: Any = mv.create_model("classification", names=("a", "b"), width=0.35, image_size=32).eval()
    ((name, head),) = model.heads_in_use()
    asked: list[int] = []
    ask = ClassificationTraining.ask

    def counted(self: Any, network: Any, preprocessing: Any, images: Tensor) -> Any:
        asked.append(len(images))
        return ask(self, network, preprocessing, images)

    monkeypatch.setattr(ClassificationTraining, "ask", counted)
    training = ClassificationTraining(head)
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)

    def answer(model: Any, images: Tensor, cache: Path | None) -> Tensor:
        options = Distillation(cache=None if cache is None else str(cache))
        raw, _ = Teacher(of_vision_model(model, name, "classification", "x"), head, options)(training, images)
        assert isinstance(raw, Tensor)
        return raw

    plain = answer(model, images, None)
    first = answer(model, images[:2], tmp_path)
    again = answer(model, images, tmp_path)  # another process, or a resumed run
    assert asked == [3, 2, 1]
    assert torch.equal(first, again[:2])
    torch.testing.assert_close(again, plain, atol=1e-5, rtol=1e-5)
    assert torch.equal(answer(model, images.flip(0), tmp_path), again.flip(0))
    assert asked == [3, 2, 1]

    answer(model, images.flip(3), tmp_path)  # other pixels
    other = mv.create_model("classification", names=("a", "b"), width=0.35, image_size=32).eval()
    answer(other, images, tmp_path)  # other weights
    model.preprocessing = replace(model.preprocessing, mean=(0.1, 0.2, 0.3))
    answer(model, images, tmp_path)
    assert asked == [3, 2, 1, 3, 3, 3]
    model.set_output_stride(16)  # the same weights
    answer(model, images, tmp_path)
    assert asked == [3, 2, 1, 3, 3, 3, 3]


def test_detections_come_back_whole(tmp_path: Path) -> None:
    cache = TeacherCache(tmp_path, {"weight": torch.zeros(2)}, "about")
    raw = RawDetections(torch.randn(2, 5, 4), torch.randn(2, 5, 3), torch.rand(5, 4))
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    keys = cache.keys(images)
    cache.write(dict(zip(keys, by_image(raw), strict=True)))
    found = cache.read(keys)
    back = of_batch([found[key] for key in keys], images.device)
    assert isinstance(back, RawDetections)
    for part in ("box_codes", "class_logits", "anchors"):
        assert torch.equal(getattr(back, part), getattr(raw, part))
    assert not cache.read(cache.keys(images.flip(2)))


def test_answers_that_depend_on_more_than_the_image(tmp_path: Path) -> None:
    model = mv.create_model("classification", names=("a", "b"), width=0.35, image_size=32).eval()
    ((name, head),) = model.heads_in_use()
    for options in ({"batch_statistics": True}, {"features": ("last",)}):
        given: Any = {"cache": str(tmp_path), **options}
        with pytest.raises(ConfigError, match=r"distill\.cache: keeps answers that depend on one image"):
            Teacher(of_vision_model(model, name, "classification", "x"), head, Distillation(**given))
