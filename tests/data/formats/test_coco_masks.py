"""COCO's instances painted as masks: pycocotools' pixels, the stated order, and VOC's classes."""

import contextlib
import io
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as pycoco_mask
from pycocotools.coco import COCO
from torchvision.models.segmentation import LRASPP_MobileNet_V3_Large_Weights

from mnv2vision.data.formats.coco import Coco
from mnv2vision.errors import DataError

HEIGHT, WIDTH = 20, 30
# VOC's classes by COCO's ids, as torchvision's reference training has them (references/segmentation/coco_utils.py).
VOC_IDS = [0, 5, 2, 16, 9, 44, 6, 3, 17, 62, 21, 67, 18, 19, 4, 1, 64, 20, 63, 7, 72]
VOC_NAMES = LRASPP_MobileNet_V3_Large_Weights.DEFAULT.meta["categories"]


@pytest.fixture(autouse=True)
def _log_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("mnv2vision"), "propagate", True)  # the command line turns it off


def rectangle(x1: int, y1: int, x2: int, y2: int) -> list[list[float]]:
    return [[x1, y1, x2, y1, x2, y2, x1, y2]]


def instance(outline: Any, category: int, area: float = 50, crowd: int = 0) -> dict[str, Any]:
    return {
        "image_id": 7,
        "category_id": category,
        "bbox": [0, 0, WIDTH, HEIGHT],
        "area": area,
        "iscrowd": crowd,
        "segmentation": outline,
    }


def write(root: Path, instances: Sequence[dict[str, Any]], categories: Sequence[tuple[int, str]] | None = None) -> None:
    categories = categories or [(3, "ant"), (9, "bee"), (40, "cat")]
    data = {
        "images": [{"id": 7, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}],
        "annotations": [{"id": number, **item} for number, item in enumerate(instances, 1)],
        "categories": [{"id": number, "name": name} for number, name in categories],
    }
    for folder in ("annotations", "train2017"):
        (root / folder).mkdir(exist_ok=True)
    (root / "annotations/instances_train2017.json").write_text(json.dumps(data))
    Image.new("RGB", (WIDTH, HEIGHT)).save(root / "train2017/a.png")


def painted(root: Path, instances: Sequence[dict[str, Any]], **options: Any) -> NDArray[np.uint8]:
    write(root, instances)
    sample = Coco(root, "train", **options, targets=("mask",))[0]
    assert sample.mask is not None
    assert sample.mask.dtype == np.uint8
    assert (sample.boxes, sample.image_id) == (None, 7)
    return sample.mask


def canvas(*rectangles: tuple[int, int, int, int, int]) -> NDArray[np.uint8]:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for x1, y1, x2, y2, value in rectangles:
        mask[y1:y2, x1:x2] = value
    return mask


# ---- the stated order ----


def test_labels_are_the_categories_in_order_after_the_background(tmp_path: Path) -> None:
    outlines = [(40, (1, 1, 5, 5)), (3, (6, 6, 9, 9)), (9, (10, 10, 19, 15))]
    mask = painted(tmp_path, [instance(rectangle(*box), category) for category, box in outlines])
    np.testing.assert_array_equal(mask, canvas((1, 1, 5, 5, 3), (6, 6, 9, 9, 1), (10, 10, 19, 15, 2)))
    data = Coco(tmp_path, "train", targets=("mask",))
    assert data.names == ("background", "ant", "bee", "cat")
    assert data.targets == {"mask"}


@pytest.mark.parametrize("turned", [False, True])
def test_the_smaller_shows(tmp_path: Path, turned: bool) -> None:
    large, small = instance(rectangle(2, 2, 20, 18), 3, 288), instance(rectangle(5, 5, 9, 9), 9, 16)
    mask = painted(tmp_path, [small, large] if turned else [large, small])
    np.testing.assert_array_equal(mask, canvas((2, 2, 20, 18, 1), (5, 5, 9, 9, 2)))


def test_the_annotated_area_decides(tmp_path: Path) -> None:
    """Not the outline's or the box's."""
    instances = [instance(rectangle(5, 5, 9, 9), 9, 999), instance(rectangle(2, 2, 20, 18), 3, 1)]
    np.testing.assert_array_equal(painted(tmp_path, instances), canvas((2, 2, 20, 18, 1)))


