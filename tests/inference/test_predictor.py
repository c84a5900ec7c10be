"""Prediction from Python and from the command line."""

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

import mnv2vision as mv
from mnv2vision.cli.main import main
from mnv2vision.common import progress
from mnv2vision.contracts import InferenceOptions
from mnv2vision.errors import ConfigError, DataError, WeightsError
from mnv2vision.inference import files

NAMES = ("ant", "bee", "wasp", "fly", "moth", "gnat")


@pytest.fixture(scope="module")
def model(randomize: Callable[[nn.Module], None]) -> Any:
    model = mv.create_model("classification", width=0.35, names=NAMES, image_size=64)
    randomize(model)
    return model.eval()


@pytest.fixture(scope="module")
def predict(model: Any) -> mv.Predictor:
    return mv.Predictor(model, device="cpu", batch_size=3)


def photo(seed: int = 0, height: int = 90, width: int = 120) -> NDArray[np.uint8]:
    cells = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return np.array(Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC))


def test_equals_the_model(model: Any, predict: mv.Predictor) -> None:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for image in (photo(1), photo(2, 300, 50), photo(3, 20, 20)):
        x = torch.from_numpy(model.preprocessing.prepare(image)).permute(2, 0, 1)[None]
        with torch.no_grad():
            wanted = model(model.preprocessing.normalize(x)).softmax(1)[0].numpy()
        scores = predict(image).scores
        assert scores.shape == (6,)
        assert scores.dtype == np.float32
        assert np.abs(scores - wanted).max() < 1e-4
        assert wanted.max() - wanted.min() > 0.01
    # The model itself is left as it was.
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_model_in_training_is_predicted_with_as_well(model: Any, predict: mv.Predictor) -> None:
    model.train()
    try:
        again = mv.Predictor(model)
        assert model.training
    finally:
        model.eval()
    np.testing.assert_allclose(again(photo()).scores, predict(photo()).scores, rtol=1e-4, atol=1e-5)


def test_all_kinds_of_images(predict: mv.Predictor, tmp_path: Path) -> None:
    image = photo()
    Image.fromarray(image).save(tmp_path / "a.png")
    read_only = np.asarray(Image.fromarray(image))
    bgr = np.ascontiguousarray(image[..., ::-1])
    kinds = [tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(image), image, read_only, bgr[..., ::-1]]
    wanted = predict(image).scores
    for kind in kinds:
        np.testing.assert_allclose(predict(kind).scores, wanted, atol=1e-6)  # type: ignore[call-overload]
    # More than a batch, in order, like each alone.
    many = [photo(seed) for seed in range(7)]
    together = predict(list(many))
    assert isinstance(together, list)
    for one, alone in zip(together, many, strict=True):
        np.testing.assert_allclose(one.scores, predict(alone).scores, rtol=1e-4, atol=1e-5)
    assert predict([]) == []
    assert len(predict(list(kinds))) == 6


def test_files_that_are_not_plain_rgb(predict: mv.Predictor, tmp_path: Path) -> None:
    cmyk = Image.fromarray(photo()).convert("CMYK")
    cmyk.save(tmp_path / "cmyk.jpg", quality=98)
    grey = Image.fromarray(photo()).convert("L")
    grey.save(tmp_path / "grey.jpg", quality=98)
    grey.save(tmp_path / "grey.png")
    palette = Image.fromarray(photo()).quantize(64)
    palette.save(tmp_path / "palette.png")
    transparent = Image.fromarray(photo()).convert("RGBA")
    transparent.save(tmp_path / "rgba.png")
    for name, picture in (
        ("cmyk.jpg", cmyk),
        ("grey.jpg", grey),
        ("grey.png", grey),
        ("palette.png", palette),
        ("rgba.png", transparent),
    ):
        with Image.open(tmp_path / name) as opened:
            by_pillow = np.array(opened.convert("RGB"))
        assert np.abs(by_pillow.astype(int) - np.array(picture.convert("RGB"))).mean() < 3, "not inverted, say"
        np.testing.assert_allclose(predict(tmp_path / name).scores, predict(by_pillow).scores, atol=0.02)
        np.testing.assert_allclose(predict(picture).scores, predict(np.array(picture.convert("RGB"))).scores, atol=1e-6)


