"""VOC's layout: pixels from 1, splits of several years, classes of one's own, and what is wrong by its name."""

import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import VOCDetection

from mnv2vision.common.colors import VOC_NAMES
from mnv2vision.data.formats.voc import Voc
from mnv2vision.data.sample import Sample
from mnv2vision.errors import DataError

Box = tuple[object, object, object, object]
WIDTH, HEIGHT = 50, 40


@pytest.fixture(autouse=True)
def _log_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("mnv2vision"), "propagate", True)  # the command line turns it off


def thing(name: str, box: Box = (1, 1, 10, 10), more: str = "") -> str:
    sides = "".join(
        f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return f"<object>\n<name>{name}</name>{more}<bndbox>{sides}</bndbox></object>\n"


def annotation(*objects: str, size: tuple[object, object] | None = (WIDTH, HEIGHT)) -> str:
    said = "" if size is None else f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"<annotation>\n{said}\n{''.join(objects)}</annotation>\n"


def write(folder: Path, split: str, images: dict[str, str], *, extension: str = ".jpg") -> Path:
    """The images of a split, by id with their annotations, in `folder`."""
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for image_id, text in images.items():
        for part in ("Annotations", "JPEGImages"):
            (folder / part / image_id).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"Annotations/{image_id}.xml").write_text(text)
        Image.new("RGB", (WIDTH, HEIGHT), (9, 9, 9)).save(folder / f"JPEGImages/{image_id}{extension}")
    (folder / f"ImageSets/Main/{split}.txt").write_text("".join(f"{image_id}\n" for image_id in images))
    return folder


