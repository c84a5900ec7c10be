"""What the importers share: reading files, and filling a model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import mnv2vision as mv
from mnv2vision.errors import ConfigError, WeightsError
from mnv2vision.models.vision_model import VisionModel
from mnv2vision.weights.importers.tables import adjusted, build, read_state


def same_names(model: VisionModel) -> Iterator[tuple[str, str]]:
    return ((name, name) for name in model.state_dict())


def build_plain(state: dict[str, Tensor]) -> VisionModel:
    candidates = [{"width": width} for width in (1.0, 0.5, 0.35)]
    return build(state, "x", project="ours", candidates=candidates, name_pairs=same_names, num_classes=3)


def plain_state(width: float) -> dict[str, Tensor]:
    return mv.create_model("classification", width=width, num_classes=3).state_dict()


def test_files_and_wrappings(tmp_path: Path) -> None:
    tensors = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor(1)}
    wrapped = {f"module.{name}": tensor for name, tensor in tensors.items()}
    contents: tuple[Any, ...] = (
        tensors,
        wrapped,
        {"state_dict": wrapped, "epoch": 3, "best_acc1": 71.8},
        {"state_dict": tensors, "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(2)}}}},
    )
    for content in contents:
        for path in (tmp_path / "a.pth", tmp_path / "a.pth.tar", tmp_path / "a.bin"):
            torch.save(content, path, _use_new_zipfile_serialization=path.suffix != ".tar")
            state = read_state(path)
            assert state.keys() == tensors.keys()
            assert all(torch.equal(state[name], tensor) for name, tensor in tensors.items())
    save_file(tensors, tmp_path / "a.safetensors")
    assert torch.equal(read_state(tmp_path / "a.safetensors")["a.weight"], tensors["a.weight"])


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("trace"),)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_that_are_no_states(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"w{suffix}"

    def refusal() -> str:
        with pytest.raises(WeightsError) as caught:
            read_state(path)
        message = str(caught.value)
        assert message.startswith(f"{path}: ")
        assert "\n" not in message
        return message

    assert "no such file" in refusal()
    path.write_bytes(b"")
    assert "not a state dictionary" in refusal()
    torch.save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:-500])
    assert "not a state dictionary" in refusal()
    for content in ({"state_dict": 3}, {"epoch": 3}, {1: torch.zeros(2)}, [torch.zeros(2)], {"a": Evil()}):
        torch.save(content, path)
        assert "not a state dictionary" in refusal()
    assert not Path("trace").exists()


def test_counters_may_be_missing_and_half_precision_is_widened() -> None:
    state = plain_state(0.35)
    short = {name: tensor.half() for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    model = build_plain(short)
    assert not model.training
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == state[name].dtype
        assert torch.equal(tensor, short.get(name, torch.tensor(0)).to(tensor.dtype))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_model_has_tensors_of_its_own() -> None:
    state = {name: tensor.clone() for name, tensor in plain_state(0.35).items()}
    model = build_plain(state)
    state["heads.classification.classifier.weight"].fill_(7)
    assert model.state_dict()["heads.classification.classifier.weight"].max() < 7


def test_the_closest_candidate_is_named() -> None:
    state = plain_state(0.5)
    assert build_plain(state).config.arguments["width"] == 0.5
    broken = state | {"backbone.block4.project.norm.bias": torch.zeros(5)}
    with pytest.raises(WeightsError) as caught:
        build_plain(broken)
    what = "backbone.block4.project.norm.bias is (5,), but the model has (16,)"
    assert str(caught.value) == f"x: {what} (closest: width=0.5)"
    with pytest.raises(WeightsError, match=r"^x: not a state of ours$"):
        build_plain({"fc.weight": torch.zeros(3)})


def test_preprocessing() -> None:
    default = mv.Preprocessing(interpolation="bicubic")
    assert adjusted(default, None) == default
    assert adjusted(default, {"crop_fraction": 0.95}) == mv.Preprocessing(interpolation="bicubic", crop_fraction=0.95)
    assert adjusted(default, mv.Preprocessing(image_size=(96, 96))) == mv.Preprocessing(image_size=(96, 96))
    with pytest.raises(ConfigError, match="unknown preprocessing option: size"):
        adjusted(default, {"size": 96})
