"""Classes of the same name keep what was learned of them, whatever their places and whoever stands beside them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mnv2vision as mv
from mnv2vision.weights import file

OLD, NEW = ("cat", "dog", "cow"), ("emu", "cow", "cat", "gnu")


def scores(model: Any, label: int, image: Any) -> Any:
    """What a model says of a class, before any share of it is given to others."""
    x = model.preprocessing.normalize(torch.from_numpy(image).permute(2, 0, 1)[None])
    with torch.no_grad():
        raw = model(x)
    if model.config.head.task == "detection":
        return raw.class_logits[..., label + 1]
    return raw[:, label]


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("classification", {}),
        ("classification", {"backbone": "mobilenet_v3_small"}),
        ("detection", {"head": "ssdlite"}),
        ("detection", {"head": "ssd_mobilenet_v1"}),
        ("segmentation", {"head": "aspp"}),
        ("segmentation", {"head": "lraspp"}),
    ],
)
def test_what_is_said_of_known_classes_stays(task: Any, options: Any, tmp_path: Path, randomize: Any) -> None:
    old = mv.create_model(task, names=OLD, width=0.35, image_size=64, **options).eval()
    randomize(old)
    mv.save(old, tmp_path / "old.safetensors")
    new = mv.create_model(task, names=NEW, width=0.35, image_size=64, **options).eval()
    before = {name: value.clone() for name, value in new.state_dict().items()}
    line = file.initialize_from(new, file.read(tmp_path / "old.safetensors"), "old")
    assert "knows 2 of 4 classes: cow, cat; new: emu, gnu" in line
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in ("cow", "cat"):
        torch.testing.assert_close(scores(new, NEW.index(name), image), scores(old, OLD.index(name), image))
    background = int(task == "detection")
    # Of the others nothing was touched: their rows are those that the model had.
    after = new.state_dict()
    biases = [name for name in after if name.endswith(("classifier.bias", "classes.0.conv.bias"))]
    mine, was = (state[biases[0]].unflatten(0, (-1, len(NEW) + background)) for state in (after, before))
    mine, was = mine[:, background:], was[:, background:]
    assert torch.equal(mine[:, [0, 3]], was[:, [0, 3]])
    assert not torch.equal(mine[:, [1, 2]], was[:, [1, 2]])


def test_the_same_classes_in_another_order(tmp_path: Path, randomize: Any) -> None:
    old = mv.create_model("detection", names=OLD, width=0.35, image_size=64).eval()
    randomize(old)
    mv.save(old, tmp_path / "old.safetensors")
    new = mv.create_model("detection", names=OLD[::-1], width=0.35, image_size=64).eval()
    line = file.initialize_from(new, file.read(tmp_path / "old.safetensors"), "old")
    assert "knows 3 of 3 classes: cow, dog, cat" in line
    assert "new" not in line
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    torch.testing.assert_close(scores(new, 0, image), scores(old, 2, image))


def test_another_kind_of_head_starts_anew(tmp_path: Path) -> None:
    """Depthwise-separable predictors have nothing for full convolutions."""
    mv.save(mv.create_model("detection", names=OLD, width=0.35, head="ssd"), tmp_path / "old.safetensors")
    new = mv.create_model("detection", names=NEW, width=0.35)
    line = file.initialize_from(new, file.read(tmp_path / "old.safetensors"), "old")
    assert "knows" not in line
    assert "heads.detection.classes" in line