def refused(*arguments: Any, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        Voc(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def boxes(sample: Sample) -> list[list[float]]:
    assert sample.boxes is not None
    return sample.boxes.boxes.tolist()  # type: ignore[no-any-return]


def labels(sample: Sample) -> list[int]:
    assert sample.boxes is not None
    return sample.boxes.labels.tolist()  # type: ignore[no-any-return]


def test_samples(tmp_path: Path) -> None:
    first = annotation(
        thing("person", (1, 1, WIDTH, HEIGHT), "<truncated>1</truncated><difficult>0</difficult>"),
        thing("dog", (3, 5, 3, 5), "<difficult>1</difficult>"),
        thing("cat", ("45.5", " 7 ", "50", "9.25")),
    )
    write(tmp_path / "VOC2012", "train", {"2008_1": first, "2008_2": annotation()})
    data = Voc(str(tmp_path), "train")
    assert data.targets == {"boxes"}
    assert data.names == VOC_NAMES
    assert len(VOC_NAMES) == len(set(VOC_NAMES)) == 20
    assert list(VOC_NAMES) == sorted(VOC_NAMES)
    assert len(data) == 2
    sample = data[0]
    assert sample.image.shape == (HEIGHT, WIDTH, 3)
    assert sample.image_id == "2008_1"
    assert Path(sample.path) == tmp_path / "VOC2012/JPEGImages/2008_1.jpg"
    # Pixels count from 1 and the last is included: one alone has an area of 1.
    assert boxes(sample) == [[0, 0, WIDTH, HEIGHT], [2, 4, 3, 5], [44.5, 6, 50, 9.25]]
    assert sample.boxes is not None
    assert sample.boxes.boxes.dtype == np.float32
    assert labels(sample) == [VOC_NAMES.index(name) for name in ("person", "dog", "cat")]
    assert sample.boxes.labels.dtype == np.int64
    assert sample.boxes.difficult.dtype == np.bool_
    assert sample.boxes.difficult.tolist() == [False, True, False]
    assert sample.boxes.crowd.dtype == np.bool_
    assert sample.boxes.crowd.tolist() == [False] * 3
    assert sample.boxes.areas is not None
    assert sample.boxes.areas.dtype == np.float64
    assert sample.boxes.areas.tolist() == [WIDTH * HEIGHT, 1, 5.5 * 3.25]
    assert (sample.label, sample.mask, sample.size) == (None, None, (HEIGHT, WIDTH))


def test_images_without_objects_are_kept(tmp_path: Path) -> None:
    write(tmp_path / "VOC2012", "train", {"a": annotation(), "b": annotation(thing("dog")), "c": annotation()})
    data = Voc(tmp_path, "train")
    assert [len(data[i].boxes) for i in range(3)] == [0, 1, 0]  # type: ignore[arg-type]
    sample = data[0]
    for values, shape in (
        (sample.boxes.boxes, (0, 4)),
        (sample.boxes.labels, (0,)),
        (sample.boxes.crowd, (0,)),
        (sample.boxes.difficult, (0,)),
        (sample.boxes.areas, (0,)),
    ):
        assert values is not None
        assert values.shape == shape


def test_index_from_the_end_and_beyond(tmp_path: Path) -> None:
    write(tmp_path / "VOC2012", "train", {"a": annotation(), "b": annotation(thing("dog"))})
    data = Voc(tmp_path, "train")
    assert data[-1].image_id == "b"
    assert boxes(data[-1]) == [[0, 0, 10, 10]]
    for index in (2, -3):
        with pytest.raises(IndexError):
            data[index]


def test_survives_the_way_to_a_worker(tmp_path: Path) -> None:
    write(tmp_path / "VOC2012", "train", {"a": annotation(thing("dog"))})
    assert boxes(pickle.loads(pickle.dumps(Voc(tmp_path, "train")))[0]) == [[0, 0, 10, 10]]


def test_parts_are_no_objects(tmp_path: Path) -> None:
    part = (
        "<part><name>head</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>4</xmax><ymax>4</ymax></bndbox></part>"
        "<part><name>dog</name><bndbox><xmin>5</xmin><ymin>2</ymin><xmax>9</xmax><ymax>4</ymax></bndbox></part>"
    )
    write(tmp_path / "VOC2012", "train", {"a": annotation(thing("person", more=part), thing("cat", (2, 2, 3, 3)))})
    data = Voc(tmp_path, "train")
    assert data.names == VOC_NAMES  # "head" is no class either
    assert boxes(data[0]) == [[0, 0, 10, 10], [1, 1, 3, 3]]
    assert labels(data[0]) == [VOC_NAMES.index("person"), VOC_NAMES.index("cat")]


# ---- splits, years and folders ----


def test_several_years(tmp_path: Path) -> None:
    write(tmp_path / "VOC2007", "trainval", {"000005": annotation(thing("dog")), "000007": annotation()})
    write(tmp_path / "VOC2007", "test", {"000001": annotation(thing("cow"))})
    write(tmp_path / "VOC2012", "trainval", {"2008_000002": annotation(thing("cat"))})

    def ids(split: str, **options: Any) -> list[tuple[str, list[int]]]:
        data = Voc(tmp_path, split, **options)
        return [(str(Path(data[i].path).relative_to(tmp_path)), labels(data[i])) for i in range(len(data))]

    first = [("VOC2007/JPEGImages/000005.jpg", [11]), ("VOC2007/JPEGImages/000007.jpg", [])]
    second = [("VOC2012/JPEGImages/2008_000002.jpg", [7])]
    assert ids("2007/trainval+2012/trainval") == first + second
    assert ids("2012/trainval+2007/trainval") == second + first
    assert ids("trainval") == second
    assert ids("trainval", year=2007) == first
    assert ids("2007/trainval+trainval") == first + second
    assert ids("trainval+test", year=2007) == [*first, ("VOC2007/JPEGImages/000001.jpg", [9])]


def test_a_root_that_holds_the_annotations(tmp_path: Path) -> None:
    write(tmp_path, "val", {"a": annotation(thing("dog"))})
    sample = Voc(tmp_path, "val", year=1999)[0]
    assert Path(sample.path) == tmp_path / "JPEGImages/a.jpg"
    assert boxes(sample) == [[0, 0, 10, 10]]


def test_ids_of_several_years_are_told_apart(tmp_path: Path) -> None:
    """Evaluators drop duplicates by image id: two images with one would count as one."""
    for year in (2007, 2012):
        write(tmp_path / f"VOC{year}", "val", {"000001": annotation(thing("dog"))})
    try:
        data = Voc(tmp_path, "2007/val+2012/val")
    except DataError as error:
        assert "lists images twice: 000001" in str(error)  # noqa: PT017
    else:
        assert len({data[i].image_id for i in range(2)}) == 2


def test_lists_of_a_single_class_have_a_second_column(tmp_path: Path) -> None:
    folder = write(tmp_path / "VOC2012", "train", {"a": annotation(thing("dog")), "b": annotation()})
    (folder / "ImageSets/Main/dog_train.txt").write_text("a  1\nb -1\n\n")
    data = Voc(tmp_path, "dog_train")
    assert [data[i].image_id for i in range(len(data))] == ["a", "b"]


@pytest.mark.parametrize("extension", [".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG"])
def test_extensions(tmp_path: Path, extension: str) -> None:
    write(tmp_path, "train", {"a.b": annotation(thing("dog"))}, extension=extension)
    assert Voc(tmp_path, "train")[0].path.endswith(f"a.b{extension}")


def test_ids_with_folders(tmp_path: Path) -> None:
    write(tmp_path, "train", {"deep/a": annotation(thing("dog"))})
    assert boxes(Voc(tmp_path, "train")[0]) == [[0, 0, 10, 10]]


@pytest.mark.parametrize("image_id", ["../a", "..", "deep/../../a", "/etc/a"])
def test_ids_that_lead_out(tmp_path: Path, image_id: str) -> None:
    folder = write(tmp_path / "VOC2012", "train", {"a": annotation()})
    path = folder / "ImageSets/Main/train.txt"
    path.write_text(f"a\n{image_id}\n")
    message = refused(tmp_path, "train")
    assert message.startswith(f"{path}: ")
    assert f"{image_id!r} points outside" in message


def test_an_id_that_only_looks_so(tmp_path: Path) -> None:
    write(tmp_path, "train", {"..a": annotation(thing("dog"))})
    assert len(Voc(tmp_path, "train")) == 1


def test_images_listed_twice(tmp_path: Path) -> None:
    folder = write(tmp_path / "VOC2012", "train", {"a": annotation(), "b": annotation()})
    (folder / "ImageSets/Main/train.txt").write_text("a\nb\na\nb\na\n")
    assert "lists images twice: a, b" in refused(tmp_path, "train")
    write(tmp_path / "VOC2012", "train", {"a": annotation()})
    write(tmp_path / "VOC2012", "val", {"a": annotation()})
    assert "lists images twice: a" in refused(tmp_path, "train+val")


def test_only_the_splits_own_files(tmp_path: Path) -> None:
    folder = write(tmp_path / "VOC2012", "train", {"a": annotation(thing("dog"))})
    (folder / "ImageSets/Main/val.txt").write_text("absent\n")
    (folder / "Annotations/broken.xml").write_text("<annotation>")
    assert len(Voc(tmp_path, "train")) == 1


# ---- classes ----


def test_classes_restrict_and_order(tmp_path: Path) -> None:
    objects = annotation(thing("dog"), thing("cat", (2, 2, 5, 5)), thing("cow"), thing("dog", (1, 1, 2, 2)))
    write(tmp_path / "VOC2012", "train", {"a": annotation(thing("cow")), "b": objects})
    data = Voc(tmp_path, "train", classes=["dog", "zebra", "cat"])
    assert data.names == ("dog", "zebra", "cat")
    assert len(data) == 2
    assert boxes(data[0]) == []
    assert boxes(data[1]) == [[0, 0, 10, 10], [1, 1, 5, 5], [0, 0, 2, 2]]
    assert labels(data[1]) == [0, 2, 0]


def test_no_object_of_the_classes(tmp_path: Path) -> None:
    write(tmp_path / "VOC2012", "train", {"a": annotation(thing("dog"), thing("cat"))})
    message = refused(tmp_path, "train", classes=["racoon"])
    assert str(tmp_path) in message
    assert "no objects of class racoon; it has cat, dog" in message


@pytest.mark.parametrize("classes", [[], ["dog", "dog"]])
def test_classes_must_be_some_and_distinct(tmp_path: Path, classes: list[str]) -> None:
    write(tmp_path / "VOC2012", "train", {"a": annotation(thing("dog"))})
    assert "one or more distinct names" in refused(tmp_path, "train", classes=classes)


def test_classes_of_ones_own_are_found(tmp_path: Path) -> None:
    folder = write(tmp_path / "VOC2012", "train", {"a": annotation(thing("wasp"), thing("person"))})
    write(folder, "val", {"b": annotation(thing("ant", (1, 1, 3, 3))), "c": annotation(thing("wasp"))})
    write(folder, "test", {"d": annotation(thing(" bee "))})
    for split in ("train", "val", "test", "train+val"):
        assert Voc(tmp_path, split).names == ("ant", "bee", "person", "wasp")
    assert labels(Voc(tmp_path, "train")[0]) == [3, 2]
    assert labels(Voc(tmp_path, "test")[0]) == [1]


def test_a_split_without_the_classes_of_ones_own(tmp_path: Path) -> None:
    """Splits number their classes alike, whatever each of them happens to hold."""
    folder = write(tmp_path / "VOC2012", "train", {"a": annotation(thing("helmet"), thing("person"))})
    write(folder, "val", {"b": annotation(thing("person"))})
    assert Voc(tmp_path, "train").names == ("helmet", "person")
    assert Voc(tmp_path, "val").names == ("helmet", "person")


# ---- files that cannot be right ----


def test_root_missing(tmp_path: Path) -> None:
    assert str(tmp_path / "nowhere") in refused(tmp_path / "nowhere", "train")


def test_year_missing(tmp_path: Path) -> None:
    for year in (2005, 2007):
        write(tmp_path / f"VOC{year}", "train", {"a": annotation()})
    message = refused(tmp_path, "train")
    assert message.startswith(f"{tmp_path / 'VOC2012'}: ")
    assert "contains VOC2005, VOC2007" in message
    assert str(tmp_path / "VOC2006") in refused(tmp_path, "2007/train+2006/train")


def test_list_missing(tmp_path: Path) -> None:
    folder = write(tmp_path / "VOC2012", "train", {"a": annotation()})
    write(folder, "trainval", {"a": annotation()})
    message = refused(tmp_path, "val")
    assert message.startswith(f"{folder / 'ImageSets/Main/val.txt'}: ")
    assert "train, trainval" in message


def test_annotation_missing(tmp_path: Path) -> None:
    folder = write(tmp_path / "VOC2012", "train", {"a": annotation(), "b": annotation()})
    (folder / "Annotations/b.xml").unlink()
    assert refused(tmp_path, "train").startswith(f"{folder / 'Annotations/b.xml'}: ")


def test_image_missing(tmp_path: Path) -> None:
    folder = write(tmp_path / "VOC2012", "train", {"a": annotation(), "b": annotation()})
    (folder / "JPEGImages/b.jpg").unlink()
    assert refused(tmp_path, "train").startswith(f"{folder / 'JPEGImages/b'}: ")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", 1),
        ("<annotation>\n<object>\n<name>dog</nam></object></annotation>", 3),
        (annotation(thing("dog"), thing("cat"))[:-30], 6),
        ("rubbish", 1),
    ],
    ids=["empty", "mismatched", "truncated", "rubbish"],
)
def test_broken_xml(tmp_path: Path, text: str, line: int) -> None:
    folder = write(tmp_path / "VOC2012", "train", {"a": annotation(), "b": text})
    assert refused(tmp_path, "train").startswith(f"{folder / 'Annotations/b.xml'}: line {line} ")


