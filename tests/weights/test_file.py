"""Model files: what is read is what was written, and a file that is not right says so in one line."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import mnv2vision as mv
from mnv2vision.backbones import BACKBONES
from mnv2vision.errors import WeightsError
from mnv2vision.preprocessing import Preprocessing
from mnv2vision.weights import file

INSECTS = ("ant", "bee", "wasp")


def make(names: tuple[str, ...] = INSECTS, **options: Any) -> Any:
    return mv.create_model("classification", **({"width": 0.35, "names": names} | options))


@pytest.fixture
def model(randomize: Callable[[nn.Module], None]) -> Any:
    model = make()
    randomize(model)
    return model.eval()


@pytest.fixture
def path(model: Any, tmp_path: Path) -> Path:
    file.save(model, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def rewrite(
    path: Path,
    metadata: Callable[[dict[str, Any]], Any] = lambda data: data,
    state: Callable[[dict[str, torch.Tensor]], Any] = lambda state: state,
) -> Path:
    """Change a file by means of the safetensors library alone."""
    with safe_open(path, framework="pt") as opened:
        data = json.loads(opened.metadata()["mnv2vision"])
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    data, tensors = metadata(data), state(tensors)
    save_file(tensors, path, {"format": "pt", "mnv2vision": data if isinstance(data, str) else json.dumps(data)})
    return path


def refusal(path: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        mv.load(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


@pytest.mark.parametrize("backbone", BACKBONES)
def test_round_trip(backbone: str, tmp_path: Path, randomize: Callable[[nn.Module], None]) -> None:
    preprocessing = Preprocessing(
        image_size=(64, 96),
        resize="stretch",
        crop_fraction=0.9,
        interpolation="bicubic",
        antialias=False,
        mean=(0, 0.5, 1),
    )
    options: dict[str, Any] = {"width": 0.5, "padding": "tf", "norm_eps": 2e-3, "norm_momentum": 0.07, "dropout": 0.3}
    model = make(backbone=backbone, preprocessing=preprocessing, **options)
    randomize(model)
    model.backbone.stem.norm.num_batches_tracked.fill_(7)
    model.eval()

    mv.save(model, tmp_path / "new/folder/m.safetensors", provenance={"source": "here"})
    again = mv.load(str(tmp_path / "new/folder/m.safetensors"))

    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in again.state_dict().items())
    assert again.names == INSECTS
    assert again.preprocessing == preprocessing
    assert again.config == model.config == {"task": "classification", "backbone": backbone, "num_classes": 3, **options}
    assert file.read(tmp_path / "new/folder/m.safetensors").provenance == {"source": "here"}
    # Ready for inference, and as ready for training as the original.
    assert not again.training
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in again.parameters())
    assert (again.backbone.stem.norm.eps, again.backbone.stem.norm.momentum) == (2e-3, 0.07)
    assert again.dropout.p == 0.3
    # In double precision, as random weights amplify the rounding, which other kernels do otherwise.
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(again.double()(images), model.double()(images), rtol=1e-4, atol=1e-5)


def test_weights_are_in_memory_of_their_own(path: Path) -> None:
    """Aligned, as vector instructions want them, and not in the file, which may change behind the model's back."""
    state = mv.load(path).state_dict()
    assert [name for name, tensor in state.items() if tensor.numel() > 1 and tensor.data_ptr() % 64] == []
    before = {name: tensor.clone() for name, tensor in state.items()}
    with path.open("r+b") as opened:
        opened.write(b"\0" * path.stat().st_size)
    assert all(torch.equal(tensor, state[name]) for name, tensor in before.items())


def test_it_is_a_plain_safetensors_file(path: Path, model: Any) -> None:
    with safe_open(path, framework="pt") as opened:
        assert set(opened.keys()) == set(model.state_dict())
        assert opened.metadata()["format"] == "pt"  # what transformers and others look for
        assert json.loads(opened.metadata()["mnv2vision"])["names"] == list(INSECTS)
    assert os.stat(path).st_mode & 0o777 == 0o644