def test_photos_are_upright(predict: mv.Predictor, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(np.rot90(photo()).copy()).save(tmp_path / "turned.png", exif=exif)
    wanted = predict(photo()).scores
    np.testing.assert_allclose(predict(tmp_path / "turned.png").scores, wanted, atol=1e-6)
    with Image.open(tmp_path / "turned.png") as picture:
        np.testing.assert_allclose(predict(picture).scores, wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((5, 5), np.uint8), r"not uint8 \(5, 5\)"),
        (np.zeros((5, 5, 4), np.uint8), r"not uint8 \(5, 5, 4\)"),
        (np.zeros((3, 5, 5), np.uint8), r"not uint8 \(3, 5, 5\)"),
        (np.zeros((5, 5, 3), np.float32), r"not float32 \(5, 5, 3\)"),
        (np.zeros((0, 5, 3), np.uint8), r"not uint8 \(0, 5, 3\)"),
        (None, "not NoneType"),
        (("a.jpg",), "not tuple"),
        (torch.zeros(3, 5, 5), "not Tensor"),
        ("absent.jpg", r"absent\.jpg"),
        (".", r"is a folder"),
    ],
)
def test_what_is_no_image(image: Any, message: str, predict: mv.Predictor) -> None:
    with pytest.raises(DataError, match=message):
        predict(image)
    with pytest.raises(DataError, match=message):
        predict([photo(), image])


def test_top(predict: mv.Predictor) -> None:
    prediction = predict(photo())
    best = prediction.top(3)
    order = sorted(range(6), key=lambda label: -prediction.scores[label])
    assert best == [(NAMES[label], pytest.approx(prediction.scores[label])) for label in order[:3]]
    assert len(prediction.top()) == 5
    assert len(prediction.top(99)) == 6
    assert sum(score for _, score in prediction.top(99)) == pytest.approx(1, abs=1e-5)


def test_without_names() -> None:
    model = mv.create_model("classification", width=0.35, num_classes=2, image_size=32)
    assert {name for name, _ in mv.Predictor(model)(photo()).top(2)} == {"class 0", "class 1"}


# ---- the number of detections ----


@pytest.fixture(scope="module")
def detector(randomize: Callable[[nn.Module], None]) -> Any:
    model = mv.create_model("detection", width=0.35, names=("egg", "hen"), image_size=64, max_detections=40)
    randomize(model)
    return model.eval()


def test_the_number_of_detections_is_an_option(detector: Any, caplog: pytest.LogCaptureFixture) -> None:
    photos: list[Any] = [photo(seed) for seed in range(4)]
    everything = mv.Predictor(detector, device="cpu", score_threshold=0.0, max_detections=10_000)(photos)
    assert min(map(len, everything)) > 40
    assert not caplog.records
    for limit, wanted in ((None, 40), (3, 3), (min(map(len, everything)), min(map(len, everything)))):
        caplog.clear()
        predict = mv.Predictor(detector, device="cpu", score_threshold=0.0, batch_size=3, max_detections=limit)
        for found, every in zip(predict(photos), everything, strict=True):
            assert len(found) == wanted
            np.testing.assert_allclose(found.scores, every.scores[:wanted], rtol=1e-4, atol=1e-5)
        more = sum(len(every) > wanted for every in everything)
        (line,) = caplog.messages  # once, whatever comes
        assert line.startswith(f"{more} photos have more than max_detections={wanted} objects")
        predict(photos[0])
        assert len(caplog.messages) == 1
    assert detector.head.max_detections == 40