@pytest.mark.parametrize("encoding", ["latin-77", "gb2312", "\N{PILE OF POO}"])
def test_xml_in_an_unknown_encoding(tmp_path: Path, encoding: str) -> None:
    text = f"<?xml version='1.0' encoding='{encoding}'?>\n{annotation()}"
    folder = write(tmp_path / "VOC2012", "train", {"a": text})
    assert refused(tmp_path, "train").startswith(f"{folder / 'Annotations/a.xml'}: ")


@pytest.mark.parametrize("name", ["", "<name></name>", "<name> </name>"])
def test_object_without_a_name(tmp_path: Path, name: str) -> None:
    text = annotation(thing("dog"), thing("X").replace("<name>X</name>", name))
    folder = write(tmp_path / "VOC2012", "train", {"a": text})
    message = refused(tmp_path, "train")
    assert message.startswith(f"{folder / 'Annotations/a.xml'}: ")
    assert "<name>" in message


def test_truncated_image_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "VOC2012", "train", {"a": annotation(thing("dog"))})
    path = folder / "JPEGImages/a.jpg"
    path.write_bytes(path.read_bytes()[:-60])
    data = Voc(tmp_path, "train")
    with pytest.raises(DataError) as caught:
        data[0]
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (WIDTH + 1, HEIGHT), (25, 20)])
def test_image_of_another_size(tmp_path: Path, size: tuple[int, int]) -> None:
    folder = write(tmp_path / "VOC2012", "train", {"a": annotation(thing("dog"), size=size)})
    data = Voc(tmp_path, "train")
    with pytest.raises(DataError) as caught:
        data[0]
    message = str(caught.value)
    assert message.startswith(f"{folder / 'JPEGImages/a.jpg'}: ")
    assert f"{WIDTH}x{HEIGHT}" in message
    assert f"{size[0]}x{size[1]}" in message
    assert "a.xml" in message


