"""Masks in VOC's layout, SBD's extra ones, and classes of one's own."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from mnv2vision.data.formats.mask_names import MASK_NAMES
from mnv2vision.data.formats.sbd import read_sbd
from mnv2vision.data.formats.voc import Voc
from mnv2vision.data.sample import Sample
from mnv2vision.errors import DataError

SIZE = (12, 20)
# VOC's devkit, VOClabelcolormap: the bits of a label by turns to red, green and blue, the lowest to the highest.
VOC_PALETTE = [
    sum(((label >> (3 * i + channel)) & 1) << (7 - i) for i in range(8)) for label in range(256) for channel in range(3)
]


def mask_of(seed: int, classes: int = 21, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    values = np.random.default_rng(seed).integers(0, classes, size).astype(np.uint8)
    values[0, 0] = 255
    return values


def save_mask(path: Path, values: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    image.putpalette(VOC_PALETTE)
    image.save(path)


def write(folder: Path, split: str, masks: Mapping[str, NDArray[np.uint8]]) -> Path:
    """Images of a split with their masks, in VOC's layout."""
    for name in ("JPEGImages", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for image_id, values in masks.items():
        Image.new("RGB", values.shape[::-1], (9, 9, 9)).save(folder / f"JPEGImages/{image_id}.jpg")
        save_mask(folder / f"SegmentationClass/{image_id}.png", values)
    (folder / f"ImageSets/Segmentation/{split}.txt").write_text("".join(f"{image_id}\n" for image_id in masks))
    return folder


def write_mat(path: Path, values: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"GTcls": {"Segmentation": values, "Boundaries": np.zeros(1), "CategoriesPresent": np.zeros(1)}})


def write_sbd(folder: Path, train: Mapping[str, NDArray[np.uint8]], val: Mapping[str, NDArray[np.uint8]]) -> Path:
    for split, masks in (("train", train), ("val", val)):
        for image_id, values in masks.items():
            write_mat(folder / f"cls/{image_id}.mat", values)
            (folder / "img").mkdir(exist_ok=True)
            Image.new("RGB", values.shape[::-1], (5, 5, 5)).save(folder / f"img/{image_id}.jpg")
        (folder / f"{split}.txt").write_text("".join(f"{image_id}\n" for image_id in masks))
    return folder


def mask(sample: Sample) -> NDArray[np.uint8]:
    assert sample.mask is not None
    assert sample.mask.dtype == np.uint8
    assert sample.mask.shape == sample.image.shape[:2]
    return sample.mask


def by_id(data: Voc) -> dict[Any, Sample]:
    samples = {data[i].image_id: data[i] for i in range(len(data))}
    assert len(samples) == len(data)
    return samples


def refused(*arguments: Any, **options: Any) -> str:
    """The message of what is wrong, when the lists are read or when the sample is."""

    def read() -> None:
        data = Voc(*arguments, **options, targets=("mask",))
        for i in range(len(data)):
            data[i]

    with pytest.raises(DataError) as caught:
        read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_samples(tmp_path: Path) -> None:
    masks = {"2007_b": mask_of(0), "2007_a": mask_of(1, size=(7, 5))}
    write(tmp_path / "VOC2012", "train", masks)
    data = Voc(str(tmp_path), "train", targets=("mask",))
    assert data.targets == {"mask"}
    assert data.names == MASK_NAMES
    assert (len(MASK_NAMES), MASK_NAMES[0], MASK_NAMES[1], MASK_NAMES[15], MASK_NAMES[20]) == (
        *(21, "background", "aeroplane", "person", "tvmonitor"),
    )
    assert [data[i].image_id for i in (0, 1, -1)] == ["2007_b", "2007_a", "2007_a"]
    for image_id, sample in by_id(data).items():
        np.testing.assert_array_equal(mask(sample), masks[image_id])
        assert Path(sample.path) == tmp_path / f"VOC2012/JPEGImages/{image_id}.jpg"
        assert (sample.boxes, sample.label, sample.size) == (None, None, sample.image.shape[:2])
    with pytest.raises(IndexError):
        data[2]
    again = pickle.loads(pickle.dumps(data))
    np.testing.assert_array_equal(mask(again[0]), masks["2007_b"])


