"""The command average: on a tiny run's epochs, by the metrics and statistics that the files themselves have."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import mnv2vision as mv
from mnv2vision.cli.main import main
from mnv2vision.common import draw
from mnv2vision.data.formats.shapes import Shapes
from mnv2vision.engine.average import greedy
from mnv2vision.weights import file

Train = Callable[..., int]
Capture = pytest.CaptureFixture[str]
DATA = ("dataset=shapes", "dataset.image_size=48", "dataset.val_size=17", "dataset.train_size=58", "loader.workers=0")


def accuracies(values: dict[str, float]) -> tuple[list[str], list[list[str]]]:
    """A greedy soup of numbers, whose metric is minus the distance of their mean to 10; and the averages it tried."""
    tried: list[list[str]] = []

    def measure(names: Sequence[str]) -> float:
        tried.append(list(names))
        return -abs(sum(values[name] for name in names) / len(names) - 10)

    return greedy({name: -abs(value - 10) for name, value in values.items()}, measure), tried


def test_a_greedy_soup() -> None:
    # a (1 off) first; with b (2 off) the mean is 8.5: out. With c (3 off, above) it is 11: as good, so in. With d the
    # mean of 9, 13 and 5 is 9: in.
    kept, tried = accuracies({"d": 5, "b": 8, "a": 9, "c": 13})
    assert tried == [["a", "b"], ["a", "c"], ["a", "c", "d"]]
    assert kept == ["a", "c", "d"]
    assert accuracies({"x": 10.0})[0] == ["x"]
    assert accuracies({"x": 9.0, "y": 9.0})[0] == ["x", "y"]  # in the order given, where alike


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny: tuple[str, ...]) -> Path:
    """A run of four epochs, the last three of them kept."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        for picture in ("confusion_matrix", "contact_sheet"):
            patch.setattr(draw, picture, lambda *args, **options: None)
        own = ("trainer.max_epochs=4", "checkpoint.keep_last=3", "backbone.norm_momentum=0.1")
        assert main(["train", *tiny, *own, f"run_dir={folder}"]) == 0
    return folder


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    for picture in ("confusion_matrix", "contact_sheet"):
        monkeypatch.setattr(draw, picture, lambda *args, **options: None)


def kept(run: Path) -> list[Path]:
    return [run / f"checkpoints/step_{step}.ckpt" for step in (14, 21, 28)]