@pytest.mark.parametrize(
    "size",
    [(0, 0), (0, HEIGHT), (WIDTH, 0), None, ("", ""), ("wide", "high"), (-1, -1), ("nan", HEIGHT), ("inf", HEIGHT)],
)
def test_sizes_that_are_not_told_are_the_images(tmp_path: Path, size: tuple[object, object] | None) -> None:
    write(tmp_path / "VOC2012", "train", {"a": annotation(thing("dog", (11, 11, 99, 99)), size=size)})
    assert boxes(Voc(tmp_path, "train")[0]) == [[10, 10, WIDTH, HEIGHT]]


def test_sizes_of_an_image_that_the_camera_turned(tmp_path: Path) -> None:
    folder = write(tmp_path / "VOC2012", "train", {"a": annotation(thing("dog", (11, 11, 99, 99)), size=(0, 0))})
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "JPEGImages/a.jpg", exif=exif)
    sample = Voc(tmp_path, "train")[0]
    assert sample.image.shape == (WIDTH, HEIGHT, 3)
    assert boxes(sample) == [[10, 10, HEIGHT, WIDTH]]


def test_sizes_of_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "VOC2012", "train", {"a": annotation(thing("dog"), size=None)})
    (folder / "JPEGImages/a.jpg").write_text("rubbish")
    assert refused(tmp_path, "train").startswith(f"{folder / 'JPEGImages/a.jpg'}: ")