def test_several_years_and_a_root_that_holds_the_images(tmp_path: Path) -> None:
    write(tmp_path / "VOC2007", "val", {"000007": mask_of(0)})
    write(tmp_path / "VOC2012", "train", {"2008_1": mask_of(1)})
    data = Voc(tmp_path, "2007/val+train", targets=("mask",))
    assert [data[i].image_id for i in range(2)] == ["000007", "2008_1"]
    np.testing.assert_array_equal(mask(data[1]), mask_of(1))
    assert len(Voc(tmp_path / "VOC2007", "val", year=1999, targets=("mask",))) == 1


def test_images_listed_twice(tmp_path: Path) -> None:
    """Evaluators drop duplicates by image id: two images with one would count as one."""
    for year in (2007, 2012):
        write(tmp_path / f"VOC{year}", "val", {"000001": mask_of(year)})
    try:
        data = Voc(tmp_path, "2007/val+2012/val", targets=("mask",))
    except DataError as error:
        assert "lists images twice: 000001" in str(error)  # noqa: PT017
    else:
        assert len({data[i].image_id for i in range(2)}) == 2


# ---- SegmentationClassAug and SBD ----


def test_segmentation_class_aug_is_preferred(tmp_path: Path) -> None:
    folder = write(tmp_path / "VOC2012", "trainaug", {"a": mask_of(0), "b": mask_of(1), "c": mask_of(2)})
    save_mask(folder / "SegmentationClassAug/a.png", mask_of(10))
    save_mask(folder / "SegmentationClassAug/c.png", mask_of(12))
    (folder / "SegmentationClass/c.png").unlink()
    samples = by_id(Voc(tmp_path, "trainaug", targets=("mask",)))
    for image_id, seed in (("a", 10), ("b", 1), ("c", 12)):
        np.testing.assert_array_equal(mask(samples[image_id]), mask_of(seed))


@pytest.fixture
def augmented(tmp_path: Path) -> tuple[Path, Path]:
    """VOC with two images to train on and one held out; SBD has one of each of them, and two of its own."""
    folder = write(tmp_path / "voc/VOC2012", "train", {"own": mask_of(0), "both": mask_of(1)})
    write(folder, "val", {"held_out": mask_of(2), "held_out_too": mask_of(3)})
    sbd = write_sbd(
        tmp_path / "sbd",
        {"both": mask_of(11), "held_out": mask_of(12), "first": mask_of(13)},
        {"second": mask_of(14, size=(5, 8)), "held_out_too": mask_of(15)},
    )
    return tmp_path / "voc", sbd


def test_trainaug_of_sbd(augmented: tuple[Path, Path]) -> None:
    root, sbd = augmented
    samples = by_id(Voc(root, "trainaug", sbd=sbd, targets=("mask",)))
    assert set(samples) == {"own", "both", "first", "second"}
    wanted = {"own": mask_of(0), "both": mask_of(1), "first": mask_of(13), "second": mask_of(14, size=(5, 8))}
    for image_id, sample in samples.items():
        np.testing.assert_array_equal(mask(sample), wanted[image_id])
        folder = root / "VOC2012/JPEGImages" if image_id in ("own", "both") else sbd / "img"
        assert Path(sample.path) == folder / f"{image_id}.jpg"


def test_a_list_of_ones_own_goes_before_sbd(augmented: tuple[Path, Path]) -> None:
    root, sbd = augmented
    write(root / "VOC2012", "trainaug", {"own": mask_of(0)})
    assert len(Voc(root, "trainaug", sbd=sbd, targets=("mask",))) == 1
    assert set(by_id(Voc(root, "train", sbd=sbd, targets=("mask",)))) == {"own", "both"}