def test_a_limit_that_none_reaches_is_not_mentioned(detector: Any, caplog: pytest.LogCaptureFixture) -> None:
    every = mv.Predictor(detector, device="cpu", score_threshold=0.0, max_detections=10_000)(photo())
    exactly = mv.Predictor(detector, device="cpu", score_threshold=0.0, max_detections=len(every))
    assert len(exactly(photo())) == len(every)
    assert (exactly.remarks(), caplog.messages) == ([], [])


def test_what_is_no_number_of_detections(detector: Any, model: Any) -> None:
    for value in (0, -1, 2.5, True, "100"):
        with pytest.raises(ConfigError, match=rf"max_detections={value!r} must be an integer of at least 1"):
            mv.Predictor(detector, max_detections=value)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="max_detections is for detection, not for a model of classification"):
        mv.Predictor(model, max_detections=5)


def test_predict_tells_at_the_end_on_how_many_photos_objects_were_left_out(
    detector: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    mv.save(detector, "model.safetensors")
    for seed in range(3):
        Image.fromarray(photo(seed)).save(f"{seed}.png")
    arguments = ["predict", "checkpoint=model.safetensors", "images='*.png'", "threshold=0", "batch_size=2"]
    assert main([*arguments, "max_detections=5"]) == 0
    captured = capsys.readouterr()
    told = [line for line in (captured.out + captured.err).splitlines() if "max_detections" in line]
    assert len(told) == 1
    assert "3 photos have more than max_detections=5 objects" in told[0]
    assert [len(item["objects"]) for item in json.loads(Path("predictions/predictions.json").read_text())] == [5] * 3
    assert main(arguments) == 0
    assert [len(item["objects"]) for item in json.loads(Path("predictions/predictions.json").read_text())] == [40] * 3
    assert main([*arguments, "max_detections=0"]) == 2
    assert "error: max_detections=0" in capsys.readouterr().err


# ---- the command line ----


@pytest.fixture
def place(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, with photos of equal names in two folders below."""
    monkeypatch.chdir(tmp_path)
    mv.save(model, "model.safetensors")
    for index, name in enumerate(["a/1.jpg", "a/2.png", "b/1.jpg", "b/1.png", "b/deep/1.jpg"]):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo(index)).save(tmp_path / "photos" / name)
    (tmp_path / "photos/notes.txt").write_text("not a photo")
    return tmp_path


def test_predict_writes_pictures_and_tables(place: Path, predict: mv.Predictor) -> None:
    assert (
        main(["predict", "checkpoint=model.safetensors", "images=photos", "output=out", "top=2", "batch_size=2"]) == 0
    )
    photos = sorted(path for path in Path("photos").rglob("*.*g"))
    assert len(photos) == 5
    data = json.loads(Path("out/predictions.json").read_text())
    assert [record["image"] for record in data] == [str(path) for path in photos]
    with open("out/predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10
    for index, path in enumerate(photos):
        best = predict(path).top(2)
        assert [(item["name"], item["score"]) for item in data[index]["classes"]] == [
            (name, pytest.approx(score, rel=1e-4, abs=1e-5)) for name, score in best
        ]
        for rank, row in enumerate(rows[2 * index : 2 * index + 2]):
            assert (row["image"], row["rank"], row["name"]) == (str(path), str(rank + 1), best[rank][0])
            assert float(row["score"]) == pytest.approx(best[rank][1], rel=1e-4, abs=1e-5)
    # A picture each, though names are equal; the photo itself on top, the text below.
    pictures = {path.relative_to("out").as_posix() for path in Path("out").rglob("*.jpg")}
    assert pictures == {"a/1.jpg", "a/2.png.jpg", "b/1.jpg", "b/1.png.jpg", "b/deep/1.jpg"}
    with Image.open("out/a/1.jpg") as picture:
        assert picture.width == 120
        assert picture.height > 90
        top = np.asarray(picture)[:90].astype(int)
    assert np.abs(top - photo(0)).mean() < 6


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ("photos/b/1.jpg", {"1.jpg"}),
        ("photos/*/*.jpg", {"a/1.jpg", "b/1.jpg"}),
        ("photos/**/*.jpg", {"a/1.jpg", "b/1.jpg", "b/deep/1.jpg"}),
        ("[photos/a,photos/b/1.png]", {"a/1.jpg", "a/2.png.jpg", "b/1.png.jpg"}),
        ("[photos/a/1.jpg,{here}/photos/b/1.jpg]", {"a/1.jpg", "b/1.jpg"}),
        ("[photos/a/1.jpg,photos/a/*.jpg]", {"1.jpg"}),
        ("[photos/b/*]", {"1.jpg", "1.png.jpg"}),  # and not the folder that the pattern matches, too
        ("[photos/b/../a/2.png,photos/b/1.png]", {"a/2.png.jpg", "b/1.png.jpg"}),
    ],
)
def test_which_images(images: str, expected: set[str], place: Path) -> None:
    quoted = images.format(here=place)
    argument = f"images={quoted}" if quoted.startswith("[") else f"images='{quoted}'"
    assert main(["predict", "checkpoint=model.safetensors", argument, "output=out"]) == 0
    assert {path.relative_to("out").as_posix() for path in Path("out").rglob("*.jpg")} == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["images=photos/c"], "images=photos/c: no such file"),
        (["images='photos/*.gif'"], "images=photos/*.gif: no such file"),
        (["images=[photos/a,absent]"], "images=absent: no such file"),
        (["images=2024"], "images=2024: no such file"),
        (["images=photos/notes.txt"], "notes.txt: not an image"),
        (["images=photos", "checkpoint=absent.safetensors"], "absent.safetensors: no such model file"),
        (["images=photos", "checkpoint=photos/a/1.jpg"], "not a safetensors file"),
        ([], "images=<a file, a folder or a pattern> is required"),
        (["images=photos", "top=many"], "top takes a whole number"),
        (["images=photos", "batch_size=0"], "batch_size=0"),
        (["images=photos", "top=0"], "top=0"),
        (["images=photos", "device=quantum"], "device=quantum"),
        (["images=photos", "output=photos/notes.txt"], "notes.txt"),
    ],
)
def test_mistakes(arguments: list[str], message: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "checkpoint=model.safetensors", "output=out", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (place / "out/predictions.json").exists()


@pytest.mark.parametrize(
    "arguments", [["images=photos/a/1.jpg", "output=photos/a"], ["images='photos/*/*'", "output=photos"]]
)
def test_photos_are_not_replaced(arguments: list[str], place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    assert main(["predict", "checkpoint=model.safetensors", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: output={arguments[1][7:]}: the picture would replace the photo {place}/photos/")
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


def test_photos_beside_one_that_cannot_be_read(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "photos/b/1.jpg").write_bytes(b"no photo")
    assert main(["predict", "checkpoint=model.safetensors", "images=photos", "output=out", "batch_size=2"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: photos/b/1.jpg: ")
    assert error.endswith("; the results of the other 4 are in out")
    assert [record["image"] for record in json.loads(Path("out/predictions.json").read_text())] == [
        *("photos/a/1.jpg", "photos/a/2.png", "photos/b/1.png", "photos/b/deep/1.jpg"),
    ]


def test_many_photos_say_how_far_they_are_and_what_is_faster(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.setattr(files, "_MANY", 4)
    given = ["predict", "checkpoint=model.safetensors", "images=photos", "output=out", "batch_size=2", "device=cpu"]
    assert main(given) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("runtime: torch on the CPU; ")
    assert lines[0].endswith("(pip install 'mnv2vision[onnx]')")
    assert [line.partition(",")[0] for line in lines[1:-1]] == [f"{count} of 5 photos" for count in range(1, 5)]
    assert main([*given, "runtime=torch"]) == 0  # who asks for it
    assert "runtime" not in capsys.readouterr().err


# ---- inputs of 16 bits, extreme photos, names of other code pages ----


def test_16_bits_by_every_door(predict: mv.Predictor, tmp_path: Path) -> None:
    grey = photo()[..., 0]
    wide = Image.fromarray(grey.astype(np.uint16) * 256 + 77)
    wide.save(tmp_path / "16.png")
    wanted = predict(np.repeat(grey[..., None], 3, axis=2)).scores
    np.testing.assert_allclose(predict(tmp_path / "16.png").scores, wanted, atol=1e-6)
    np.testing.assert_allclose(predict(wide).scores, wanted, atol=1e-6)
    with pytest.raises(DataError, match=r"not uint16 \(5, 5, 3\); of 16 bits: \(array >> 8\)"):
        predict(np.zeros((5, 5, 3), np.uint16))  # type: ignore[arg-type]


def test_a_photo_of_extreme_shape(model: Any, predict: mv.Predictor, detector: Any) -> None:
    strip = np.repeat(photo(3, 1, 60_000)[:, :, :1], 3, axis=2)
    # What the crop keeps is under one pixel of 60,000, in the middle.
    middle = strip[:, 29_990:30_010]
    np.testing.assert_allclose(predict(strip).scores, predict(middle).scores, rtol=1e-3, atol=1e-3)
    mv.Predictor(detector, device="cpu")(strip)
    segmenter = mv.create_model("segmentation", width=0.35, num_classes=3, image_size=65).eval()
    assert mv.Predictor(segmenter, device="cpu")(strip).mask.shape == (1, 60_000)


def test_scores_that_are_no_numbers_are_not_handed_on(model: Any) -> None:
    broken = mv.create_model("classification", width=0.35, names=NAMES, image_size=64)
    broken.load_state_dict(model.state_dict())
    with torch.no_grad():
        broken.head.classifier.weight[0, 0] = float("nan")
    with pytest.raises(WeightsError, match=r"scores are not finite \(nan or inf\)"):
        mv.Predictor(broken, device="cpu")(photo())
    with pytest.raises(ConfigError, match="in_channels=1: photos have 3 channels"):
        mv.Predictor(mv.create_model("classification", width=0.35, in_channels=1))


def test_file_names_that_are_no_utf_8(place: Path) -> None:
    """GoogleCloudPlatform/gsutil#1625: the single byte E9, as a zip from Windows leaves it."""
    name = os.fsdecode(b"caf\xe9.png")
    try:
        (place / "photos/a/2.png").rename(place / "photos/a" / name)
    except OSError:
        pytest.skip("this file system has names in UTF-8 only")
    assert main(["predict", "checkpoint=model.safetensors", "images=photos/a", "output=out", "top=1"]) == 0
    listed = [record["image"] for record in json.loads(Path("out/predictions.json").read_text())]
    assert listed == ["photos/a/1.jpg", f"photos/a/{name}"]
    with open("out/predictions.csv", newline="", encoding="utf-8") as file:
        assert [row["image"] for row in csv.DictReader(file)] == ["photos/a/1.jpg", r"photos/a/caf\udce9.png"]
    assert os.fsencode(f"out/{name}.jpg") in (os.path.join(b"out", item) for item in os.listdir(b"out"))


def test_windows_across_and_along() -> None:
    """A segmenter that sees a pixel at a time gives the same through windows, whichever side is the longer."""
    torch.manual_seed(0)
    segmenter = mv.create_model("segmentation", width=0.35, num_classes=3, image_size=33).eval()
    predict = mv.Predictor(segmenter, device="cpu", inference=InferenceOptions(window=True))
    predict.model.head.by_pixel = lambda network: lambda images: images  # type: ignore[method-assign]  # channels as classes
    for height, width in ((50, 140), (140, 50), (20, 90), (9, 9)):
        image = photo(1, height, width)
        mean, std = (np.array(values, np.float32) for values in (predict.preprocessing.mean, predict.preprocessing.std))
        wanted = ((image / 255 - mean) / std).argmax(2)
        assert (predict(image).mask == wanted).mean() > 0.999
