"""Runs of detection and segmentation: on the built-in shapes, and on folders of a user's own."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

import mnv2vision as mv
from mnv2vision.cli.main import main
from mnv2vision.common import draw
from mnv2vision.data.formats.shapes import Shapes
from mnv2vision.weights import file

pytestmark = pytest.mark.slow

Train = Callable[..., int]
Start = Callable[..., "subprocess.Popen[str]"]
Capture = pytest.CaptureFixture[str]

OWN = (
    "backbone.width=0.35",
    "model.image_size=64",
    "loader.batch_size=4",
    "loader.workers=0",
    "trainer.accelerator=cpu",
    "trainer.precision=32",
    "trainer.max_epochs=1",
    "optimizer.lr=0.01",
    "loggers=[]",
)
COCO_KEYS = {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"}
KEYS = {"detection": COCO_KEYS, "segmentation": {"mIoU", "mIoU_present", "pixel_accuracy", "mean_accuracy"}}


def metrics(run: Path) -> dict[str, float]:
    values: dict[str, float] = json.loads((run / "metrics.json").read_text())
    return values


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    """A data set of VOC's layout with boxes and masks of shapes; its classes are none of VOC's."""
    source = Shapes("train", 12, image_size=64)
    folder = tmp_path / "devkit" / "VOC2012"
    for name in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Main", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    for index in range(12):
        sample = source[index]
        assert sample.boxes is not None
        assert sample.mask is not None
        Image.fromarray(sample.image).save(folder / f"JPEGImages/{index}.jpg", quality=95)
        draw.label_image(sample.mask).save(folder / f"SegmentationClass/{index}.png")
        root = ElementTree.Element("annotation")
        for box, label in zip(sample.boxes.boxes, sample.boxes.labels, strict=True):
            item = ElementTree.SubElement(root, "object")
            ElementTree.SubElement(item, "name").text = source.names[label]
            sides = ElementTree.SubElement(item, "bndbox")
            for name, value in zip(("xmin", "ymin", "xmax", "ymax"), np.add(box, (1, 1, 0, 0)), strict=True):
                ElementTree.SubElement(sides, name).text = str(int(value))
        ElementTree.ElementTree(root).write(folder / f"Annotations/{index}.xml")
    for kind in ("Main", "Segmentation"):
        (folder / f"ImageSets/{kind}/train.txt").write_text("\n".join(map(str, range(7))))
        (folder / f"ImageSets/{kind}/val.txt").write_text("\n".join(map(str, range(7, 12))))
    return tmp_path / "devkit"


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_shapes_from_training_to_prediction(tmp_path: Path, train: Train, task: str, capsys: Capture) -> None:
    run = tmp_path / "run"
    assert train(f"task={task}", f"run_dir={run}") == 0
    assert set(metrics(run)) == KEYS[task]
    if task == "detection":  # no shape on 48 x 48 pixels is large: nothing could be measured
        assert metrics(run)["APl"] is metrics(run)["ARl"] is None
    assert {"model.safetensors", "metrics.csv", "per_class.csv", "config.yaml", "checkpoints"} <= {
        path.name for path in run.iterdir()
    }
    model = str(run / "model.safetensors")
    common = ("dataset.image_size=48", "dataset.val_size=17", "loader.workers=0", "trainer.accelerator=cpu")
    common += ("loader.batch_size=8",)  # the run's: other shapes round otherwise, and such scores are nearly equal
    assert main(["eval", f"task={task}", f"checkpoint={model}", f"run_dir={tmp_path / 'eval'}", *common]) == 0
    assert metrics(tmp_path / "eval") == pytest.approx(metrics(run), abs=1e-3)
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(3):
        Image.fromarray(Shapes("val", 3, image_size=70)[index].image).save(photos / f"{index}.png")
    output = tmp_path / "output"
    arguments = [f"checkpoint={model}", f"images={photos}", f"output={output}", "threshold=0.01", "device=cpu"]
    assert main(["predict", *arguments]) == 0
    assert len(json.loads((output / "predictions.json").read_text())) == 3
    first = (output / "predictions.csv").read_text().splitlines()[0]
    assert first == {"detection": "image,name,score,x1,y1,x2,y2", "segmentation": "image,name,share"}[task]
    if task == "segmentation":
        with Image.open(output / "0.png.mask.png") as mask:
            assert mask.size == (70, 70)
            predicted = mv.Predictor(mv.load(model), device="cpu")(str(photos / "0.png")).mask
            assert (np.asarray(mask) == predicted).mean() >= 0.999  # but where two classes are alike


@pytest.mark.parametrize("task", ["classification", "detection", "segmentation"])
def test_a_picture_of_the_first_batches(tmp_path: Path, task: str, capsys: Capture) -> None:
    run = tmp_path / "run"
    arguments = [f"task={task}", f"run_dir={run}", "debug=batch", "dataset.train_size=30", "dataset.val_size=2"]
    assert main(["train", *arguments, "loader.workers=0"]) == 0
    assert [path.name for path in run.iterdir()] == ["batch.png"]
    with Image.open(run / "batch.png") as picture:
        assert min(picture.size) > 300
    assert main(["train", *arguments[:2], "debug=everything"]) == 2
    assert "debug=everything is unknown; valid: batch" in capsys.readouterr().err


def test_masks_in_which_nothing_counts(tmp_path: Path, devkit: Path, capsys: Capture) -> None:
    """No pixel of the validation part counts: there are no figures, and early stopping has nothing to go by."""
    for name in (devkit / "VOC2012/ImageSets/Segmentation/val.txt").read_text().split():
        Image.new("L", (64, 64), 255).save(devkit / f"VOC2012/SegmentationClass/{name}.png")
    names = "[background,circle,square,triangle,star,ring,cross]"
    data = ["task=segmentation", "dataset=voc", f"dataset.root={devkit}", f"dataset.classes={names}"]
    run = tmp_path / "run"
    data += ["init_from=none"]
    assert main(["train", *data, f"run_dir={run}", *OWN, "trainer.max_epochs=3", "early_stopping.patience=2"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines.count("no pixel of the 5 masks counts (all are 255): mIoU cannot be measured") == 1
    assert "stopped early: mIoU has not improved for 2 validations" in lines
    assert metrics(run) == dict.fromkeys(KEYS["segmentation"])


@pytest.mark.parametrize(("task", "key"), [("detection", "mAP"), ("segmentation", "mIoU")])
def test_a_data_set_of_your_own_from_imagenet_weights(
    tmp_path: Path, devkit: Path, task: str, key: str, capsys: Capture
) -> None:
    torch.manual_seed(0)
    start = mv.create_model("classification", width=0.35, num_classes=5, padding="tf")
    file.save(start, tmp_path / "imagenet.safetensors")
    run = tmp_path / "run"
    # A detector finds its classes in the annotations; values of a mask have no names there.
    named = ["dataset.classes=[background,circle,square,triangle,star,ring,cross]"] if task == "segmentation" else []
    common = [f"task={task}", "dataset=voc", f"dataset.root={devkit}", *named]
    arguments = [*common, f"init_from={tmp_path / 'imagenet.safetensors'}", f"run_dir={run}", *OWN]
    assert main(["train", *arguments]) == 0
    assert f"new, for {task} instead of classification: heads.{task}." in capsys.readouterr().err
    assert key in metrics(run)
    model = mv.load(run / "model.safetensors")
    assert model.config.backbone_options["padding"] == "tf"
    assert model.preprocessing.image_size == (64, 64)
    assert model.names == (("background", *Shapes.names) if named else tuple(sorted(Shapes.names)))
    checked = [*common, f"checkpoint={run / 'model.safetensors'}", f"run_dir={tmp_path / 'eval'}"]
    assert main(["eval", *checked, "loader.workers=0", "trainer.accelerator=cpu"]) == 0
    assert metrics(tmp_path / "eval") == pytest.approx(metrics(run), abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["task=detection", "dataset=imagenet"],
            "dataset=imagenet offers label, but the task needs boxes, which coco, shapes, voc, yolo have",
        ),
        (
            ["task=classification", "dataset=voc"],
            "dataset=voc offers boxes, mask, but the task needs label, which imagenet, shapes have",
        ),
        (["task=detection", "dataset=coco"], "dataset=coco needs dataset.root="),
        (
            ["task=detection", "model.nms_iou=2"],
            "model.nms_iou takes a number of 1 or less and above 0, or null, not 2",
        ),
        (["task=detection", "preprocessing.resize=crop"], "resize=crop would cut off objects"),
        (["task=segmentation", "loss.class_weights=[1.0]"], "loss.class_weights has 1 weights for 7 classes"),
        (["task=segmentation", "model.atrous_rates=[0]"], "atrous_rates=[0]"),
        (["task=segmentation", "inference.scales=[9]"], "inference.scales=[9]"),
        (["task=segmentation", "recipe=ssdlite_voc"], "recipe=ssdlite_voc is for task=detection"),
    ],
)
def test_what_cannot_work_is_said_in_a_line(
    tmp_path: Path, arguments: list[str], expected: str, capsys: Capture
) -> None:
    assert main(["train", *arguments, f"run_dir={tmp_path / 'run'}", "dataset.train_size=4"][: len(arguments) + 2]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_data_set_without_images_leaves_nothing(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val"):
        empty = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
        (tmp_path / f"annotations/instances_{split}2017.json").write_text(json.dumps(empty))
    arguments = ["task=detection", "dataset=coco", f"dataset.root={tmp_path}", f"run_dir={tmp_path / 'run'}"]
    assert main(["train", *arguments]) == 2
    assert f"{tmp_path}: the split 'train' has no images" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("task", ["detection", "segmentation", "joint"])
def test_two_processes_give_the_figures_of_one(tmp_path: Path, start: Start, task: str, patience: float) -> None:
    """An odd number of images, so that one process has more than the other."""
    names = {"classification": Shapes.names, "detection": Shapes.names, "segmentation": Shapes.mask_names}
    torch.manual_seed(0)
    if task == "joint":
        model = mv.create_model({name: {"names": own} for name, own in names.items()}, width=0.35, image_size=64)
    else:
        model = mv.create_model(task, width=0.35, image_size=64, names=names[task])
    file.save(model, tmp_path / "model.safetensors")
    common = ["checkpoint=model.safetensors", "dataset.val_size=7", "loader.workers=0", "trainer.accelerator=cpu"]
    for name, more in (("one", []), ("two", ["trainer.devices=2", "trainer.strategy=ddp"])):
        process = start("eval", *common, f"run_dir={name}", *more)
        _, error = process.communicate(timeout=patience)
        assert process.returncode == 0, error
    assert metrics(tmp_path / "one") == pytest.approx(metrics(tmp_path / "two"), abs=1e-3)
