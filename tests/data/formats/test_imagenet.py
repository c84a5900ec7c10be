import errno
import logging
import os
import pickle
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from mnv2vision.common.logs import warn_once
from mnv2vision.data.decoding import IMAGE_EXTENSIONS
from mnv2vision.data.formats import folder_index
from mnv2vision.data.formats.imagenet import ImageNet, check_same_classes, imagenet_classes, imagenet_names
from mnv2vision.data.formats.names import FileNames
from mnv2vision.errors import DataError

SHARED = Path(os.environ.get("MNV2VISION_SHARED", Path(__file__).parents[3] / "../shared")) / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is absent (MNV2VISION_SHARED)")

FILES = ["ants/a.jpg", "ants/deep/er/b.PNG", "bees/c.JPEG", "bees/d.webp", "bees/e.bmp", "bees/é ü.jpeg"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MNV2VISION_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(logging.getLogger("mnv2vision"), "propagate", True)  # the command line turns it off
    warn_once.cache_clear()
    return tmp_path / "home"


def make(folder: Path, files: list[str], *, years_ago: int = 1) -> Path:
    """Write tiny images and age their folders: the index distrusts one that was changed a moment ago."""
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 7)).save(folder / file)
    age(folder, years_ago)
    return folder


def age(folder: Path, years: int = 1) -> None:
    for path, _, _ in os.walk(folder):
        then = os.stat(path).st_mtime_ns - years * 31_536_000 * 10**9
        os.utime(path, ns=(then, then))


def contents(data: ImageNet) -> list[tuple[str, str]]:
    """Class and file of every image, as the index tells them."""
    root = os.path.join(data._folder, "")
    return [(data.names[data.labels[i]], data.path(i).removeprefix(root)) for i in range(len(data))]


def on_disk(files: list[str]) -> list[tuple[str, str]]:
    return sorted((file.split("/")[0], file) for file in files)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make(tmp_path / "data/train", FILES)
    (tmp_path / "data/train/ants/notes.txt").touch()
    (tmp_path / "data/train/ants/._a.jpg").touch()
    (tmp_path / "data/train/.git").mkdir()
    age(tmp_path / "data/train")
    return tmp_path / "data"


def test_finds_what_is_there(root: Path) -> None:
    data = ImageNet(root, "train")
    assert data.names == data.class_folders == ("ants", "bees")
    assert data.targets == {"label"}
    assert sorted(contents(data)) == on_disk(FILES)
    assert data.labels.tolist() == [0, 0, 1, 1, 1, 1]


def test_sample(root: Path) -> None:
    data = ImageNet(str(root), "train")
    sample = data[1]
    assert sample.image.shape == (7, 9, 3)
    assert sample.image_id == "ants/deep/er/b.PNG"
    assert Path(sample.path) == root / "train/ants/deep/er/b.PNG"
    assert sample.label == 0
    assert data[-1].image_id == "bees/é ü.jpeg"
    with pytest.raises(IndexError):
        data[6]


def test_synset_folders_are_shown_by_name(tmp_path: Path) -> None:
    make(tmp_path / "val", ["n01440764/a.jpg", "n02012849/b.jpg", "own/c.jpg"])
    data = ImageNet(tmp_path, "val")
    assert data.class_folders == ("n01440764", "n02012849", "own")
    assert data.names == ("tench", "crane bird", "own")


def test_classes_restrict_and_order(tmp_path: Path) -> None:
    make(tmp_path / "val", ["n01440764/a.jpg", "own/b.jpg", "own/c.jpg", "x/d.jpg"])
    data = ImageNet(tmp_path, "val", classes=["own", "tench"])
    assert data.class_folders == ("own", "n01440764")
    assert contents(data) == [("own", "own/b.jpg"), ("own", "own/c.jpg"), ("tench", "n01440764/a.jpg")]


def test_unknown_class(root: Path) -> None:
    with pytest.raises(DataError, match=r"no class wasps; the classes are: ants, bees"):
        ImageNet(root, "train", classes=["ants", "wasps"])


@pytest.mark.parametrize("classes", [[], ["ants", "ants"]])
def test_classes_must_be_some_and_distinct(root: Path, classes: list[str]) -> None:
    with pytest.raises(DataError, match="one or more distinct names"):
        ImageNet(root, "train", classes=classes)