def test_bad_boxes_are_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    objects = [
        thing("dog", (1, 1, 4, 4)),
        thing("person", (20, 1, 10, 4), "<difficult>1</difficult>"),  # turned about
        thing("cat", (7, 5, 6, 9)),  # from 6 to 6: no column at all
        thing("person", (60, 1, 70, 4)),
        thing("person", ("", 1, 7, 4)),
        thing("person", ("nan", 1, 7, 4)),
        "<object><name>person</name></object>",
        thing("cow", (31, 31, 80, 80), "<difficult>1</difficult>"),
        thing("sheep", (0, 0, 4, 4)),  # counted from 0: a pixel of rounding
    ]
    after = annotation(thing("horse", (3, 3, 6, 6)))
    write(tmp_path / "VOC2012", "train", {"a": annotation(), "b": annotation(*objects), "c": after})
    with caplog.at_level(logging.WARNING, logger="mnv2vision"):
        data = Voc(tmp_path, "train", classes=VOC_NAMES)
    sample = data[1]
    (message,) = caplog.messages
    assert str(tmp_path) in message
    assert "of 10 boxes, " in message
    assert "3 not finite, dropped (object 5 of b.xml, object 6 of b.xml, object 7 of b.xml)" in message
    assert "2 without area, dropped (object 2 of b.xml, object 3 of b.xml)" in message
    assert "1 outside the image, dropped (object 4 of b.xml)" in message
    assert "1 reaching beyond the image, clipped (object 8 of b.xml)" in message
    assert boxes(data[2]) == [[2, 2, 6, 6]]
    assert boxes(sample) == [[0, 0, 4, 4], [30, 30, WIDTH, HEIGHT], [0, 0, 4, 4]]
    assert labels(sample) == [VOC_NAMES.index(name) for name in ("dog", "cow", "sheep")]
    assert sample.boxes is not None
    assert sample.boxes.difficult.tolist() == [False, True, False]


