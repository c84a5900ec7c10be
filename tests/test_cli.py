"""The command line with good and, above all, bad input: one line, status 2, nothing left behind."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import mnv2vision as mv
from mnv2vision.cli.command import run_command
from mnv2vision.cli.main import COMMANDS, main
from mnv2vision.config.compose import load_config
from mnv2vision.config.options import values
from mnv2vision.config.schema import Eval

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "torchvision", "pytorch_lightning", "albumentations", "hydra", "matplotlib")


def images(folder: Path, *names: str) -> None:
    for index, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (48, 40), (40 * index, 0, 99)).save(folder / name)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in: photos/ with train and val, and files that are not what they should be."""
    monkeypatch.chdir(tmp_path)
    for split in ("train", "val"):
        images(tmp_path / "photos" / split, "ant/1.jpg", "ant/2.jpg", "bee/1.jpg", "bee/2.jpg")
    (tmp_path / "junk.safetensors").write_bytes(b"junk" * 100)
    (tmp_path / "junk.ckpt").write_bytes(b"junk" * 100)
    return tmp_path


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The line of an error, after looking at all that goes with one."""
    before = {path for path in Path().rglob("*") if "mnv2vision_home" not in path.parts}
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    after = {path for path in Path().rglob("*") if "mnv2vision_home" not in path.parts}
    assert after == before
    return line.removeprefix("error: ")


@pytest.mark.parametrize("error", [ConnectionResetError("reset by peer"), RuntimeError("Connection refused")])
def test_errors_of_a_single_process_are_its_own(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    """What sounds as if another process of a run had ended is not put down to one where there is none."""

    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        run_command(fail)
    assert "another process" not in capsys.readouterr().err


def test_what_a_lean_installation_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    assert run_command(lambda: fail("pytorch_lightning.callbacks")) == 2
    assert "this command needs pytorch_lightning.callbacks, which is not installed" in capsys.readouterr().err
    with pytest.raises(ModuleNotFoundError):  # a fault of ours
        run_command(lambda: fail("mnv2vision.nothing"))


def test_a_reader_that_has_enough() -> None:
    """As `… --help | head -1`: no traceback."""
    command = [sys.executable, str(ROOT / "tools/train.py"), "--help"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 141


# ---- what a process imports ----


def run(code: str) -> str:
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return process.stdout


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert run(f"import sys, mnv2vision; print([name for name in {HEAVY} if name in sys.modules])") == "[]\n"


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys; sys.argv = ['tools/train.py', '--help']\n"
        "import runpy\n"
        "try: runpy.run_path('tools/train.py', run_name='__main__')\n"
        "except SystemExit as end: print('status', end.code, 'torch' in sys.modules, 'matplotlib' in sys.modules)"
    )
    assert run(code).endswith("status 0 False False\n")


def test_tools_give_the_status_to_the_shell(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, str(ROOT / "tools/train.py"), "sead=3"], cwd=tmp_path, capture_output=True, text=True
    )
    assert process.returncode == 2
    assert process.stdout == ""
    assert process.stderr.startswith("error: unknown key sead; did you mean seed?")
    assert process.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


# ---- help ----


@pytest.mark.parametrize("arguments", [[], ["fly"], ["-h"], ["--help"], ["help"]])
def test_usage(arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["mnv2vision", *arguments])
    asked = arguments not in ([], ["fly"])
    for given in (arguments, None):
        assert main(given) == (0 if asked else 2)
        out, err = capsys.readouterr()
        wanted = "usage: mnv2vision train|tune|eval|predict|convert|average|export|check|benchmark|reproduce"
        if arguments == ["fly"]:
            wanted = f"error: unknown command 'fly'; valid: {', '.join(COMMANDS)}\n"
        assert (out if asked else err).startswith(wanted)
        assert not (err if asked else out)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            "train",
            [
                "task=",
                "dataset=coco|folder|imagenet|shapes|voc|yolo",
                "recipe=",
                "imagenet_paper",
                "batch_size: 32",
                "rms_decay",
            ],
        ),
        ("tune", ["space:", "trials: 20", "Takes the keys of train as well"]),
        ("eval", ["dataset=coco|folder|imagenet|shapes|voc|yolo", "checkpoint:", "batch_size: 32"]),
        ("predict", ["images:", "output: predictions"]),
        ("convert", ["source:", "keep_background:"]),
        (
            "average",
            ["models:", "greedy: false", "batch_norm: average", "dataset=coco|folder|imagenet|shapes|voc|yolo"],
        ),
        ("check", ["dataset=coco|folder|imagenet|shapes|voc|yolo", "output: check", "image_size: null", "status"]),
        ("benchmark", ["task:", "threads", "data:"]),
        ("reproduce", ["table:", "latency:", "evaluate:"]),
    ],
)
def test_help_shows_groups_and_options(command: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    out, err = capsys.readouterr()
    assert f"  mnv2vision {command}" in out
    assert [word for word in words if word not in out] == []
    assert err == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_what_was_typed(command: str) -> None:
    tool = ROOT / f"tools/{command}.py"
    assert len(tool.read_text().splitlines()) <= 20
    out = subprocess.run([sys.executable, str(tool), "--help"], capture_output=True, text=True, check=True).stdout
    assert f"  python tools/{command}.py" in out
    assert "mnv2vision" not in out.replace("mnv2vision is faster", "")


def test_help_explains_options(capsys: pytest.CaptureFixture[str]) -> None:
    """The comments of the files that the configuration is composed of, and of no others."""
    main(["train", "task=segmentation", "dataset=voc", "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert "  workers: null                # reading processes; null: half the cores, at most 8" in lines
    assert any(line.startswith("  head: null ") and line.endswith("# aspp | lraspp (MobileNetV3's)") for line in lines)
    assert any(line.startswith("  void: 255 ") and "# masks:" in line for line in lines)
    assert any(line.startswith("  padding: null ") and line.endswith("# symmetric | tf") for line in lines)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{mv.__version__}\n"


def test_help_follows_the_choice_of_a_group(capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "backbone=mobilenet_v3_small", "recipe=imagenet_paper", "--help"])
    out = capsys.readouterr().out
    assert "minimalistic" in out
    assert "name: rmsprop_tf" in out
    assert main(["train", "recipe=imagenet", "--help"]) == 2


# ---- keys and values ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["optimizer.learning_rate=1"],
            "unknown key optimizer.learning_rate; did you mean optimizer.layer_rates? (valid: optimizer.name,",
        ),
        (["datset=voc"], "unknown key datset; did you mean dataset?"),
        (["lodaer.batch_size=4"], "unknown key lodaer.batch_size; did you mean loader.batch_size?"),
        (["loader.batchsize=4"], "did you mean loader.batch_size?"),
        (["+loader.shuffle=true"], "unknown key loader.shuffle"),
        (["optimizer={lrr: 0.1}"], "unknown key optimizer.lrr; did you mean optimizer.lr?"),
        (["batch_size"], "key=value"),
        (["=3"], "unknown key"),
        (
            ["loader.batch_size=many"],
            "loader.batch_size=many: loader.batch_size takes a whole number in 1..1048576 or auto, not many",
        ),
        (["loader.batch_size=2.5"], "loader.batch_size takes a whole number"),
        (["loader.batch_size=true"], "loader.batch_size takes a whole number"),
        (["loader.batch_size=null"], "loader.batch_size takes a whole number"),
        (["loader.workers=few"], "loader.workers takes a whole number"),
        (["optimizer.lr=high"], "optimizer.lr takes a number"),
        (["optimizer.lr=[0.1]"], "optimizer.lr takes a number"),
        (["optimizer=sgd"], "optimizer is a section; set one of name, lr"),
        (["dataset.name=voc"], "dataset.name=voc: choose with dataset="),
        (["optimizer.name={sgd: 1}"], "optimizer.name takes a word"),
        (["optimizer.name=[sgd]"], "optimizer.name takes a word"),
        (["channels_last=1"], "channels_last takes true or false"),
        (["loggers=tensorboard"], "loggers takes a list"),
        (["backbone.width=wide"], "backbone.width takes a number"),
        (["seed=1,2"], "one value at a time"),
        (["optimizer.name=sgd,adamw"], "one value at a time"),
        (["run_dir=${nowhere}"], "nowhere"),
        (["~loader.workers"], "keys cannot be removed"),
        (["~optimizer"], "keys cannot be removed"),
        (["task=cooking"], "task=cooking is unknown; valid: classification"),
        (["dataset=cifar"], "dataset=cifar is unknown; valid: coco, folder, imagenet, shapes, voc"),
        (["backbone=resnet"], "backbone=resnet is unknown; valid: mobilenet_v1, mobilenet_v2"),
        (["recipe=paper"], "recipe=paper is unknown; valid: ablation, deeplab_coco_pretrain, "),
        (["recipe=finetune", "augmentation.flop=1"], "augmentation.flop; did you mean augmentation.flip?"),
    ],
)
def test_keys_and_values(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], place: Path) -> None:
    assert message in refusal(["train", *arguments], capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optimizer.name=lion"], "optimizer.name='lion' is unknown; valid: sgd, rmsprop_tf, adamw"),
        (["optimizer.lr=-1"], "lr=-1"),
        (["schedule.name=step"], "schedule.name='step' is unknown"),
        (["loader.batch_size=0"], "loader.batch_size=0"),
        (["loader.workers=-1"], "loader.workers=-1"),
        (["backbone.width=0"], "width=0"),
        (["backbone.padding=same"], "padding='same' is unknown; valid: symmetric, tf"),
        (["backbone.output_stride=5"], "output_stride=5"),
        (["model.num_classes=3"], "model.num_classes=3, but the data set has 6 classes"),
        (["model.image_size=big"], "image_size="),
        (["model.image_size=[1,2,3]"], "image_size="),
        (["model.image_size=1.5"], "image_size=1.5"),
        (["model.dropout=2"], "dropout=2"),
        (["preprocessing.resize=squash"], "resize='squash' is unknown; valid: crop, stretch"),
        (["augmentation.rand_augment=99"], "rand_augment=99"),
        (["augmentation.crop_scale=[1]"], "augmentation"),
        (["augmentation.crop_scale=[0,7]"], "augmentation"),
        (["augmentation.flip=3"], "augmentation"),
        (["loss.label_smoothing=2"], "label_smoothing=2"),
        (["data.on_error=ignore"], "on_error='ignore' is unknown; valid: raise, skip"),
        (["loggers=[paper]"], "loggers: 'paper' is unknown; valid: tensorboard, wandb, mlflow"),
        (["trainer.accelerator=quantum"], "trainer.accelerator=quantum: trainer.accelerator takes "),
        (["trainer.precision=17"], "trainer.precision=17: trainer.precision takes "),
        (["trainer.max_epochs=-7"], "trainer.max_epochs=-7: trainer.max_epochs takes "),
        (["+trainer.speed=fast"], "trainer: "),
        (["trainer.devices=nine"], "trainer.devices=nine: trainer.devices takes "),
        (["trainer.accelerator=tpu"], "trainer.accelerator takes auto, cpu, gpu, cuda, mps, not tpu"),
        (["trainer.precision=bf16-true"], "trainer.precision takes auto, 32, 32-true, bf16-mixed, 16-mixed, not bf16"),
        (["trainer.devices=100000"], "trainer.devices takes auto or a whole number in 1.."),
        (["trainer.devices=0"], "trainer.devices=0"),
        (["trainer.limit_train_batches=0"], "trainer.limit_train_batches takes a whole number in 1.."),
        (["trainer.limit_train_batches=-0.5"], "trainer.limit_train_batches takes"),
        (
            ["trainer.limit_val_batches=0.5"],
            "trainer.limit_val_batches=0.5 of 1 batch is less than one batch; give a share of 1 or more",
        ),
        (
            ["trainer.limit_train_batches=0.3"],
            "trainer.limit_train_batches=0.3 of 2 batches is less than one batch; give a share of 0.5",
        ),
        (["+trainer.max_time=1.5"], "trainer: "),
        (["+trainer.callbacks=1"], "trainer: callbacks cannot be set"),
        (["loader.workers=1_000_000"], "loader.workers takes a whole number in 0.."),
        (["ema.decay=nan"], "ema.decay takes a number of 0 or more and below 1, not nan"),
        (["ema.decay=2"], "ema.decay takes a number of 0 or more and below 1, not 2"),
        (["optimizer.lr=inf"], "optimizer.lr takes a number of 0 or more or auto, not inf"),
        (["optimizer.lr=nan"], "optimizer.lr takes"),
        (["seed=-1"], "seed takes a whole number in 0..4294967295, not -1"),
        (["preprocessing.mean=[0.5]"], "preprocessing.mean takes a list of 3 values, each a number"),
        (["preprocessing.std=[1,0,1]"], "preprocessing.std takes a list of 3 values"),
        (["backbone.norm_eps=-1"], "backbone.norm_eps takes a number of 1 or less and above 0"),
        (["early_stopping.patience=-3"], "early_stopping.patience takes a whole number in 1.."),
        (
            ["augmentation.scale_step=1e-320", "task=segmentation"],
            "augmentation.scale_step takes 0 or a number in 0.001",
        ),
        (["schedule.decay_epochs=0"], "schedule.decay_epochs takes"),
        (["init_from=absent.safetensors"], "absent.safetensors: no such model file"),
        (["init_from=junk.safetensors"], "junk.safetensors: corrupt, or not a safetensors file"),
        (["resume=absent.ckpt"], "resume=absent.ckpt: no such checkpoint"),
        (["resume=junk.ckpt"], "resume=junk.ckpt: not a checkpoint"),
    ],
)
def test_values_that_cannot_work(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], place: Path
) -> None:
    common = ["dataset.train_size=8", "dataset.val_size=4", "loader.workers=0", "loader.batch_size=4", "run_dir=runs/x"]
    assert message in refusal(["train", *common, *arguments], capsys)


def test_numbers_as_names_of_files(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    assert "007: no such file, and no published weights" in refusal(["train", "init_from=007", "run_dir=2024"], capsys)
    assert "2012: the data set's root" in refusal(["train", "dataset=imagenet", "dataset.root=2012"], capsys)


# ---- data ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "dataset=imagenet needs dataset.root=<folder"),
        (["dataset.root=nowhere"], "nowhere: the data set's root folder does not exist"),
        (["dataset.root=photos", "dataset.train_split=training"], "no split 'training'; folders found: train"),
        (["dataset.root=photos", "dataset.classes=[ant,cow]"], "no class cow; the classes are: ant, bee"),
        (["dataset.root=photos", "dataset.classes=ant"], "dataset.classes takes a list"),
        (["dataset.root=bare"], "no class folders and no images"),
        (["dataset.root=hollow"], "no images in cow"),
        (["dataset.root=differing"], "the splits have different classes: cow only in train; bee only in val"),
        (
            ["dataset.root=photos", "init_from=none", "model.num_classes=5"],
            "model.num_classes=5, but the data set has 2 classes",
        ),
    ],
)
def test_data(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], place: Path) -> None:
    for split in ("train", "val"):
        (place / "bare" / split).mkdir(parents=True)
        images(place / "hollow" / split, "ant/1.jpg")
        (place / "hollow" / split / "cow").mkdir()
        images(place / "differing" / split, "ant/1.jpg", f"{'cow' if split == 'train' else 'bee'}/1.jpg")
    line = refusal(["train", "dataset=imagenet", "run_dir=runs/x", "loader.workers=0", *arguments], capsys)
    assert message in line


def test_a_damaged_image_during_training(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    broken = place / "photos/train/bee/1.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    small = [
        "init_from=none",
        "backbone.width=0.35",
        "model.image_size=32",
        "loader.batch_size=2",
        "trainer.max_epochs=1",
        "loggers=[]",
    ]
    arguments = ["train", "dataset=imagenet", "dataset.root=photos", "run_dir=run", "loader.workers=0", *small]
    assert main(arguments) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert errors == [line for line in errors if "bee/1.jpg: " in line]
    assert len(errors) == 1
    assert not (place / "run/model.safetensors").exists()
    assert not (place / "run/metrics.json").exists()


# ---- evaluation ----


@pytest.fixture
def checkpoint(place: Path, randomize: Callable[[Any], None]) -> Path:
    model = mv.create_model("classification", width=0.35, names=("ant", "bee"), image_size=32)
    randomize(model)
    mv.save(model, "model.safetensors")
    return place / "model.safetensors"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "checkpoint=<model.safetensors> is required"),
        (["checkpoint=absent.safetensors"], "absent.safetensors: no such model file"),
        (["checkpoint=junk.safetensors"], "junk.safetensors: corrupt"),
        (["checkpoint=photos"], "photos: no such model file"),
        (["checkpoint=model.safetensors", "task=segmentation"], "task=segmentation, but model.safetensors is a model"),
        (["checkpoint=model.safetensors", "dataset=imagenet"], "dataset=imagenet needs dataset.root"),
        (["checkpoint=model.safetensors"], "the model's 2 classes do not include 6 of the data set's 6: circle"),
        (["checkpoint=model.safetensors", "checkpiont=x"], "unknown key checkpiont; did you mean checkpoint?"),
        (["checkpoint=model.safetensors", "optimizer.lr=1"], "unknown key optimizer.lr"),
    ],
)
def test_evaluation(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], checkpoint: Path) -> None:
    assert message in refusal(["eval", "run_dir=runs/e", "loader.workers=0", *arguments], capsys)


def test_evaluation_writes_what_counting_gives(checkpoint: Path, place: Path) -> None:
    arguments = ["checkpoint=model.safetensors", "task=classification", "dataset=imagenet", "dataset.root=photos"]
    assert main(["eval", *arguments, "run_dir=runs/e", "loader.workers=0", "loader.batch_size=3"]) == 0
    predict = mv.Predictor(mv.load(checkpoint))
    files = sorted((place / "photos/val").rglob("*.jpg"))
    hits = [predict(path).top(1)[0][0] == path.parent.name for path in files]
    metrics = json.loads((place / "runs/e/metrics.json").read_text())
    assert metrics["top1"] == pytest.approx(sum(hits) / 4)
    assert metrics["top5"] == 1.0
    for name in ("per_class.csv", "most_confused.csv", "confusion.png", "config.yaml"):
        assert (place / "runs/e" / name).stat().st_size > 0


@pytest.mark.parametrize("dataset", ["shapes", "imagenet"])
def test_evaluation_keeps_the_models_own_input(dataset: str) -> None:
    """What a data set proposes for training must not change a model that is there."""
    config = values(load_config(Eval, [f"dataset={dataset}"]))
    assert config["model"]["image_size"] is None
    assert set(config) == {
        "checkpoint", "run", "runtime", "task", "compare", "run_dir", "seed", "model", "inference", "loader", "data",
        "dataset", "trainer"
    }  # fmt: skip


def test_weights_of_another_width(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The shapes propose width 0.5: weights of another one need a word, not a parameter's shape."""
    weights = tmp_path / "weights.safetensors"
    mv.save(mv.create_model("classification", width=0.35, num_classes=3), weights)
    assert main(["train", f"init_from={weights}", f"run_dir={tmp_path / 'run'}"]) == 2
    assert capsys.readouterr().err.strip().endswith("holds width 0.35; say backbone.width=0.35")
    assert main(["train", f"init_from={weights}", "backbone.width=0.35", f"run_dir={tmp_path / 'run'}"]) == 2
    assert capsys.readouterr().err.strip().endswith("holds depth 1.0; say backbone.depth=1.0")
