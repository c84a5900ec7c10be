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
    assert again.config == model.config
    arguments = {"task": "classification", "backbone": backbone, "num_classes": 3, "output_stride": 32, **options}
    assert again.config.arguments == arguments
    assert file.read(tmp_path / "new/folder/m.safetensors").provenance == {"source": "here"}
    # Ready for inference, and as ready for training as the original.
    assert not again.training
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in again.parameters())
    assert (again.backbone.stem.norm.eps, again.backbone.stem.norm.momentum) == (2e-3, 0.07)
    assert again.head.dropout.p == 0.3
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
        assert json.loads(opened.metadata()["mnv2vision"])["model"]["heads"]["classification"]["names"] == list(INSECTS)
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

    def full(target: Path, content: bytes) -> None:
        target.write_text("half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
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
    assert refusal(path) == f"{path}: corrupt, or not a safetensors file"


def test_the_folder_of_a_run(path: Path) -> None:
    folder, of_file = mv.load(path.parent).state_dict(), mv.load(path).state_dict()
    assert folder.keys() == of_file.keys()
    assert all(torch.equal(folder[name], of_file[name]) for name in folder)


def test_not_a_model_file(path: Path, tmp_path: Path) -> None:
    assert "no such model file" in refusal(tmp_path / "absent.safetensors")
    (tmp_path / "empty").mkdir()
    assert "no such model file" in refusal(tmp_path / "empty")
    save_file({"features.0.0.weight": torch.zeros(32, 3, 3, 3)}, path)
    assert "mnv2vision convert" in refusal(path)
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


def changed(value: Any, *keys: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A model's description with one value changed or added, such as changed(2, "backbone_options", "width")."""

    def change(data: dict[str, Any]) -> dict[str, Any]:
        place = data["model"]
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value
        return data

    return change


HEAD = ("heads", "classification")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: "{not json", "damaged"),
        (lambda data: [], "damaged"),
        (without("model"), "damaged .model is missing, or has the wrong type"),
        (without("format_version"), "damaged"),
        (lambda data: data | {"format_version": "x"}, "damaged"),
        (lambda data: data | {"model": []}, "damaged .model is missing, or has the wrong type"),
        (changed(3, *HEAD, "names"), "rebuilt"),
        (changed(["one"], *HEAD, "names"), "rebuilt.*3.*1 class names"),
        (changed([], *HEAD), "rebuilt"),
        (changed({}, "heads"), "rebuilt.*at least one head"),
        (changed("resnet", "backbone"), "rebuilt.*resnet"),
        (changed("cooking", *HEAD, "task"), "rebuilt.*cooking"),
        (changed(3, "backbone_options", "wideness"), "rebuilt.*wideness"),
        (changed(3, *HEAD, "options", "wideness"), "rebuilt.*wideness"),
        (changed(7, *HEAD, "options", "dropout"), "rebuilt.*7"),
        (changed("wide", "backbone_options", "width"), "rebuilt.*wide"),
        (changed({"resise": "crop"}, "preprocessing"), "rebuilt.*resise"),
        (changed("none", "preprocessing"), "rebuilt"),
    ],
)
def test_damaged_metadata(change: Callable[[dict[str, Any]], Any], message: str, path: Path) -> None:
    from re import search

    assert search(message, refusal(rewrite(path, change)))


def test_a_parameter_that_does_not_fit(path: Path) -> None:
    original = path.read_bytes()
    message = refusal(
        rewrite(path, state=lambda state: state | {"heads.classification.classifier.weight": torch.zeros(4, 1280)})
    )
    assert "classifier.weight" in message
    assert "(4, 1280)" in message
    assert "(3, 1280)" in message

    path.write_bytes(original)
    message = refusal(rewrite(path, state=without("backbone.block3.depthwise.norm.bias")))
    assert "lacks backbone.block3.depthwise.norm.bias (48,)" in message  # 6 x 8 channels at width 0.35

    path.write_bytes(original)
    message = refusal(rewrite(path, state=lambda state: state | {"backbone.block17.beta": torch.zeros(2, 5)}))
    assert "backbone.block17.beta (2, 5)" in message


