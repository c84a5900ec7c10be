"""Runs with several heads: on one data set or several, added to a finished model, taught, resumed, on two processes."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mnv2vision as mv
from mnv2vision.cli.main import main
from mnv2vision.contracts import RawDetections
from mnv2vision.data.formats.shapes import Shapes
from mnv2vision.errors import ConfigError

pytestmark = pytest.mark.slow

Train = Callable[..., int]
Start = Callable[..., "subprocess.Popen[str]"]
Capture = pytest.CaptureFixture[str]
JOINT = ("task=joint", "recipe=null", "preprocessing.resize=stretch")


def parts(*names: str, **options: Any) -> list[str]:
    """Small data sets of shapes, each for the head of its name, and unlike one another."""
    sizes = {"classification": 24, "detection": 17, "segmentation": 10}
    arguments = []
    for seed, name in enumerate(names):
        section = {"dataset": "shapes", "train_size": sizes.get(name, 9), "val_size": 9, "image_size": 48, "seed": seed}
        arguments += [f"data.{name}.{key}={value}" for key, value in {**section, **options}.items()]
    return arguments


def metrics(run: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((run / "metrics.json").read_text())
    return found


def outputs(raw: Any) -> list[torch.Tensor]:
    return [raw.box_codes, raw.class_logits] if isinstance(raw, RawDetections) else [raw]


def test_the_shapes_give_all_three(tmp_path: Path, train: Train) -> None:
    run = tmp_path / "run"
    assert train(*JOINT, "ema.decay=0.9", f"run_dir={run}") == 0
    found = metrics(run)
    assert {"classification/top1", "detection/AP", "detection/AP50", "segmentation/mIoU", "monitor"} <= set(found)
    mean = (found["classification/top1"] + found["detection/AP"] + found["segmentation/mIoU"]) / 3
    assert found["monitor"] == pytest.approx(mean)
    header = (run / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"loss", "classification/loss", "detection/loss", "cosine/classification-detection"} <= set(header)
    model = mv.load(run / "model.safetensors")
    assert set(model.heads) == {"classification", "detection", "segmentation"}
    assert model.config.heads["segmentation"].names == Shapes.mask_names
    for head in model.heads:
        assert (run / head / "per_class.csv").is_file()

    again = tmp_path / "eval"
    arguments = ["dataset.val_size=17", "dataset.image_size=48", "loader.workers=0", "trainer.accelerator=cpu"]
    arguments.append("loader.batch_size=8")  # as in training: other batches may round otherwise
    assert main(["eval", f"checkpoint={run / 'model.safetensors'}", *arguments, f"run_dir={again}"]) == 0
    assert metrics(again) == pytest.approx(found, abs=1e-6, nan_ok=True)


def test_a_data_set_for_each_head(tmp_path: Path, train: Train, start: Start, patience: float, capsys: Capture) -> None:
    """Each metric is that of the head alone on its own data; and two processes give what one gives."""
    run = tmp_path / "run"
    data = parts("classification", "detection", "segmentation")
    assert train(*JOINT, *data, "data.detection.share=2", f"run_dir={run}") == 0
    found = metrics(run)
    model = mv.load(run / "model.safetensors")
    for name, metric in (("classification", "top1"), ("detection", "AP50"), ("segmentation", "mIoU")):
        own = data[5 * list(model.heads).index(name) :][:5]
        section = {key.rpartition(".")[2]: value for key, _, value in (item.partition("=") for item in own)}
        del section["dataset"], section["train_size"]
        alone = mv.evaluate(
            model.only(name),
            **{f"dataset.{key}": int(value) for key, value in section.items()},
            **{"loader.workers": 0, "loader.batch_size": 8, "trainer.accelerator": "cpu"},
            run_dir=str(tmp_path / name),
        )
        assert found[f"{name}/{metric}"] == pytest.approx(alone[metric], abs=1e-6)
    capsys.readouterr()
    two = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.accelerator=cpu", "loader.workers=0"]
    process = start("eval", f"checkpoint={run / 'model.safetensors'}", *data, *two, f"run_dir={tmp_path / 'two'}")
    _, error = process.communicate(timeout=patience)
    assert process.returncode == 0, error
    assert metrics(tmp_path / "two") == pytest.approx(found, abs=1e-3, nan_ok=True)


def test_trained_on_two_processes(tmp_path: Path, start: Start, tiny: tuple[str, ...], patience: float) -> None:
    """No parameter is without a gradient, which DDP would report, though each image has one label."""
    more = ("trainer.devices=2", "trainer.strategy=ddp", "trainer.max_epochs=1", f"run_dir={tmp_path / 'run'}")
    own = [item for item in tiny if not item.startswith("dataset.")]
    process = start("train", *JOINT, *own, *parts("classification", "detection", "segmentation"), *more)
    _, error = process.communicate(timeout=patience)
    assert process.returncode == 0, error
    assert "monitor" in metrics(tmp_path / "run")


@pytest.mark.parametrize("balance", ["fixed", "uncertainty", "gradient"])
def test_resumed_to_the_bit(balance: str, tmp_path: Path, train: Train, interrupt: Callable[..., None]) -> None:
    arguments = (
        *JOINT,
        *parts("classification", "detection", "segmentation"),
        f"loss.balance={balance}",
        "checkpoint.every_n_steps=2",
        "trainer.max_epochs=3",
    )
    assert train(*arguments, f"run_dir={tmp_path / 'whole'}") == 0
    interrupt((0, 3), (1, 1), (1, "validation"), (2, 2))
    with pytest.raises(InterruptedError):
        train(*arguments, f"run_dir={tmp_path / 'cut'}")
    for _ in range(10):
        try:
            assert train(f"resume={tmp_path / 'cut/checkpoints/last.ckpt'}") == 0
            break
        except InterruptedError:
            continue
    states = [mv.load(tmp_path / run / "model.safetensors").state_dict() for run in ("whole", "cut")]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    tables = [(tmp_path / run / "metrics.csv").read_text() for run in ("whole", "cut")]
    assert tables[0] == tables[1]


def test_a_head_added_to_a_finished_model(tmp_path: Path, train: Train, capsys: Capture) -> None:
    """What the model answered, it still answers, to the bit; the new head is trained."""
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    assert train("task=classification", "recipe=null", f"run_dir={first}") == 0
    start = first / "model.safetensors"
    more = ("task=segmentation", f"add_to={start}", "optimizer.lr=0.01")
    assert train(*more, "backbone.width=null", "model.image_size=null", f"run_dir={second}") == 0
    assert "mIoU" in metrics(second)
    again = ("task=classification", f"add_to={second / 'model.safetensors'}", "add_as=kind")
    assert train(*again, "backbone.width=null", "model.image_size=null", f"run_dir={third}") == 0
    old, new = mv.load(start), mv.load(third / "model.safetensors")
    assert set(new.heads) == {"classification", "segmentation", "kind"}
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        raw: Any = new(images)
        middle: Any = mv.load(second / "model.safetensors")(images)
        assert torch.equal(raw["classification"], old(images))
        assert torch.equal(raw["segmentation"], middle["segmentation"])
    assert not torch.equal(raw["kind"], raw["classification"])
    capsys.readouterr()
    for given, message in (
        (("task=classification",), "it has a head classification; give the new one a name: add_as=<name>"),
        (("task=detection", "backbone.width=0.5"), "backbone.width=0.5, but"),
        (("task=detection", "backbone.width=null", "model.image_size=64"), "model.image_size=64, but"),
        (("task=detection", "init_from=x"), "init_from=x: add_to trains the head alone"),
        (("task=detection", "heads=[detection]"), "heads=[detection] are for task=joint, not for task=detection"),
        (("task=joint",), "adds one head: give its task=, not task=joint"),
    ):
        size = () if any("image_size" in item for item in given) else ("model.image_size=null",)
        assert train(*given, *size, f"add_to={start}", f"run_dir={tmp_path / 'no'}") == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_an_addition_resumed(tmp_path: Path, train: Train, interrupt: Callable[..., None]) -> None:
    model = mv.create_model("classification", names=Shapes.names, width=0.35, image_size=32)
    mv.save(model, tmp_path / "start.safetensors")
    more = ("task=segmentation", f"add_to={tmp_path / 'start.safetensors'}", "model.image_size=null")
    arguments = (*more, "backbone.width=null", "checkpoint.every_n_steps=2")
    assert train(*arguments, f"run_dir={tmp_path / 'whole'}") == 0
    interrupt((1, 3))
    with pytest.raises(InterruptedError):
        train(*arguments, f"run_dir={tmp_path / 'cut'}")
    assert train(f"resume={tmp_path / 'cut/checkpoints/last.ckpt'}") == 0
    files = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("whole", "cut")]
    assert files[0] == files[1]


def test_a_deeper_head_brings_its_own_layers(tmp_path: Path, train: Train) -> None:
    """A segmentation model has no layers of 1280 channels, which a classifier stands on."""
    model = mv.create_model("segmentation", names=Shapes.mask_names, width=0.35, image_size=32)
    mv.save(model, tmp_path / "start.safetensors")
    more = ("task=classification", f"add_to={tmp_path / 'start.safetensors'}", "model.image_size=null")
    assert train(*more, "backbone.width=null", f"run_dir={tmp_path / 'run'}") == 0
    joint = mv.load(tmp_path / "run/model.safetensors")
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        raw: Any = joint(images)
        assert torch.equal(raw["segmentation"], model.eval()(images))
    fresh = mv.create_model("classification", names=Shapes.names, width=0.35, image_size=32)
    assert "last.conv.weight" in dict(fresh.backbone.named_parameters())
    assert joint.backbone.get_buffer("last.norm.num_batches_tracked") > 0


def test_a_head_without_a_label_is_taught(tmp_path: Path, train: Train) -> None:
    teacher = mv.create_model("segmentation", names=("background", "thing"), width=0.35, image_size=32).eval()
    mv.save(teacher, tmp_path / "teacher.safetensors")
    taught = (f"teachers.segmentation={tmp_path / 'teacher.safetensors'}", *parts("classification", "detection"))
    assert train(*JOINT, *taught, f"run_dir={tmp_path / 'run'}") == 0
    model = mv.load(tmp_path / "run/model.safetensors")
    assert model.config.heads["segmentation"].names == ("background", "thing")
    assert not any(name.startswith("segmentation/m") for name in metrics(tmp_path / "run"))
    assert "segmentation/loss" in (tmp_path / "run/metrics.csv").read_text()


def test_a_teacher_of_labelled_data(tmp_path: Path, train: Train, capsys: Capture) -> None:
    teacher = mv.create_model("classification", names=Shapes.names, width=0.35, image_size=32).eval()
    mv.save(teacher, tmp_path / "teacher.safetensors")
    taught = ("heads=[classification]", f"teachers.classification={tmp_path / 'teacher.safetensors'}")
    assert train(*JOINT, *taught, f"run_dir={tmp_path / 'run'}") == 0
    remark = "teachers.classification: all images have labels for the head, so that its teacher is not asked"
    assert capsys.readouterr().err.count(remark) == 1  # of two epochs


def test_a_folder_of_photos_is_for_teachers(
    tmp_path: Path, train: Train, tiny: tuple[str, ...], capsys: Capture
) -> None:
    """It has no validation part, and serves no head; a resumed run and an evaluation find it as it was."""
    teacher = mv.create_model("segmentation", names=("background", "thing"), width=0.35, image_size=32).eval()
    mv.save(teacher, tmp_path / "teacher.safetensors")
    (tmp_path / "photos/below").mkdir(parents=True)
    for number in range(9):
        picture = Image.fromarray(np.random.default_rng(number).integers(0, 255, (40, 50, 3), np.uint8))
        picture.save(tmp_path / f"photos/{'below' if number % 2 else '.'}/{number}.png")
    photos = ("data.photos.dataset=folder", f"data.photos.root={tmp_path / 'photos'}")
    heads = ("heads=[classification,segmentation]", f"teachers.segmentation={tmp_path / 'teacher.safetensors'}")
    run = tmp_path / "run"
    assert train(*JOINT, *heads, *parts("classification"), *photos, f"run_dir={run}") == 0
    assert "segmentation/loss" in (run / "metrics.csv").read_text()
    assert "of photos; an epoch has as many images as they have together" in capsys.readouterr().err
    assert train(f"resume={run / 'checkpoints/last.ckpt'}", "trainer.max_epochs=3") == 0
    data = (*parts("classification"), *photos, "loader.workers=0", "trainer.accelerator=cpu")
    assert main(["eval", f"checkpoint={run / 'model.safetensors'}", *data, f"run_dir={tmp_path / 'eval'}"]) == 0

    capsys.readouterr()
    alone = "no labels (images for a teacher, beside a data set with labels)"
    for arguments, message in (
        (("task=detection", "dataset=folder"), f"dataset=folder offers {alone}, but the task needs boxes, which coco"),
        ((*JOINT, *heads, "dataset=folder"), f"dataset=folder has {alone}, which none of the heads classification, s"),
        ((*JOINT, *heads, *photos), f"data: the samples have {alone}, but the task needs label, mask"),
        ((*JOINT, *heads, *photos, "data.photos.heads=[segmentation]"), f"dataset=folder offers {alone}, but the"),
    ):
        given = [f"dataset.root={tmp_path / 'photos'}"] if "dataset=folder" in arguments else []
        own = [item for item in tiny if not item.startswith("dataset.")]
        assert main(["train", *own, *arguments, *given, "recipe=null", f"run_dir={tmp_path / 'no'}"]) == 2
        assert message in (error := capsys.readouterr().err)
        assert error.count("\n") == 1
    model = mv.load(run / "model.safetensors").only("classification")
    with pytest.raises(ConfigError, match=r"dataset=folder offers no labels \(images"):
        mv.evaluate(model, dataset="folder", **{"dataset.root": tmp_path / "photos"}, run_dir=str(tmp_path / "no"))
    assert not (tmp_path / "no").exists()


def test_labels_that_are_for_evaluation_alone(tmp_path: Path, train: Train) -> None:
    """The classes are the teacher's; the annotations of the data set, some of them, measure what was learned."""
    names = ("background", *reversed(Shapes.names), "more")
    teacher = mv.create_model("segmentation", names=names, width=0.35, image_size=32).eval()
    mv.save(teacher, tmp_path / "teacher.safetensors")
    data = (*parts("classification"), *parts("segmentation", labels="false"))
    more = ("heads=[classification,segmentation]", f"teachers.segmentation={tmp_path / 'teacher.safetensors'}")
    assert train(*JOINT, *data, *more, f"run_dir={tmp_path / 'run'}") == 0
    assert mv.load(tmp_path / "run/model.safetensors").config.heads["segmentation"].names == names
    assert "segmentation/mIoU" in metrics(tmp_path / "run")