def refused(root: Path, split: str = "train") -> str:
    with pytest.raises(DataError) as caught:
        ImageNet(root, split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_root_missing(tmp_path: Path) -> None:
    assert str(tmp_path / "nowhere") in refused(tmp_path / "nowhere")


def test_split_missing_names_those_there(root: Path) -> None:
    (root / "test").mkdir()
    assert "'val'; folders found: test, train" in refused(root, "val")


def test_no_classes_and_no_images(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    assert "no class folders and no images" in refused(tmp_path)


def test_class_without_images_is_named(root: Path) -> None:
    (root / "train/wasps/deep").mkdir(parents=True)
    assert "no images in wasps" in refused(root)
    assert len(ImageNet(root, "train", classes=["ants"])) == 2


def test_permission_denied(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(path: str) -> object:
        if path.endswith("bees"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # chmod does not stop root
    message = refused(root)
    assert "Permission denied" in message
    assert str(root / "train/bees") in message


def test_links_to_folders_are_followed(root: Path, tmp_path: Path) -> None:
    make(tmp_path / "elsewhere", ["f.jpg"])
    (root / "train/flies").symlink_to(tmp_path / "elsewhere")
    assert sorted(contents(ImageNet(root, "train"))) == on_disk([*FILES, "flies/f.jpg"])


@pytest.mark.parametrize("target", [".", "..", "../.."], ids=["class", "split", "root"])
def test_link_loop_is_named(root: Path, target: str) -> None:
    link = root / "train/ants/loop"
    link.symlink_to(target)
    message = refused(root)
    assert str(link) in message
    assert "link" in message


def test_link_to_itself_is_named(root: Path) -> None:
    link = root / "train/ants/self"
    link.symlink_to("self")
    message = refused(root)
    assert str(link) in message
    assert "link to itself" in message


def test_differing_classes_are_named(tmp_path: Path) -> None:
    make(tmp_path / "train", ["ants/a.jpg", "bees/b.jpg", "wasps/c.jpg"])
    make(tmp_path / "val", ["ants/a.jpg", "bees/b.jpg", "flies/c.jpg"])
    train, val = ImageNet(tmp_path, "train"), ImageNet(tmp_path, "val")
    with pytest.raises(DataError, match="wasps only in train; flies only in val"):
        check_same_classes(train.names, val.names)
    with pytest.raises(DataError, match="order"):
        check_same_classes(train.names, ("wasps", "bees", "ants"))
    check_same_classes(train.names, train.names)


def test_numbers_are_names(tmp_path: Path) -> None:
    """Classes by number are folders (modestyachts/ImageNetV2#10), and 01 is another one than 1."""
    make(tmp_path / "val", ["0/a.jpg", "01/b.jpg", "10/c.jpg"])
    numbers: list[object] = [10, 0]
    assert ImageNet(tmp_path, "val", classes=numbers).names == ("10", "0")  # type: ignore[arg-type]
    assert contents(ImageNet(tmp_path, "val", classes=["01", "10"])) == [("01", "01/b.jpg"), ("10", "10/c.jpg")]


def test_files_that_are_left_out_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path / "val", ["red/0.jpg", "red/1.JFIF", "blue/0.jpe", "blue/1.tif", "blue/deep/2.TIF"])
    for name in ("red/readme", "stray.png"):
        (tmp_path / "val" / name).touch()
    age(tmp_path / "val")
    for _ in range(2):  # the second time from the index
        caplog.clear()
        assert len(ImageNet(tmp_path, "val")) == 3
        (message,) = caplog.messages
        assert f"{tmp_path}/val: 4 files are ignored" in message
        assert "(without extension 1, .tif 2, beside the class folders 1)" in message


def test_root_one_level_too_high(tmp_path: Path) -> None:
    """easezyc/deep-transfer-learning#4: all images in one class, which is always right."""
    make(tmp_path / "train", ["images/red/0.jpg", "images/blue/0.jpg"])
    message = refused(tmp_path)
    assert "a single class images, with sub-folders blue, red" in message
    make(tmp_path / "val", ["images/0.jpg", "images/blue/0.jpg"])
    assert ImageNet(tmp_path, "val").names == ("images",)


# ---- the cached index ----


def forbid_walking(monkeypatch: pytest.MonkeyPatch) -> None:
    def walk(*_: object) -> None:
        raise AssertionError("the folders are walked")

    monkeypatch.setattr(folder_index, "_Walk", walk)


def test_second_time_reads_the_index(root: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ImageNet(root, "train")
    assert [path.suffix for path in (home / "index").iterdir()] == [".npz"]
    forbid_walking(monkeypatch)
    second = ImageNet(root / "../data", "train")
    assert sorted(contents(second)) == sorted(contents(first))


@pytest.mark.parametrize("folder", ["ants", "ants/deep/er", "wasps"])
def test_added_file_is_noticed(root: Path, folder: str) -> None:
    ImageNet(root, "train")
    make(root / "train", [f"{folder}/new.jpg"], years_ago=0)
    assert sorted(contents(ImageNet(root, "train"))) == on_disk([*FILES, f"{folder}/new.jpg"])


def test_removed_file_is_noticed(root: Path) -> None:
    ImageNet(root, "train")
    (root / "train/ants/deep/er/b.PNG").unlink()
    assert sorted(contents(ImageNet(root, "train"))) == on_disk([file for file in FILES if "b.PNG" not in file])


def test_removed_folder_is_noticed(root: Path) -> None:
    ImageNet(root, "train")
    (root / "train/ants/deep/er/b.PNG").unlink()
    (root / "train/ants/deep/er").rmdir()
    assert len(ImageNet(root, "train")) == len(FILES) - 1


def test_change_within_the_clock_tick_is_noticed(root: Path) -> None:
    ants = root / "train/ants"
    os.utime(ants)
    moment = os.stat(ants).st_mtime_ns
    ImageNet(root, "train")
    make(root / "train", ["ants/new.jpg"], years_ago=0)
    os.utime(ants, ns=(moment, moment))
    assert len(ImageNet(root, "train")) == len(FILES) + 1


@pytest.mark.parametrize("kind", ["none", "of the mounting", "of a bucket"])
def test_folders_without_times_are_walked(root: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Mounted buckets give folders the time 0, that of the mounting, or one that no change elsewhere moves."""
    if kind == "of a bucket":
        monkeypatch.setattr(folder_index, "_file_system", lambda path: "fuse.gcsfuse")
    places = [path for path, _, _ in os.walk(root)]
    times = {
        path: 0 if kind == "none" else 10**9 if kind == "of the mounting" else os.stat(path).st_mtime_ns
        for path in places
    }

    def restore() -> None:
        for path, moment in times.items():
            os.utime(path, ns=(moment, moment))

    restore()
    ImageNet(root, "train")
    make(root / "train", ["ants/new.jpg"], years_ago=0)
    restore()
    assert len(ImageNet(root, "train")) == len(FILES) + 1


def test_the_file_system_of_a_folder() -> None:
    assert folder_index._file_system("/proc/self") == "proc"


@pytest.mark.parametrize("damage", [b"", b"rubbish", None], ids=["empty", "rubbish", "cut"])
def test_corrupt_index_is_rebuilt(
    root: Path, home: Path, damage: bytes | None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ImageNet(root, "train")
    (cache,) = (home / "index").iterdir()
    cache.write_bytes(cache.read_bytes()[:-50] if damage is None else damage)
    with caplog.at_level(logging.WARNING):
        assert sorted(contents(ImageNet(root, "train"))) == on_disk(FILES)
    assert [str(cache) in message for message in caplog.messages if "ignored" not in message] == [True]
    forbid_walking(monkeypatch)
    assert len(ImageNet(root, "train")) == len(FILES)


def test_unwritable_cache_is_no_obstacle(root: Path, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    home.write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert len(ImageNet(root, "train")) == len(FILES)
    assert len([record for record in caplog.records if "no image index in" in record.getMessage()]) == 1


def test_a_million_files_fit_into_a_worker(root: Path) -> None:
    count = 1_281_167
    data = ImageNet(root, "train")
    data._files = FileNames.of([f"n{i % 1000:08}_{i % 99999}.JPEG" for i in range(count)])
    data.labels = np.zeros(count, np.int16)
    pickled = pickle.dumps(data)
    assert len(pickled) < 50e6
    assert pickle.loads(pickled).path(count - 1) == data.path(count - 1) == f"{root}/train/ants/n00000166_81178.JPEG"


def test_names_survive_packing() -> None:
    names = ["a.jpg", "", "ß/漢字.png", os.fsdecode(b"\xff.jpg")]
    packed = FileNames.of(names)
    assert [packed[i] for i in range(len(packed))] == names
    taken = packed.take(np.array([3, 0, 2]))
    assert [taken[i] for i in range(len(taken))] == [names[3], names[0], names[2]]


# ---- the flat validation folder ----

SYNSETS = ["n02084071", "n01440764", "n01443537"]  # by the devkit's numbers 1, 2, 3: not in the order of the labels
TRUTH = [3, 1, 2, 1]
LABELS = [1, 2, 0, 2]  # sorted synsets: n01440764, n01443537, n02084071


def flat(root: Path, count: int = 4) -> Path:
    # Written in reverse, so that nothing leans on the order of creation.
    make(root / "val", [f"ILSVRC2012_val_{i + 1:08}.JPEG" for i in reversed(range(count))])
    return root


def devkit(folder: Path, truth: list[int] = TRUTH) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{number}\n" for number in truth))
    synsets = np.zeros(4, dtype=[("ILSVRC2012_ID", object), ("WNID", object), ("words", object)])
    for i, synset in enumerate([*SYNSETS, "n00001740"]):
        synsets[i] = (float(i + 1 if i < 3 else 1001), synset, "words")
    savemat(folder / "meta.mat", {"synsets": synsets.reshape(-1, 1)})


def solution(path: Path, truth: list[int] = TRUTH) -> None:
    rows = [f"ILSVRC2012_val_{i + 1:08},{SYNSETS[n - 1]} 1 2 3 4 {SYNSETS[0]} 5 6 7 8 " for i, n in enumerate(truth)]
    path.write_text("\n".join(["ImageId,PredictionString", *reversed(rows)]) + "\n")


@pytest.mark.parametrize("place", ["", "data", "ILSVRC2012_devkit_t12/data", "LOC_val_solution.csv"])
def test_flat_split(tmp_path: Path, place: str) -> None:
    flat(tmp_path)
    if place.endswith("csv"):
        solution(tmp_path / place)
    else:
        devkit(tmp_path / place)
    data = ImageNet(tmp_path, "val")
    assert data.class_folders == tuple(sorted(SYNSETS))
    assert data.names[:2] == ("tench", "goldfish")
    assert data.labels.tolist() == LABELS
    assert [data[i].label for i in range(4)] == LABELS
    assert data[2].image_id == "ILSVRC2012_val_00000003.JPEG"
    chosen = ImageNet(tmp_path, "val", classes=["goldfish", "tench"])
    assert [chosen[i].image_id[-6] for i in range(len(chosen))] == ["1", "3"]


def test_flat_split_without_labels(tmp_path: Path) -> None:
    message = refused(flat(tmp_path), "val")
    assert "ILSVRC2012_validation_ground_truth.txt" in message
    assert "LOC_val_solution.csv" in message


def test_flat_split_without_meta(tmp_path: Path) -> None:
    devkit(flat(tmp_path))
    (tmp_path / "meta.mat").unlink()
    assert "meta.mat" in refused(tmp_path, "val")


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("ILSVRC2012_validation_ground_truth.txt", "1\ntwo\n", "one class number per line"),
        ("ILSVRC2012_validation_ground_truth.txt", "1\n4\n", "class 4 is not among the 3"),
        ("meta.mat", "rubbish", "not the devkit's meta.mat"),
        ("LOC_val_solution.csv", "a,b\n1,2\n", "ImageId,PredictionString"),
        ("LOC_val_solution.csv", "ImageId,PredictionString\nx,\n", "ImageId,PredictionString"),
        ("LOC_val_solution.csv", "ImageId,PredictionString\nx,n01440764 1 2 3 4\n", "no row for ILSVRC2012_val_0"),
    ],
)
def test_flat_split_with_bad_labels(tmp_path: Path, file: str, content: str, reason: str) -> None:
    flat(tmp_path)
    if not file.endswith("csv"):
        devkit(tmp_path)
    (tmp_path / file).write_text(content)
    message = refused(tmp_path, "val")
    assert reason in message
    assert file in message


def test_flat_split_of_another_count(tmp_path: Path) -> None:
    devkit(flat(tmp_path, count=3))
    assert "3 images, but 4 lines" in refused(tmp_path, "val")
    (tmp_path / "ILSVRC2012_validation_ground_truth.txt").unlink()
    solution(tmp_path / "LOC_val_solution.csv")
    assert "3 images, but 4 rows" in refused(tmp_path, "val")


# ---- the table ----


def test_table_agrees_with_timm() -> None:
    timm = find_spec("timm")
    if timm is None or timm.origin is None:
        pytest.skip("timm is absent")
    info = Path(timm.origin).parent / "data/_info"  # read, not imported: that takes seconds
    lines = (info / "imagenet_synset_to_lemma.txt").read_text().splitlines()
    lemmas = {synset: text.lower().split(", ") for synset, text in (line.split("\t") for line in lines)}
    table = imagenet_classes()
    assert list(table) == (info / "imagenet_synsets.txt").read_text().split() == sorted(table)
    told_apart = {name for synset, name in table.items() if name.lower() not in lemmas[synset]}
    assert told_apart == {"crane bird", "maillot tank suit"}


def test_names_are_unique_whatever_the_case() -> None:
    assert len({name.lower() for name in imagenet_names()}) == len(imagenet_names()) == 1000


# ---- real data ----


@needs_shared
@pytest.mark.parametrize(
    ("name", "split", "count", "classes"),
    [("imagenette", "train", 1000, 10), ("imagenette", "val", 300, 10), ("hymenoptera", "train", 243, 2)],
)
def test_real_data(name: str, split: str, count: int, classes: int) -> None:
    data = ImageNet(SHARED / name, split)
    assert (len(data), len(data.names)) == (count, classes)
    listed = [path for path in (SHARED / name / split).rglob("*") if path.suffix.lower() in IMAGE_EXTENSIONS]
    assert sorted(data.path(i) for i in range(len(data))) == sorted(os.path.abspath(path) for path in listed)
    assert data[count // 2].image.shape[2] == 3