# ---- files of format 1, written by the code of before there were named heads ----


@pytest.mark.parametrize(
    ("task", "total", "size"),
    [
        ("classification", -0.001613561064004898, 0.001613561064004898),
        ("detection", -4025.111638098955, 4025.111638098955),
        ("segmentation", -0.41810713801532984, 0.41810713801532984),
    ],
)
def test_format_1(task: str, total: float, size: float, tmp_path: Path) -> None:
    """The sums of the logits and of their sizes are those of the code that wrote the files."""
    old = Path(__file__).parent / f"fixtures/format_1/{task}.safetensors"
    model = mv.load(old)
    height, width = model.preprocessing.image_size
    images = torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64)[..., :height, :width]
    with torch.no_grad():
        raw = model(images)
    logits = (raw.class_logits if task == "detection" else raw).double()
    assert logits.sum().item() == pytest.approx(total, rel=1e-4, abs=1e-6)
    assert logits.abs().sum().item() == pytest.approx(size, rel=1e-4)
    assert file.read(old).provenance == {"source": "here"}
    mv.save(model, tmp_path / "new.safetensors")
    again = file.read(tmp_path / "new.safetensors")
    assert again.config == model.config
    assert all(torch.equal(tensor, again.state[name]) for name, tensor in model.state_dict().items())


def test_what_format_1_says_of_its_model() -> None:
    folder = Path(__file__).parent / "fixtures/format_1"
    classifier, detector, segmenter = (
        file.read(folder / f"{task}.safetensors").config.arguments
        for task in ("classification", "detection", "segmentation")
    )
    assert classifier == {
        "task": "classification",
        "backbone": "mobilenet_v3_small",
        "num_classes": 3,
        "width": 0.1,
        "output_stride": 32,
        "dropout": 0.3,
        "taps": ("block2",),
    }
    assert (detector["padding"], detector["scores"], detector["nms_iou"]) == ("tf", "softmax", 0.5)
    assert (segmenter["atrous_rates"], segmenter["head_channels"], segmenter["output_stride"]) == ([6], 8, 8)


@pytest.mark.parametrize("key", ["config", "names", "preprocessing"])
def test_format_1_damaged(key: str, tmp_path: Path) -> None:
    old = Path(__file__).parent / "fixtures/format_1/classification.safetensors"
    path = tmp_path / "model.safetensors"
    path.write_bytes(old.read_bytes())
    assert f"damaged ({key} is missing, or has the wrong type)" in refusal(rewrite(path, without(key)))


# ---- starting from other weights ----


def test_other_classes_start_anew(model: Any, path: Path) -> None:
    other = make(("cat", "dog"))
    before = {key: value.clone() for key, value in other.state_dict().items()}
    line = file.initialize_from(other, file.read(path), "start.safetensors")
    for key, value in other.state_dict().items():
        assert torch.equal(
            value, before[key] if key.startswith("heads.classification.classifier.") else model.state_dict()[key]
        ), key
    assert "start.safetensors" in line
    assert "2 classes instead of 3" in line
    assert "heads.classification.classifier.weight, heads.classification.classifier.bias" in line
    assert f"{len(before) - 2} of {len(before)}" in line


def test_as_many_but_other_classes_start_anew(model: Any, path: Path) -> None:
    other = make(("cat", "dog", "cow"))
    before = other.head.classifier.weight.clone()
    line = file.initialize_from(other, file.read(path), "x")
    assert torch.equal(other.head.classifier.weight, before)
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
    assert torch.equal(other.head.hidden.weight, model.head.hidden.weight)


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
        "new, for classification instead of segmentation: backbone.last, heads.classification.classifier"
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
    with pytest.raises(WeightsError, match="as in a copy prepared for inference"):
        mv.save(prepare(model), tmp_path / "model.safetensors")
    assert list(tmp_path.glob("*.safetensors")) == []