@pytest.mark.parametrize("area", [1, 10**5])
@pytest.mark.parametrize("turned", [False, True])
def test_crowds(tmp_path: Path, area: int, turned: bool) -> None:
    """Whatever their area, others cover them."""
    whole = canvas((0, 0, 25, 20, 1))
    counts = [0, *np.diff(np.flatnonzero(np.diff(whole.T.ravel(), append=2)) + 1, prepend=0).tolist()]
    crowd = instance({"size": [HEIGHT, WIDTH], "counts": counts}, 3, area, 1)
    other = instance(rectangle(5, 5, 9, 9), 9, 16)
    mask = painted(tmp_path, [other, crowd] if turned else [crowd, other])
    np.testing.assert_array_equal(mask, canvas((0, 0, 25, 20, 255), (5, 5, 9, 9, 2)))


def test_classes_restrict_and_order(tmp_path: Path) -> None:
    instances = [
        instance(rectangle(1, 1, 5, 5), 40),
        instance(rectangle(6, 6, 9, 9), 3),
        instance(rectangle(6, 6, 8, 8), 9, 4),
    ]
    mask = painted(tmp_path, instances, classes=["cat", "ant"])
    np.testing.assert_array_equal(mask, canvas((1, 1, 5, 5, 1), (6, 6, 9, 9, 2)))
    assert Coco(tmp_path, "train", classes=["cat", "ant"], targets=("mask",)).names == ("background", "cat", "ant")


def test_images_without_instances(tmp_path: Path) -> None:
    write(tmp_path, [instance(rectangle(1, 1, 5, 5), 3)])
    file = tmp_path / "annotations/instances_train2017.json"
    data = json.loads(file.read_text())
    data["images"].append({**data["images"][0], "id": 8})
    file.write_text(json.dumps(data))
    mask = Coco(tmp_path, "train", targets=("mask",))[1].mask
    assert mask is not None
    assert not mask.any()


# ---- outlines ----


def test_polygons_of_several_parts(tmp_path: Path) -> None:
    outline = [*rectangle(1, 1, 5, 5), *rectangle(10, 10, 15, 19)]
    np.testing.assert_array_equal(
        painted(tmp_path, [instance(outline, 3)]), canvas((1, 1, 5, 5, 1), (10, 10, 15, 19, 1))
    )