@pytest.mark.slow
def test_the_epochs_of_a_run(run: Path, tmp_path: Path) -> None:
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
        "best.ckpt",
        "last.ckpt",
        *(path.name for path in kept(run)),
    ]
    output = tmp_path / "averaged"
    assert main(["average", f"models={run}", f"output={output}"]) == 0
    assert sorted(path.name for path in output.iterdir()) == ["average.json", "model.safetensors"]
    states = [torch.load(path, weights_only=True)["state_dict"] for path in kept(run)]
    ours = load_file(output / "model.safetensors")
    for name, tensor in ours.items():
        if tensor.is_floating_point():
            wanted = np.mean([state[f"model.{name}"].double().numpy() for state in states], axis=0)
            np.testing.assert_array_equal(tensor.numpy(), wanted.astype(np.float32))
    assert file.load(output / "model.safetensors").config == file.load(run / "model.safetensors").config
    origin = file.read(output / "model.safetensors").provenance
    assert origin == {"average_of": [str(path) for path in kept(run)], "batch_norm": "average"}

    two = tmp_path / "two"
    assert main(["average", f"models={run}", "last=2", f"output={two}"]) == 0
    named = tmp_path / "named"
    assert main(["average", f"models=[{kept(run)[1]},{kept(run)[2]}]", f"output={named}"]) == 0
    assert (two / "model.safetensors").read_bytes() == (named / "model.safetensors").read_bytes()
    assert json.loads((two / "average.json").read_text())["average"] == {}


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
def test_what_is_measured(run: Path, tmp_path: Path, capsys: Capture) -> None:
    """Each model alone and the average have the metrics that eval gives them."""
    output = tmp_path / "averaged"
    files = [run / "model.safetensors", *kept(run)[1:]]
    assert main(["average", f"models=[{','.join(map(str, files))}]", f"output={output}", *DATA]) == 0
    report = json.loads((output / "average.json").read_text())
    told = capsys.readouterr().err
    for path, row in zip(files, report["models"], strict=True):
        assert (row["model"], row["kept"]) == (str(path), True)
        assert f"{path}: top1 {row['top1']:.4f}\n" in told
    metrics = json.loads((output / "metrics.json").read_text())
    assert report["average"] == metrics
    for path, row in ((files[0], report["models"][0]), (output / "model.safetensors", metrics)):
        assert main(["eval", f"checkpoint={path}", f"run_dir={tmp_path / path.parent.name / 'eval'}", *DATA]) == 0
        evaluated = json.loads((tmp_path / path.parent.name / "eval/metrics.json").read_text())
        assert {key: row[key] for key in evaluated} == pytest.approx(evaluated)
    warned = "the average has top1" in told
    assert warned == (metrics["top1"] < max(row["top1"] for row in report["models"]))


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
def test_estimated_batch_norm(run: Path, tmp_path: Path) -> None:
    """The stem's statistics are those of its own convolution's outputs, over all images that were seen."""
    output = tmp_path / "averaged"
    asked = ("batch_norm=estimate", "loader.batch_size=8", "images=16")
    assert main(["average", f"models={run}", f"output={output}", *asked, *DATA]) == 0
    model: Any = file.load(output / "model.safetensors")
    source = Shapes("train", 58, image_size=48)
    images = [source[index].image for index in torch.linspace(0, 57, 16).long().tolist()]
    batch = torch.from_numpy(np.stack([model.preprocessing.prepare(image) for image in images])).permute(0, 3, 1, 2)
    with torch.no_grad():
        seen = model.backbone.stem.conv(model.preprocessing.normalize(batch)).double()
    halves = seen.split(8)
    norm = model.backbone.stem.norm
    torch.testing.assert_close(norm.running_mean.double(), seen.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    # Of two batches the mean of their variances, each by n - 1, as torch's own average of them is.
    wanted = torch.stack([half.transpose(0, 1).flatten(1).var(1) for half in halves]).mean(0)
    torch.testing.assert_close(norm.running_var.double(), wanted, rtol=1e-4, atol=1e-6)
    plain = tmp_path / "plain"
    assert main(["average", f"models={run}", f"output={plain}"]) == 0
    without, estimated = load_file(plain / "model.safetensors"), load_file(output / "model.safetensors")
    for name, tensor in without.items():
        if "running" not in name and "tracked" not in name:
            assert torch.equal(tensor, estimated[name])


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
def test_a_stranger_is_left_out(run: Path, tmp_path: Path, capsys: Capture) -> None:
    """A model of random weights spoils the average: greedy leaves it out, else there is a warning."""
    good = file.load(run / "model.safetensors")
    bad = file.load(run / "model.safetensors")
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in bad.parameters():
            parameter.copy_(torch.randn_like(parameter) * 30)
    mv.save(bad, tmp_path / "bad.safetensors")
    mv.save(good, tmp_path / "good.safetensors")
    models = f"models=[{tmp_path}/bad.safetensors,{tmp_path}/good.safetensors]"
    assert main(["average", models, f"output={tmp_path / 'all'}", *DATA]) == 0
    report = json.loads((tmp_path / "all/average.json").read_text())
    alone = report["models"][1]["top1"]
    assert report["models"][0]["top1"] < alone  # or the test says nothing
    assert ("only models that began alike" in capsys.readouterr().err) == (report["average"]["top1"] < alone)
    assert main(["average", models, "greedy=true", f"output={tmp_path / 'greedy'}", *DATA]) == 0
    report = json.loads((tmp_path / "greedy/average.json").read_text())
    assert report["average"]["top1"] >= alone
    if not report["models"][0]["kept"]:
        assert math.isclose(report["average"]["top1"], alone)
        one, two = (load_file(path / "model.safetensors") for path in (tmp_path / "greedy", run))
        assert all(torch.equal(one[name], two[name]) for name in two)


@pytest.mark.slow
def test_refusals(run: Path, tmp_path: Path, capsys: Capture) -> None:
    other = tmp_path / "wide.safetensors"
    names = file.load(run / "model.safetensors").config.head.names
    mv.save(mv.create_model("classification", width=0.5, names=names, image_size=32), other)
    (tmp_path / "empty").mkdir()
    (tmp_path / "junk.ckpt").write_bytes(b"junk")
    model = run / "model.safetensors"
    quantized = torch.load(kept(run)[0], weights_only=True)
    quantized["fixed_options"]["quantize"] = True
    torch.save(quantized, tmp_path / "int8.ckpt")
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "model.safetensors").write_bytes(b"")
    for arguments, message in [
        ([], "models=<a run's folder, or a list of model files> is required; see --help"),
        ([f"models={model}"], f"models={model}: give the folder of a run, or at least two models"),
        ([f"models=[{model},{model}]"], f"models: {model} is given twice"),
        ([f"models=[{model},{other}]"], "backbone.width is 0.35 in one, 0.5 in the other"),
        ([f"models={tmp_path / 'empty'}"], "has the checkpoints of 0 epochs, not of 2; checkpoint.keep_last=<number>"),
        ([f"models={run}", "last=4"], "has the checkpoints of 3 epochs, not of 4"),
        ([f"models=[{model},{other}]", "last=2"], "last=2: goes with the folder of a run, models=runs/..."),
        ([f"models=[{model},{tmp_path}/none.ckpt]"], f"models={tmp_path}/none.ckpt: no such checkpoint"),
        ([f"models=[{model},{tmp_path}/junk.ckpt]"], "not a checkpoint of a training run, or a damaged one"),
        ([f"models=[{model},{tmp_path}/int8.ckpt]"], "was trained with quantize=true"),
        ([f"models={run}", "greedy=true"], "greedy=true needs images: give dataset= as well"),
        ([f"models={run}", "batch_norm=estimate"], "batch_norm=estimate needs images: give dataset= as well"),
        ([f"models={run}", "batch_norm=guess"], "batch_norm takes average, estimate, not guess"),
        ([f"models={run}", f"output={taken}"], f"output={taken} holds a model: give another folder"),
    ]:
        capsys.readouterr()
        elsewhere = [] if "output=" in str(arguments) else [f"output={tmp_path / 'out'}"]
        assert main(["average", *arguments, *elsewhere]) == 2
        told = capsys.readouterr().err
        assert message in told
        assert told.count("\n") == 1
        assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_run_resumed_with_rates_by_layer(tmp_path: Path, train: Train, capsys: Capture) -> None:
    """Another global batch changes the rate of every group alike; other rates are refused; the rest is bit for bit."""
    run, again = tmp_path / "run", tmp_path / "again"
    rates = ("optimizer.layer_rates=[0.1,0.5]", "optimizer.reference_batch=8", "freeze=1")
    rates += ("schedule.name=constant", "schedule.warmup_epochs=0")
    assert train(f"run_dir={run}", *rates, "trainer.max_epochs=2") == 0
    whole = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    groups = whole["optimizer_states"][0]["param_groups"]
    assert sorted({group["lr"] for group in groups}) == pytest.approx([0.005, 0.025, 0.05])
    assert train(f"run_dir={again}", *rates, "trainer.max_epochs=1") == 0
    last = again / "checkpoints/last.ckpt"
    assert train(f"resume={last}", "optimizer.layer_rates=[0.2,0.5]") == 2
    assert "a resumed run cannot change optimizer" in capsys.readouterr().err
    assert train(f"resume={last}", "trainer.max_epochs=2") == 0
    resumed = torch.load(last, weights_only=True)
    assert all(torch.equal(resumed["state_dict"][name], tensor) for name, tensor in whole["state_dict"].items())
    assert train(f"resume={last}", "trainer.max_epochs=3", "loader.batch_size=16") == 0
    groups = torch.load(last, weights_only=True)["optimizer_states"][0]["param_groups"]
    assert sorted({group["lr"] for group in groups}) == pytest.approx([0.01, 0.05, 0.1])
    assert [group["lr"] for group in groups] == [pytest.approx(0.1 * group["layer_rate"]) for group in groups]