# ---- values that no model computes with ----


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers(value: float, path: Path) -> None:
    def spoil(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        state["heads.classification.classifier.bias"][1] = value
        return state

    assert "1 of the 3 values of heads.classification.classifier.bias are nan or inf" in refusal(
        rewrite(path, state=spoil)
    )
    broken = make()
    with torch.no_grad():
        broken.backbone.stem.conv.weight.fill_(value)
    mv.save(broken, path)
    with pytest.raises(WeightsError, match=r"values of backbone\.stem\.conv\.weight are nan or inf"):
        file.initialize_from(make(), file.read(path), "x")


def test_negative_variances(path: Path) -> None:
    name = "backbone.stem.norm.running_var"
    message = refusal(rewrite(path, state=lambda state: state | {name: state[name] - 100}))
    assert f"{name} contains negative variances" in message


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.complex64])
def test_another_kind_of_numbers(dtype: torch.dtype, path: Path) -> None:
    name = "backbone.stem.conv.weight"
    message = refusal(rewrite(path, state=lambda state: state | {name: state[name].to(dtype)}))
    assert f"{name} is of {str(dtype)[6:]} values, but the model is of float32" in message


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_another_precision_becomes_the_models(dtype: torch.dtype, path: Path, model: Any) -> None:
    rewrite(path, state=lambda state: {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()})
    again = mv.load(path).state_dict()
    for name, tensor in model.state_dict().items():
        assert again[name].dtype == tensor.dtype
        assert torch.equal(again[name], tensor.to(dtype).to(tensor.dtype) if tensor.is_floating_point() else tensor)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed([0.5, 0.5], "preprocessing", "mean"), "rebuilt.*mean="),
        (changed([float("nan")] * 3, "preprocessing", "mean"), "rebuilt.*mean="),
        (changed([float("inf")] * 3, "preprocessing", "std"), "rebuilt.*std="),
        (changed(-1, "backbone_options", "norm_eps"), "rebuilt.*norm_eps=-1 must be above 0"),
        (changed(float("nan"), "backbone_options", "norm_eps"), "rebuilt.*norm_eps=nan"),
        (changed(7, "backbone_options", "norm_momentum"), "rebuilt.*norm_momentum=7"),
        (changed(-3, "backbone_options", "in_channels"), "rebuilt"),
        (changed(float("inf"), "backbone_options", "expansion"), "rebuilt"),
        (changed("x" * 10_000, *HEAD, "task"), "rebuilt"),
        (changed("ant", *HEAD, "names"), "rebuilt"),
        (changed([1, 2, 3], *HEAD, "names"), "rebuilt.*names=.*must be a list of names"),
        (lambda data: data | {"format_version": float("nan")}, "damaged .format_version"),
        (lambda data: data | {"provenance": []}, "damaged .provenance"),
        (lambda data: "[" * 100_000, "damaged"),
        (lambda data: '{"format_version": ' + "9" * 5000 + "}", "damaged"),
    ],
)
def test_metadata_that_cannot_be(change: Callable[[dict[str, Any]], Any], message: str, path: Path) -> None:
    from re import search

    told = refusal(rewrite(path, change))
    assert search(message, told)
    assert len(told) < len(str(path)) + 400


def test_equal_models_give_equal_files(tmp_path: Path) -> None:
    files = set()
    for index in range(8):
        options = {"padding": "tf", "dropout": 0.1}
        torch.manual_seed(0)
        model = make(**dict(reversed(options.items())) if index % 2 else options)
        mv.save(model, tmp_path / "m.safetensors", provenance={"source": "here"})
        files.add((tmp_path / "m.safetensors").read_bytes())
    assert len(files) == 1