def test_channels_last_weights_are_kept(model: Any, tmp_path: Path) -> None:
    model.to(memory_format=torch.channels_last)
    mv.save(model, tmp_path / "m.safetensors")
    again = mv.load(tmp_path / "m.safetensors").state_dict()
    assert all(torch.equal(value, again[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("older", [True, False])
def test_a_failing_save_changes_nothing(
    older: bool, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "runs/model.safetensors"
    path.parent.mkdir()
    if older:
        mv.save(model, path)
    before = path.read_bytes() if older else None

    def full(state: Any, target: Path, metadata: Any) -> None:
        Path(target).write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(file, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        mv.save(make(), path)
    assert [item.name for item in path.parent.iterdir()] == (["model.safetensors"] if older else [])
    if older:
        assert path.read_bytes() == before


@pytest.mark.parametrize("share", [0, 1e-9, 0.0005, 0.002, 0.02, 0.5, 0.9, 1])
def test_truncated(share: float, path: Path) -> None:
    content = path.read_bytes()
    kept = content[: min(len(content) - 1, -int(-share * len(content)))]
    path.write_bytes(kept)
    assert "corrupt" in refusal(path)


def test_not_a_model_file(path: Path, tmp_path: Path) -> None:
    assert "no such model file" in refusal(tmp_path / "absent.safetensors")
    assert "no such model file" in refusal(tmp_path)
    save_file({"features.0.0.weight": torch.zeros(32, 3, 3, 3)}, path)
    assert "tools/convert.py" in refusal(path)
    torch.save({"state_dict": {}}, path)
    assert "not a safetensors file" in refusal(path)
    path.write_bytes(b"\xff" * 4096)
    assert "not a safetensors file" in refusal(path)


def test_a_file_of_a_later_version(path: Path) -> None:
    rewrite(path, lambda data: data | {"format_version": 99, "version": "9.8.7"})
    message = refusal(path)
    assert "9.8.7" in message
    assert "upgrade" in message


def without(key: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda data: {name: value for name, value in data.items() if name != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: "{not json", "damaged"),
        (lambda data: [], "damaged"),
        (without("config"), "damaged"),
        (without("format_version"), "damaged"),
        (lambda data: data | {"format_version": "x"}, "damaged"),
        (lambda data: data | {"names": 3}, "damaged"),
        (lambda data: data | {"names": ["one"]}, "rebuilt.*3.*1 class names"),
        (lambda data: data | {"config": []}, "rebuilt"),
        (lambda data: data | {"config": data["config"] | {"backbone": "resnet"}}, "rebuilt.*resnet"),
        (lambda data: data | {"config": data["config"] | {"task": "cooking"}}, "rebuilt.*cooking"),
        (lambda data: data | {"config": data["config"] | {"wideness": 3}}, "rebuilt.*wideness"),
        (lambda data: data | {"config": data["config"] | {"dropout": 7}}, "rebuilt.*7"),
        (lambda data: data | {"config": data["config"] | {"width": "wide"}}, "rebuilt.*wide"),
        (lambda data: data | {"preprocessing": {"resise": "crop"}}, "rebuilt.*resise"),
        (lambda data: data | {"preprocessing": "none"}, "rebuilt"),
    ],
)
def test_damaged_metadata(change: Callable[[dict[str, Any]], Any], message: str, path: Path) -> None:
    from re import search

    assert search(message, refusal(rewrite(path, change)))


def test_a_parameter_that_does_not_fit(path: Path) -> None:
    original = path.read_bytes()
    message = refusal(rewrite(path, state=lambda state: state | {"classifier.weight": torch.zeros(4, 1280)}))
    assert "classifier.weight" in message
    assert "(4, 1280)" in message
    assert "(3, 1280)" in message

    path.write_bytes(original)
    message = refusal(rewrite(path, state=without("backbone.block3.depthwise.norm.bias")))
    assert "lacks backbone.block3.depthwise.norm.bias (48,)" in message  # 6 x 8 channels at width 0.35

    path.write_bytes(original)
    message = refusal(rewrite(path, state=lambda state: state | {"backbone.block17.beta": torch.zeros(2, 5)}))
    assert "backbone.block17.beta (2, 5)" in message


# ---- starting from other weights ----


def test_other_classes_start_anew(model: Any, path: Path) -> None:
    other = make(("cat", "dog"))
    before = {key: value.clone() for key, value in other.state_dict().items()}
    line = file.initialize_from(other, file.read(path), "start.safetensors")
    for key, value in other.state_dict().items():
        assert torch.equal(value, before[key] if key.startswith("classifier.") else model.state_dict()[key]), key
    assert "start.safetensors" in line
    assert "2 classes instead of 3" in line
    assert "classifier.weight, classifier.bias" in line
    assert f"{len(before) - 2} of {len(before)}" in line


def test_as_many_but_other_classes_start_anew(model: Any, path: Path) -> None:
    other = make(("cat", "dog", "cow"))
    before = other.classifier.weight.clone()
    line = file.initialize_from(other, file.read(path), "x")
    assert torch.equal(other.classifier.weight, before)
    assert torch.equal(other.backbone.stem.conv.weight, model.backbone.stem.conv.weight)
    assert "classifier.weight" in line


def test_the_same_classes_are_kept(model: Any, path: Path) -> None:
    again = make()
    line = file.initialize_from(again, file.read(path), "x")
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in again.state_dict().items())
    assert "new" not in line


def test_the_hidden_layer_of_v3_is_kept(tmp_path: Path) -> None:
    model = make(backbone="mobilenet_v3_small")
    mv.save(model, tmp_path / "m.safetensors")
    other = make(("cat", "dog"), backbone="mobilenet_v3_small")
    file.initialize_from(other, file.read(tmp_path / "m.safetensors"), "x")
    assert torch.equal(other.hidden.weight, model.hidden.weight)


def test_weights_of_another_width_or_depth(path: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"^x: backbone\.stem\.conv\.weight is \(16, 3, 3, 3\).*\(32, 3, 3, 3\)"):
        file.initialize_from(make(width=1.0), file.read(path), "x")
    mv.save(make(taps=("block5",)), tmp_path / "short.safetensors")
    with pytest.raises(WeightsError, match=r"^x: lacks backbone\.block6\.expand\.conv\.weight \(96, 16, 1, 1\)"):
        file.initialize_from(make(), file.read(tmp_path / "short.safetensors"), "x")


def test_a_task_that_needs_fewer_layers(tmp_path: Path) -> None:
    segmenter = mv.create_model("segmentation", width=0.35, num_classes=3)
    mv.save(segmenter, tmp_path / "segmenter.safetensors")
    model = make()
    line = file.initialize_from(model, file.read(tmp_path / "segmenter.safetensors"), "x")
    assert line.endswith(
        "new, for classification instead of segmentation: backbone.last, classifier.weight, classifier.bias"
    )
    state = segmenter.backbone.state_dict()
    assert all(torch.equal(model.backbone.state_dict()[name], tensor) for name, tensor in state.items())


def test_a_checkpoint_is_no_model_file(tmp_path: Path) -> None:
    (tmp_path / "best.ckpt").touch()
    with pytest.raises(WeightsError, match=r"best\.ckpt: a checkpoint, for resume=; .* model\.safetensors"):
        file.read(tmp_path / "best.ckpt")


@pytest.mark.parametrize("prepare", [mv.fold_batch_norm, mv.split_inference])
def test_copies_for_inference_are_not_saved(prepare: Any, tmp_path: Path) -> None:
    model = mv.create_model("classification", width=0.35, num_classes=2)
    with pytest.raises(WeightsError, match="not written, the model is a copy prepared for inference"):
        mv.save(prepare(model), tmp_path / "model.safetensors")
    assert list(tmp_path.glob("*.safetensors")) == []
