"""mnv2vision convert, as a user calls it."""

import ast
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.models as tv
from torch import nn

import mnv2vision as mv
from mnv2vision.cli.main import main
from mnv2vision.weights import file

Randomize = Callable[[nn.Module], None]


@pytest.fixture
def weights(tmp_path: Path, randomize: Randomize) -> Path:
    """A file of torchvision's."""
    theirs = tv.mobilenet_v2(width_mult=0.35, num_classes=6)
    randomize(theirs)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    return tmp_path / "theirs.pth"


def test_writes_a_model_with_its_provenance(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "new/model.safetensors"
    assert main(["convert", "source=torchvision", f"input={weights}", f"output={output}"]) == 0
    provenance = file.read(output).provenance
    assert provenance["source"] == "torchvision"
    assert provenance["input"] == "theirs.pth"
    assert provenance["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert provenance["mnv2vision"] == mv.__version__
    theirs = tv.mobilenet_v2(width_mult=0.35, num_classes=6)
    theirs.load_state_dict(torch.load(weights, weights_only=True))
    # In double precision, as random weights amplify the rounding, which other kernels do otherwise.
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(mv.load(output).double()(x), theirs.eval().double()(x), rtol=1e-4, atol=1e-5)
    told = capsys.readouterr().err
    parameters = sum(parameter.numel() for parameter in theirs.parameters())
    assert "mobilenet_v2" in told
    assert "0.35" in told
    assert "6 classes" in told
    assert str(parameters) in told.replace(",", "")


def test_official_weights(shared: Path, tmp_path: Path) -> None:
    source = shared / "weights/tf_mobilenet_v2_1.0_224.safetensors"
    output = tmp_path / "model.safetensors"
    common = ["convert", "source=tensorflow", f"input={source}", f"output={output}"]
    assert main(common) == 0
    assert mv.load(output).num_classes == 1000
    assert main([*common, "keep_background=true"]) == 0
    assert mv.load(output).names[:2] == ("background", "tench")
    assert file.read(output).provenance["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["source=caffe", "input={weights}"], "unknown source='caffe'; valid: tensorflow, torchvision"),
        (["input={weights}"], "one of source=, name= and to= is required"),
        (["source=torchvision"], "input=... is required"),
        (["source=torchvision", "input={weights}", "keep_background=true"], "keep_background"),
        (["source=torchvision", "input={weights}", "task=segmentation"], "task=segmentation; valid: classification"),
        (["source=tensorflow", "input={weights}", "task=depth"], "task=depth; valid: classification"),
        (["source=tensorflow", "input={weights}", "keep_background=perhaps"], "keep_background"),
        (["source=tensorflow", "input={weights}"], "theirs.pth: no such .safetensors, .npz, .pb, .tflite file"),
        (["source=torchvision", "input={weights}x"], "theirs.pthx: no such file, and not a name such as"),
        (["source=tensorflow", "input={broken}"], "broken.npz: lacks the variable"),
        (["source=tensorflow", "input={broken}"], "(as task=classification, the default)"),
        (["source=torchvision", "input={broken}"], "not a state dictionary"),
        (["source=torchvision", "input={weights}", "width=1"], "unknown key width"),
    ],
)
def test_failures_leave_nothing_behind(
    arguments: list[str],
    message: str,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out/model.safetensors"
    broken = tmp_path / "broken.npz"
    np.savez(broken, **{"MobilenetV2/Conv/weights": np.zeros((3, 3, 3, 32), np.float32)})  # type: ignore[arg-type]
    given = [item.format(weights=weights, broken=broken) for item in arguments]
    assert main(["convert", *given, f"output={output}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not output.parent.exists()

    output.parent.mkdir()
    output.write_bytes(b"older")
    assert main(["convert", *given, f"output={output}"]) == 2
    assert list(output.parent.iterdir()) == [output]
    assert output.read_bytes() == b"older"


def test_arguments_for_timm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the arguments that are printed, timm computes what the classifier does, TensorFlow's padding included."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = mv.create_model("classification", width=0.35, padding="tf", norm_eps=1e-3, num_classes=5).eval()
    mv.save(model, tmp_path / "ours.safetensors")
    theirs = tmp_path / "theirs.pth"
    assert main(["convert", "to=timm", f"input={tmp_path / 'ours.safetensors'}", f"output={theirs}"]) == 0
    printed = (
        capsys.readouterr().err.splitlines()[-1].removeprefix("load them into timm.create_model(").removesuffix(")")
    )
    pairs = (item.partition("=") for item in printed.split(", "))
    peer = timm.create_model(**{key: ast.literal_eval(value) for key, _, value in pairs})
    peer.load_state_dict(torch.load(theirs, weights_only=True))
    images = torch.randn(2, 3, 96, 96, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(peer.eval().double()(images), model.double()(images), rtol=1e-4, atol=1e-5)