def test_what_sbd_lacks_is_named(augmented: tuple[Path, Path]) -> None:
    root, sbd = augmented
    assert "trainaug.txt" in refused(root, "trainaug")
    for content in (mask_of(0, size=(3, 4)), np.full(SIZE, 21, np.uint8)):
        write_mat(sbd / "cls/first.mat", content)
        message = refused(root, "trainaug", sbd=sbd)
        assert message.startswith(f"{sbd / 'cls/first.mat'}: ")
        assert ("4x3" in message) if content.shape == (3, 4) else ("21" in message)
    for write_it in (
        lambda path: path.write_bytes(b"rubbish"),
        lambda path: savemat(path, {"GTinst": {"Segmentation": mask_of(0)}}),
        lambda path: savemat(path, {"GTcls": {"Boundaries": mask_of(0)}}),
        lambda path: path.unlink(),
    ):
        write_it(sbd / "cls/first.mat")
        assert refused(root, "trainaug", sbd=sbd).startswith(f"{sbd / 'cls/first.mat'}: ")
    write_mat(sbd / "cls/first.mat", mask_of(13))
    (sbd / "img/first.jpg").unlink()
    assert str(sbd / "img/first") in refused(root, "trainaug", sbd=sbd)
    (sbd / "val.txt").unlink()
    assert refused(root, "trainaug", sbd=sbd).startswith(f"{sbd / 'val.txt'}: ")


# ---- classes, colours, void ----


def test_classes_of_ones_own(tmp_path: Path) -> None:
    write(tmp_path, "train", {"a": mask_of(0, 3)})
    data = Voc(tmp_path, "train", classes=["nothing", "crack", "rust"], targets=("mask",))
    assert data.names == ("nothing", "crack", "rust")
    np.testing.assert_array_equal(mask(data[0]), mask_of(0, 3))
    message = refused(tmp_path, "train", classes=["nothing", "crack"])
    assert message.startswith(f"{tmp_path / 'SegmentationClass/a.png'}: ")
    assert "the value 2;" in message


def test_void_of_ones_own(tmp_path: Path) -> None:
    write(tmp_path, "train", {"a": mask_of(0, 4)})
    data = Voc(tmp_path, "train", classes=["a", "b", "c"], void=3, targets=("mask",))
    np.testing.assert_array_equal(mask(data[0]), np.where(mask_of(0, 4) == 3, 255, mask_of(0, 4)))


def test_colors(tmp_path: Path) -> None:
    folder = write(tmp_path, "train", {"a": mask_of(0, 3)})
    colors = [[0, 0, 0], [200, 0, 0], [0, 0, 200], [9, 9, 9]]
    labels = np.minimum(mask_of(0, 3), 3)
    Image.fromarray(np.array(colors, np.uint8)[labels]).save(folder / "SegmentationClass/a.png")
    data = Voc(tmp_path, "train", classes=["a", "b", "c"], colors=colors, targets=("mask",))
    np.testing.assert_array_equal(mask(data[0]), mask_of(0, 3))
    assert "(9, 9, 9)" in refused(tmp_path, "train", classes=["a", "b", "c"], colors=colors[:3])
    for wrong in (colors[:2], [*colors, [1, 1, 1]]):
        message = refused(tmp_path, "train", classes=["a", "b", "c"], colors=wrong)
        assert f"{len(wrong)} colours for 3 classes" in message


@pytest.mark.parametrize(
    "colors",
    [[[0, 0, 0], [0, 0, 0]], [[0, 0], [1, 1]], [[0, 0, 0], [0, 0, 256]], [[0, 0, 0], [0, 0, -1]], [0, 1]],
    ids=["twice", "two numbers", "above 255", "below 0", "no lists"],
)
def test_colors_that_cannot_be_right(tmp_path: Path, colors: Any) -> None:
    folder = write(tmp_path, "train", {"a": mask_of(0, 2)})
    Image.new("RGB", SIZE[::-1]).save(folder / "SegmentationClass/a.png")
    message = refused(tmp_path, "train", classes=["a", "b"], colors=colors)
    assert "dataset.colors" in message.replace(str(tmp_path), "")


@pytest.mark.parametrize(
    "classes", [[], ["a", "a"], [str(label) for label in range(256)]], ids=["none", "twice", "more than a byte holds"]
)
def test_classes_that_cannot_be_right(tmp_path: Path, classes: list[str]) -> None:
    write(tmp_path, "train", {"a": np.zeros(SIZE, np.uint8)})
    message = refused(tmp_path, "train", classes=classes)
    assert "classes" in message.replace(str(tmp_path), "")


