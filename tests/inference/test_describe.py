"""Pictures of predictions: the colour of a class on the photo, in the legend and as it was asked for."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mnv2vision as mv
from mnv2vision.cli.main import main
from mnv2vision.errors import ConfigError
from mnv2vision.inference.describe import Describer
from mnv2vision.predictions.base import Answers
from mnv2vision.predictions.classification import Classification
from mnv2vision.predictions.detection import Detection
from mnv2vision.predictions.segmentation import Segmentation

PHOTO = np.full((200, 240, 3), 100, np.uint8)
NAMES = ("background", "road", "person")
PERSON = (192, 128, 128)  # VOC's


def head(task: str, names: tuple[str, ...] = NAMES) -> Any:
    return SimpleNamespace(task=task, names=names)


def count(picture: Image.Image, color: tuple[int, ...]) -> int:
    """Pixels of just this colour."""
    return int((np.asarray(picture) == color).all(2).sum())


def test_a_legend_with_swatches() -> None:
    mask = np.zeros((200, 240), np.uint8)
    mask[:100], mask[150:, :120] = 1, 2
    describe = Describer({"main": head("segmentation")}, 5, ["road:#00ff00"])
    picture, _ = describe(PHOTO, Segmentation(mask, NAMES))
    pixels = np.asarray(picture).astype(int)
    assert np.abs(pixels[50, 50] - [40, 193, 40]).max() <= 1  # 0.4 of the photo, 0.6 of the colour
    assert np.abs(pixels[170, 50] - [155, 116, 116]).max() <= 1
    assert pixels[120, 50].tolist() == [100, 100, 100]
    # Below, by size: road, background (without a square), person; squares of twelve pixels.
    band = picture.crop((0, 200, 240, picture.height))
    assert count(band, (0, 255, 0)) == count(band, PERSON) == 13 * 13
    rows = [np.flatnonzero((np.asarray(band) == color).all(2).any(1)) for color in ((0, 255, 0), PERSON)]
    assert rows[1][0] - rows[0][0] == 2 * 17  # a line between


def test_boxes_and_classes() -> None:
    """Of several heads: the boxes have their colours, and lines without one have no square."""
    heads = {"what": head("classification", ("ant", "bee")), "where": head("detection", ("ant", "person"))}
    boxes = np.array([[20.0, 60, 100, 150], [120, 60, 220, 150]])
    answers = Answers(
        {
            "what": Classification(np.array([0.25, 0.75], np.float32), ("ant", "bee")),
            "where": Detection(boxes, np.array([0.9, 0.8]), np.array([1, 0]), ("ant", "person")),
        }
    )
    picture, _ = Describer(heads, 2, ["ant:blue"])(PHOTO, answers)
    assert count(picture, PERSON) > 500
    assert count(picture, (0, 0, 255)) > 500
    photo = 400  # PHOTO is enlarged
    assert picture.height > photo
    assert count(picture.crop((0, photo, picture.width, picture.height)), (0, 0, 255)) == 0


@pytest.mark.parametrize(
    ("task", "names", "told"),
    [
        ("detection", ("person",), "valid: person"),
        ("segmentation", NAMES, "valid: person, road"),  # the background is not drawn
        ("classification", ("ant",), "valid: none"),
    ],
)
def test_a_class_that_is_not_drawn(task: str, names: tuple[str, ...], told: str) -> None:
    with pytest.raises(ConfigError, match="no class 'x' that is drawn; " + told):
        Describer({"main": head(task, names)}, 5, ["x:red"])


def test_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = mv.create_model("segmentation", width=0.35, names=("road", "person"), image_size=64)
    mv.save(model, tmp_path / "model.safetensors")
    Image.fromarray(PHOTO).save(tmp_path / "a.png")
    command = [
        "predict",
        f"checkpoint={tmp_path}/model.safetensors",
        f"images={tmp_path}/a.png",
        f"output={tmp_path}/out",
        "device=cpu",
    ]
    assert main([*command, "colors=[road:#ff0000,person:#00f]"]) == 0
    with Image.open(tmp_path / "out/a.png.jpg") as picture:
        red, green, blue = np.asarray(picture)[:200].reshape(-1, 3).mean(0)
    assert max(red, blue) - green > 40  # all of it is road or person
    assert main([*command, "colors=raod:red"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("did you mean road?")
    assert main([*command, f"font={tmp_path}/a.png"]) == 2
    assert "a.png: cannot be read as a font; give a .ttf" in capsys.readouterr().err
    assert main([*command, "colors={road: red}"]) == 2
    assert "colors takes a list, each <class>:<colour>" in capsys.readouterr().err