def test_good_files_are_read_in_silence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, "train", {"a": annotation(thing("dog", (1, 1, WIDTH, HEIGHT)), thing("cat", (50, 40, 50, 40)))})
    with caplog.at_level(logging.WARNING, logger="mnv2vision"):
        assert boxes(Voc(tmp_path, "train", classes=VOC_NAMES)[0]) == [[0, 0, WIDTH, HEIGHT], [49, 39, 50, 40]]
    assert not caplog.records


# ---- the real sets ----


@pytest.mark.parametrize("split", ["train", "val"])
def test_as_torchvision_reads_it(shared: Path, split: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="mnv2vision"):
        ours = Voc(shared / "data/voc/VOCdevkit", split)
    assert not caplog.records
    theirs = VOCDetection(str(shared / "data/voc"), year="2012", image_set=split)
    assert len(ours) == len(theirs) > 0
    difficult = 0
    for i in range(len(ours)):
        sample = ours[i]
        image, target = theirs[i]
        assert f"{sample.image_id}.jpg" == target["annotation"]["filename"]
        assert sample.image.shape == (image.height, image.width, 3)
        wanted = [
            (
                item["name"],
                [float(item["bndbox"][side]) for side in ("xmin", "ymin", "xmax", "ymax")],
                item["difficult"] == "1",
            )
            for item in target["annotation"]["object"]
        ]
        assert [VOC_NAMES[label] for label in labels(sample)] == [name for name, _, _ in wanted]
        # Back to VOC's inclusive pixels, as a results file has them.
        assert np.add(boxes(sample), [1, 1, 0, 0]).tolist() == [box for _, box, _ in wanted]
        assert sample.boxes is not None
        assert sample.boxes.difficult.tolist() == [hard for _, _, hard in wanted]
        difficult += int(sample.boxes.difficult.sum())
    assert difficult > 0


def test_a_set_with_a_class_of_its_own(shared: Path) -> None:
    splits = [Voc(shared / "data/raccoon/VOCdevkit", split) for split in ("train", "val", "train+val")]
    assert [data.names for data in splits] == [("raccoon",)] * 3
    assert [len(data) for data in splits] == [160, 40, 200]
    for data in splits[:2]:
        for i in range(len(data)):
            sample = data[i]
            assert sample.boxes is not None
            assert len(sample.boxes) > 0
            assert set(labels(sample)) == {0}
            height, width = sample.image.shape[:2]
            assert (sample.boxes.boxes >= 0).all()
            assert (sample.boxes.boxes <= [width, height, width, height]).all()
            assert (sample.boxes.boxes[:, 2:] > sample.boxes.boxes[:, :2]).all()