# ---- what is missing or does not fit ----


def test_missing_files_are_named(tmp_path: Path) -> None:
    assert str(tmp_path / "nowhere") in refused(tmp_path / "nowhere", "train")
    folder = write(tmp_path / "VOC2012", "train", {"a": mask_of(0), "b": mask_of(1)})
    message = refused(tmp_path, "val")
    assert message.startswith(f"{folder / 'ImageSets/Segmentation/val.txt'}: ")
    assert "train" in message.partition(": ")[2]
    (folder / "SegmentationClass/b.png").unlink()
    assert refused(tmp_path, "train").startswith(f"{folder / 'SegmentationClass/b.png'}: ")
    (folder / "JPEGImages/b.jpg").unlink()
    assert refused(tmp_path, "train").startswith(f"{folder / 'JPEGImages/b'}: ")


def test_a_mask_of_another_size(tmp_path: Path) -> None:
    folder = write(tmp_path / "VOC2012", "train", {"a": mask_of(0)})
    save_mask(folder / "SegmentationClass/a.png", mask_of(0, size=SIZE[::-1]))
    message = refused(tmp_path, "train")
    assert message.startswith(f"{folder / 'SegmentationClass/a.png'}: ")
    assert "12x20" in message
    assert "20x12" in message


def test_ids_that_lead_out(tmp_path: Path) -> None:
    folder = write(tmp_path / "VOC2012", "train", {"a": mask_of(0)})
    (folder / "ImageSets/Segmentation/train.txt").write_text("../a\n")
    assert "points outside" in refused(tmp_path, "train")


# ---- the real set ----


@pytest.mark.parametrize("split", ["train", "val"])
def test_as_pillow_reads_them(shared: Path, split: str) -> None:
    root = shared / "data/voc/VOCdevkit"
    folder = root / "VOC2012"
    listed = (folder / f"ImageSets/Segmentation/{split}.txt").read_text().split()
    data = Voc(root, split, targets=("mask",))
    assert [data[i].image_id for i in range(len(data))] == listed
    seen = set()
    for image_id, sample in by_id(data).items():
        with Image.open(folder / f"SegmentationClass/{image_id}.png") as image:
            assert image.mode == "P"
            np.testing.assert_array_equal(mask(sample), np.array(image))
        seen.update(np.unique(mask(sample)).tolist())
    assert {0, 15, 255} < seen <= {*range(21), 255}


# ---- SBD's files, byte by byte ----


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (7, 5), (30, 41)])
def test_sbd_as_it_was_saved(tmp_path: Path, packed: bool, shape: tuple[int, int]) -> None:
    wanted = np.random.default_rng(1).integers(0, 21, shape).astype(np.uint8)
    cells = np.array([None, np.ones((2, 3))], object).reshape(1, 2)
    cells[0, 0] = np.eye(3)
    record = {"Boundaries": cells, "Segmentation": wanted, "CategoriesPresent": np.array([[5.0, 9.0]])}
    savemat(tmp_path / "a.mat", {"other": np.arange(9), "GTcls": record}, do_compression=packed)
    np.testing.assert_array_equal(read_sbd(tmp_path / "a.mat"), wanted)
    savemat(tmp_path / "b.mat", {"GTcls": {"Segmentation": wanted.astype(float)}}, do_compression=packed)
    np.testing.assert_array_equal(read_sbd(tmp_path / "b.mat"), wanted)


def test_sbd_with_a_damaged_byte(tmp_path: Path) -> None:
    """SciPy's reader ends the process at some of these (segmentation fault)."""
    values = np.full((12, 20), 3, np.uint8)
    path = tmp_path / "a.mat"
    savemat(path, {"GTcls": {"Segmentation": values}})
    content = path.read_bytes()
    refusals = 0
    for place in range(126, len(content)):
        for value in (0, 255):
            path.write_bytes(content[:place] + bytes([value]) + content[place + 1 :])
            try:
                assert read_sbd(path).dtype == np.uint8
            except DataError as error:
                refusals += 1
                assert str(error).startswith(f"{path}: contains no valid GTcls.Segmentation (")  # noqa: PT017
    assert refusals > 50