@pytest.mark.parametrize("kind", ["polygon", "counts", "compressed"])
@pytest.mark.parametrize("seed", range(3))
def test_outlines_of_all_kinds(tmp_path: Path, kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    outline: Any
    if kind == "polygon":
        outline = [(rng.uniform(0, 1, (7, 2)) * (WIDTH, HEIGHT)).round(2).ravel().tolist() for _ in range(2)]
        wanted = pycoco_mask.decode(pycoco_mask.merge(pycoco_mask.frPyObjects(outline, HEIGHT, WIDTH)))
    else:
        wanted = (rng.random((HEIGHT, WIDTH)) < 0.5).astype(np.uint8)
        outline = pycoco_mask.encode(np.asfortranarray(wanted))
        outline["counts"] = outline["counts"].decode()
        if kind == "counts":
            changes = np.flatnonzero(np.diff(wanted.T.ravel(), prepend=0, append=2))
            outline["counts"] = np.diff(changes, prepend=0).tolist()
    assert 0 < wanted.sum() < wanted.size
    np.testing.assert_array_equal(painted(tmp_path, [instance(outline, 3)]), wanted)


@pytest.mark.parametrize(
    ("outline", "problem"),
    [
        ("rubbish", "neither polygons nor run-length encoded"),
        (5, "neither polygons nor run-length encoded"),
        ([["a", "b", "c", "d", "e", "f"]], "neither polygons nor run-length encoded"),
        ([[None] * 6], "neither polygons nor run-length encoded"),
        ([[1, 1], [2, 2, 3]], "odd number"),
        ([[1, 1, 9, 1, 9, 9, 1]], "odd number"),
        ([1, 1, [9, 1], 9, 9], "neither polygons nor run-length encoded"),
        ([[[1, 1, 5], [9, 1], [9, 9]]], "neither polygons nor run-length encoded"),
        ([[1, 1, 9, 1, 9, float("nan")]], "nan or infinite"),
        ([[1, 1, 9, 1, 9, float("inf")]], "nan or infinite"),
        ([[1, 1, 9, 1, 9, 10**400]], "nan or infinite"),
        ({"size": [HEIGHT, WIDTH]}, "neither polygons nor run-length encoded"),
        ({"counts": [0, HEIGHT * WIDTH]}, "a size other than"),
        ({"size": [HEIGHT, WIDTH], "counts": [5, 6]}, "do not add up"),
        ({"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH + 1]}, "do not add up"),
        ({"size": [HEIGHT, WIDTH], "counts": [-5, HEIGHT * WIDTH + 5]}, "do not add up"),
        ({"size": [HEIGHT, WIDTH], "counts": [0.5, HEIGHT * WIDTH]}, "neither polygons nor run-length encoded"),
        ({"size": [HEIGHT, WIDTH], "counts": [2**63, 5]}, "neither polygons nor run-length encoded"),
        ({"size": [HEIGHT, WIDTH], "counts": "5"}, "do not add up"),
        ({"size": [HEIGHT, WIDTH], "counts": "abc"}, "neither polygons nor run-length encoded"),
        ({"size": [HEIGHT, WIDTH], "counts": "o" * 30}, "neither polygons nor run-length encoded"),
        ({"size": [HEIGHT, WIDTH], "counts": "é"}, "neither polygons nor run-length encoded"),
        ({"size": [HEIGHT, WIDTH], "counts": ""}, "neither polygons nor run-length encoded"),
        ({"size": [HEIGHT, WIDTH], "counts": None}, "neither polygons nor run-length encoded"),
        ({"size": [WIDTH, HEIGHT], "counts": [0, HEIGHT * WIDTH]}, "a size other than"),
        ({"size": [5, 5], "counts": [0, 25]}, "a size other than"),
    ],
    ids=repr,
)
def test_broken_outlines_are_refused_before_the_first_image(tmp_path: Path, outline: Any, problem: str) -> None:
    write(tmp_path, [instance(rectangle(1, 1, 5, 5), 3), instance(outline, 3), instance(outline, 9)])
    with pytest.raises(DataError) as caught:
        Coco(tmp_path, "train", targets=("mask",))
    file = tmp_path / "annotations/instances_train2017.json"
    message = str(caught.value)
    assert message.startswith(f"{file}: 2 outlines cannot be painted (annotation 2 of a.png, annotation 3 of a.png): ")
    assert problem in message
    assert "\n" not in message
    assert Coco(tmp_path, "train")[0].boxes is not None  # boxes do not need it


def test_broken_outlines_of_other_classes_do_not_matter(tmp_path: Path) -> None:
    mask = painted(tmp_path, [instance(rectangle(1, 1, 5, 5), 3), instance("rubbish", 9)], classes=["ant"])
    np.testing.assert_array_equal(mask, canvas((1, 1, 5, 5, 1)))


@pytest.mark.parametrize(
    "outline", [None, [], [[]], {}, [[2, 3]], [[2, 3, 9, 8]], [2, 3, 9, 8], {"size": [20, 30], "counts": [600]}]
)
def test_what_has_no_outline_is_painted_as_its_box(
    tmp_path: Path, outline: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Of rectangles among polygons, as in SwinTransformer/Swin-Transformer-Object-Detection#162.

    Two points are no polygon (tensorpack/tensorpack#1041, voxel51/fiftyone#3572): COCO's tools take the four numbers
    for x, y, width and height.
    """
    item = instance(outline, 3) | {"bbox": [2, 3, 7, 5]}
    if outline is None:
        del item["segmentation"]
    mask = painted(tmp_path, [item, instance(rectangle(10, 10, 19, 15), 9)])
    np.testing.assert_array_equal(mask, canvas((2, 3, 9, 8, 1), (10, 10, 19, 15, 2)))
    (message,) = caplog.messages[-1:]
    file = tmp_path / "annotations/instances_train2017.json"
    assert message == f"{file}: 1 objects without an outline, painted as their boxes (annotation 1 of a.png)"


@pytest.mark.parametrize(
    "outline",
    [
        [[2, 3, 9, 3, 9, 8, 2, 8]],
        [2, 3, 9, 3, 9, 8, 2, 8],
        [[[2, 3], [9, 3], [9, 8], [2, 8]]],
        [[2, 3], [9, 3], [9, 8], [2, 8]],
        [[2, 3, 9, 3, 9, 8, 2, 8], [], [1, 1]],
    ],
    ids=["COCO's", "flat", "points", "flat points", "with parts of no use"],
)
def test_polygons_of_other_layouts(tmp_path: Path, outline: Any, caplog: pytest.LogCaptureFixture) -> None:
    """roboflow/supervision#205, open-mmlab/mmpose#2248."""
    mask = painted(tmp_path, [instance(outline, 3)])
    np.testing.assert_array_equal(mask, canvas((2, 3, 9, 8, 1)))
    assert not [message for message in caplog.messages if "without an outline" in message]


@pytest.mark.parametrize("far", [2.0**31, 1e300, -1e18])
def test_outlines_far_beyond_the_image_are_clipped_and_counted(
    tmp_path: Path, far: float, caplog: pytest.LogCaptureFixture
) -> None:
    mask = painted(tmp_path, [instance([[2, 3, 9, 3, 9, far, 2, far]], 3)])
    np.testing.assert_array_equal(mask, canvas((2, 3, 9, 20, 1) if far > 0 else (2, 0, 9, 3, 1)))
    assert any(
        "1 outlines farther outside the image than its size, clipped (annotation 1 of a.png)" in message
        for message in caplog.messages
    )


def test_outlines_a_little_beyond_the_image_are_pycocotools_pixels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outline = [[-20.0, 5.5, 45, -12, 33.3, 35, 10, 12]]
    wanted = pycoco_mask.decode(pycoco_mask.merge(pycoco_mask.frPyObjects(outline, HEIGHT, WIDTH)))
    np.testing.assert_array_equal(painted(tmp_path, [instance(outline, 3)]), wanted)
    assert not [message for message in caplog.messages if "clipped" in message]


def test_more_classes_than_a_mask_holds(tmp_path: Path) -> None:
    """254 categories and the background fit below 255, which is for pixels that do not count."""
    names = [(number, f"class {number}") for number in range(1, 300)]
    write(tmp_path, [instance(rectangle(1, 1, 5, 5), 299)], names[:254] + names[-1:])
    with pytest.raises(DataError):
        Coco(tmp_path, "train", targets=("mask",))[0]
    write(tmp_path, [instance(rectangle(1, 1, 5, 5), 254)], names[:254])
    mask = Coco(tmp_path, "train", targets=("mask",))[0].mask
    assert mask is not None
    np.testing.assert_array_equal(mask, canvas((1, 1, 5, 5, 254)))


# ---- the real set ----


def reference(shared: Path, split: str) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(shared / f"data/coco/annotations/instances_{split}2017.json"))


def paint(coco: COCO, image_id: int, labels: dict[int, int]) -> NDArray[np.uint8]:
    """The stated rule with pycocotools' pixels: of each pixel, the smallest instance; crowds only where none is."""
    info = coco.imgs[image_id]
    mask = np.zeros((info["height"], info["width"]), np.uint8)
    smallest = np.full(mask.shape, np.inf)
    for item in coco.imgToAnns[image_id]:
        if item["category_id"] not in labels:
            continue
        inside = coco.annToMask(item).astype(bool)
        area = 1e12 if item["iscrowd"] else item["area"]
        wins = inside & (area < smallest)
        mask[wins] = 255 if item["iscrowd"] else labels[item["category_id"]]
        smallest[wins] = area
    return mask


@pytest.mark.parametrize(("split", "voc"), [("train", False), ("val", False), ("train", True), ("val", True)])
def test_as_pycocotools_has_them(shared: Path, split: str, voc: bool) -> None:
    coco = reference(shared, split)
    data = Coco(shared / "data/coco", split, voc=voc, targets=("mask",))
    if voc:
        assert list(data.names) == ["background", *VOC_NAMES[1:]]
        labels = {number: label for label, number in enumerate(VOC_IDS) if number}
    else:
        names = {item["name"]: item["id"] for item in coco.dataset["categories"]}
        assert len(data.names) == 81
        labels = {names[name]: label for label, name in enumerate(data.names) if label}
    seen: set[int] = set()
    for i in range(0, len(data), 2):
        sample = data[i]
        assert sample.mask is not None
        wanted = paint(coco, int(sample.image_id), labels)
        np.testing.assert_array_equal(sample.mask, wanted, err_msg=str(sample.image_id))
        seen.update(np.unique(wanted).tolist())
    assert {0, 255} < seen
    assert len(seen) > 10


def test_names_of_voc(shared: Path) -> None:
    """The ids that torchvision's training maps are the categories that VOC's names mean."""
    coco = reference(shared, "val")
    other = {
        "aeroplane": "airplane",
        "diningtable": "dining table",
        "motorbike": "motorcycle",
        "pottedplant": "potted plant",
        "sofa": "couch",
        "tvmonitor": "tv",
    }
    for name, number in zip(
        Coco(shared / "data/coco", "val", voc=True, targets=("mask",)).names[1:], VOC_IDS[1:], strict=True
    ):
        assert coco.cats[number]["name"] == other.get(name, name)


def test_voc_and_classes_cannot_be_combined(tmp_path: Path) -> None:
    write(tmp_path, [instance(rectangle(1, 1, 5, 5), 3)])
    with pytest.raises(DataError, match="cannot be combined"):
        Coco(tmp_path, "train", voc=True, classes=["ant"], targets=("mask",))
    with pytest.raises(DataError, match="no category"):
        Coco(tmp_path, "train", voc=True, targets=("mask",))