def voc_boxes(root: Path, names: list[str]) -> None:
    """A data set of VOC's layout: in each photo one object of each class."""
    rng = np.random.default_rng(len(names))
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / "VOC2012" / folder).mkdir(parents=True)
    for index in range(6):
        Image.fromarray(rng.integers(0, 256, (48, 48, 3), np.uint8)).save(root / f"VOC2012/JPEGImages/{index}.jpg")
        objects = "".join(
            f"<object><name>{name}</name><bndbox><xmin>{4 + 20 * i}</xmin><ymin>5</ymin><xmax>{20 + 20 * i}</xmax>"
            "<ymax>40</ymax></bndbox></object>"
            for i, name in enumerate(names)
        )
        size = "<size><width>48</width><height>48</height><depth>3</depth></size>"
        (root / f"VOC2012/Annotations/{index}.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    for split in ("train", "val"):
        (root / f"VOC2012/ImageSets/Main/{split}.txt").write_text("\n".join(map(str, range(6))))


def test_an_unreadable_photo_is_skipped_by_all(tmp_path: Path, train: Train, capsys: Capture) -> None:
    """By training, by evaluation, and by the pictures at the end; it is told of once."""
    voc_boxes(tmp_path / "a", ["lynx"])
    photo = tmp_path / "a/VOC2012/JPEGImages/0.jpg"
    photo.write_bytes(photo.read_bytes()[:-200])
    data = (*parts("classification"), "data.a.dataset=voc", f"data.a.root={tmp_path / 'a'}")
    own = ("heads=[classification,detection]", "trainer.max_epochs=1")
    assert train(*JOINT, *data, *own, f"run_dir={tmp_path / 'raised'}") == 2
    assert "0.jpg: damaged or truncated" in capsys.readouterr().err
    assert train(*JOINT, *data, *own, "data.on_error=skip", f"run_dir={tmp_path / 'skipped'}") == 0
    assert capsys.readouterr().err.count("0.jpg: damaged or truncated") == 1
    assert "detection/mAP" in metrics(tmp_path / "skipped")


def test_two_data_sets_of_one_head(tmp_path: Path, train: Train) -> None:
    """Their classes are united by name, and each is measured by itself."""
    voc_boxes(tmp_path / "a", ["lynx", "newt"])
    voc_boxes(tmp_path / "b", ["eel", "newt"])
    data = [
        item
        for name in ("a", "b")
        for item in (
            f"data.{name}.dataset=voc",
            f"data.{name}.root={tmp_path / name}",
            f"data.{name}.heads=[detection]",
        )
    ]
    own = ("heads=[detection]", "trainer.max_epochs=1")
    assert train(*JOINT, *data, *own, f"run_dir={tmp_path / 'run'}") == 0
    assert mv.load(tmp_path / "run/model.safetensors").names == ("lynx", "newt", "eel")
    assert {"a/mAP", "b/mAP"} <= set(metrics(tmp_path / "run"))


class Photos:
    """Own photos: two of three have a label, and one of them boxes, if any."""

    names = ("a", "b")

    def __init__(self, *, boxes: bool) -> None:
        self.boxes = boxes

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> mv.Sample:
        sample = Shapes("train", 12, 48, targets=("label", "boxes"))[index]
        assert sample.boxes is not None
        few = mv.Boxes.of(sample.boxes.boxes[:1], [index % 2])
        kept = few if index % 3 == 0 and self.boxes else None
        return mv.Sample(sample.image, index, f"{index}", label=index % 2 if index % 3 else None, boxes=kept)


def test_own_photos_of_which_each_has_some_labels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options: dict[str, Any] = {"backbone.width": 0.35, "model.image_size": 64, "loader.batch_size": 4, "loggers": []}
    options |= {"heads": ["classification", "detection"], "recipe": None, "trainer.accelerator": "cpu"}
    options |= {"loader.workers": 0, "init_from": "none", "trainer.precision": "32"}
    run = mv.train("joint", (Photos(boxes=True), Photos(boxes=True)), epochs=1, run_dir=tmp_path / "a", **options)
    assert {"classification/top1", "detection/AP"} <= set(run.metrics)
    assert "learned nothing" not in caplog.text
    again = mv.evaluate(run.model, Photos(boxes=True), **{"loader.workers": 0, "run_dir": str(tmp_path / "b")})
    assert again["detection/AP"] == pytest.approx(run.metrics["detection/AP"], abs=1e-6)
    with pytest.raises(ConfigError, match="the samples have label, but the task needs boxes"):
        mv.train("joint", (Photos(boxes=False), Photos(boxes=True)), run_dir=tmp_path / "c", **options)


class OneBox(Photos):
    """Of 40 photos one has boxes, which the first batch does not have."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> mv.Sample:
        sample = Shapes("train", 40, 48, targets=("label", "boxes"))[index]
        return mv.Sample(sample.image, index, "", label=sample.label, boxes=sample.boxes if index == 7 else None)

    names = Shapes.names


def test_an_epoch_without_a_label(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options: dict[str, Any] = {"backbone.width": 0.35, "model.image_size": 64, "loader.batch_size": 4, "loggers": []}
    options |= {"heads": ["classification", "detection"], "recipe": None, "trainer.accelerator": "cpu"}
    options |= {"loader.workers": 0, "init_from": "none", "trainer.limit_train_batches": 1}
    data = OneBox(boxes=True)
    mv.train("joint", (data, data), epochs=1, run_dir=tmp_path / "run", **options)
    assert "epoch 1: no image had labels for the head detection, which learned nothing" in caplog.text
    assert "head classification" not in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (parts("classification"), "no data set serves the head detection: give data.detection.dataset= or teachers."),
        (["heads=[classification,faces]"], "heads: 'faces' is unknown; valid: classification, detection, segmentation"),
        (["heads=[detection,detection]"], "heads: detection is given twice; name one of them, such as faces:detection"),
        (["heads=[detection,more:detection]"], "heads: shapes could serve detection and more: say which, such as"),
        (["data.x.root=a"], "data.x: give data.x.dataset= as well (valid: coco, folder, imagenet, shapes, voc, yolo)"),
        (["data.x.dataset=cifar"], "data.x.dataset=cifar is unknown; valid: coco, folder, imagenet, shapes, voc, yolo"),
        (["data.x.dataset=shapes", "data.x.heads=[faces]"], "data.x.heads: there is no head 'faces'; valid: class"),
        (["data.x.dataset=shapes", "loader.batch_size=1", *parts("detection")], "each batch has images of all 2"),
        (["loss.balance=magic"], "loss.balance='magic' is unknown; valid: fixed, uncertainty, gradient"),
        (["loss.weights.faces=1"], "unknown key loss.weights.faces"),
        (["recipe=shapes", "heads=[detection]", "model.segmentation.head=aspp"], "unknown key model.segmentation.head"),
        (["model.num_classes=3"], "model.num_classes is for one head"),
        (["teachers.detection=none.safetensors"], "none.safetensors"),
        (["preprocessing.resize=crop"], "preprocessing.resize=crop would cut off objects"),
        (["add_as=faces"], "add_as=faces: names the head that add_to=<a model> adds"),
        (["dataset=shapes", *parts("detection")], "dataset=shapes: data.detection names data sets: name this one, too"),
        ([*parts("detection"), "dataset.train_size=3"], "dataset.train_size=3: data.detection names data sets"),
        (["heads=[detection]", *parts("detection"), *parts("x", heads="[]")], "data.x: no head learns from its annot"),
        (["data.alpha.dataset=shapes"], "data.alpha is an option of its own: no head or data set can have the name"),
        (["heads=[image_size:detection]"], "model.image_size is an option of its own"),
        (["heads=[balance:detection]"], "loss.balance is an option of its own"),
        (["heads=[weights:detection]"], "loss.weights is an option of its own"),
        (["heads=[detection]", "monitor.detection=0"], "monitor: all heads have the weight 0"),
        (["heads=['a.b:detection']"], "'a.b' cannot be the name of a head"),
        (["task=detection", "heads=[detection]"], "heads=[detection] are for task=joint, not for task=detection"),
    ],
)
def test_what_cannot_be_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, train: Train, capsys: Capture
) -> None:
    assert train(*JOINT, *arguments, f"run_dir={tmp_path / 'run'}") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "run").exists()


def test_predictions_of_several_heads(tmp_path: Path) -> None:
    names = {"classification": Shapes.names, "detection": Shapes.names, "segmentation": Shapes.mask_names}
    joint = mv.create_model({name: {"names": own} for name, own in names.items()}, width=0.35, image_size=64)
    mv.save(joint, tmp_path / "joint.safetensors")
    Image.fromarray(Shapes("val", 1, 96)[0].image).save(tmp_path / "photo.png")
    output = tmp_path / "out"
    arguments = [f"checkpoint={tmp_path / 'joint.safetensors'}", f"images={tmp_path / 'photo.png'}", f"output={output}"]
    assert main(["predict", *arguments, "threshold=0", "runtime=torch"]) == 0
    (told,) = json.loads((output / "predictions.json").read_text())
    answers = mv.Predictor(joint, score_threshold=0.0, runtime="torch")(str(tmp_path / "photo.png"))
    alone = mv.Predictor(joint.only("detection"), score_threshold=0.0, runtime="torch")(str(tmp_path / "photo.png"))
    assert len(told["detection"]["objects"]) == len(answers.detection) == len(alone)  # type: ignore[union-attr,arg-type]
    assert set(told) == {"image", *names}
    assert {path.name for path in output.iterdir()} == {
        "counts.csv",
        "photo.png.jpg",
        "photo.png.mask.png",
        "predictions.json",
        *(f"predictions_{name}.csv" for name in names),
    }
    assert set(answers) == set(names)  # type: ignore[arg-type]
