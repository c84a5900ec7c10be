"""Published weights by name: found, fetched from a local server, converted once, kept; and the entries themselves."""

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

import mnv2vision as mv
from mnv2vision.errors import ConfigError, WeightsError
from mnv2vision.weights import entries, file
from mnv2vision.weights.convert import SOURCES, convert
from mnv2vision.weights.registry import Entry
from mnv2vision.weights.table import table
from mnv2vision.weights.timm import PREPROCESSING, TF_PREPROCESSING

ROOT = Path(__file__).parents[2]
Publish = Callable[..., Entry]


@pytest.fixture
def peer(randomize) -> torch.nn.Module:
    module = torchvision.models.mobilenet_v2(weights=None, width_mult=0.35)
    randomize(module)
    return module.eval()


@pytest.fixture
def published(peer: torch.nn.Module) -> bytes:
    buffer = io.BytesIO()
    torch.save(peer.state_dict(), buffer)
    return buffer.getvalue()


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch) -> Publish:
    """Add an entry to the registry."""

    def add(name: str, location: str, **more: object) -> Entry:
        entry = Entry(name, "classification", "torchvision", location, "1000", "MIT", {"top1": 50.0}, "", **more)
        monkeypatch.setattr(entries, "ENTRIES", (*entries.ENTRIES, entry))
        return entry

    return add


def assert_equal(model: torch.nn.Module, peer: torch.nn.Module) -> None:
    # In double precision, as random weights amplify the rounding, which other kernels do otherwise.
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model.double()(images), peer.double()(images), rtol=1e-4, atol=1e-5)


def test_weights_are_downloaded_and_converted_once(files, peer, published: bytes, publish: Publish) -> None:
    files.contents["/model.pth"] = published
    publish("me/small-one", f"{files.url}/model.pth", preprocessing={"image_size": (96, 96)})
    for _ in range(2):
        model = mv.load("me/small-one")
        assert_equal(model, peer)
        assert model.preprocessing.image_size == (96, 96)
    assert len(files.asked) == 1
    home = Path(os.environ["MNV2VISION_HOME"])
    kept = home / "models" / mv.__version__ / "me--small-one.safetensors"
    assert file.read(kept).provenance == {
        "name": "me/small-one",
        "source": "torchvision",
        "location": f"{files.url}/model.pth",
        "licence": "MIT",
        "published": {"top1": 50.0},
    }


def test_a_local_copy_needs_no_network(tmp_path: Path, peer, published: bytes, publish: Publish) -> None:
    publish("me/small-one", "http://127.0.0.1:9/model.pth")
    (tmp_path / "copy.pth").write_bytes(published)
    assert_equal(mv.load("me/small-one", input=tmp_path / "copy.pth"), peer)
    with pytest.raises(WeightsError, match="cannot be downloaded"):
        mv.load("me/small-one")


def test_an_archive_is_unpacked(files, peer, published: bytes, publish: Publish) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in (("x/readme.txt", b"read me"), ("x/deep/model.pth", published)):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    files.contents["/model.tgz"] = buffer.getvalue()
    publish("me/packed", f"{files.url}/model.tgz", member="*.pth")
    publish("me/missing", f"{files.url}/model.tgz", member="*.ckpt.index")
    assert_equal(mv.load("me/packed"), peer)
    with pytest.raises(WeightsError, match=r"model\.tgz: holds no \*\.ckpt\.index, but x/deep/model\.pth, x/readme"):
        mv.load("me/missing")


def test_another_archive_of_the_same_name(tmp_path: Path, published: bytes, publish: Publish) -> None:
    publish("me/packed", "", member="*.pth")
    for folder, content in (("a", b"broken"), ("b", published)):
        (tmp_path / folder).mkdir()
        with tarfile.open(tmp_path / folder / "model.tgz", "w:gz") as archive:
            member = tarfile.TarInfo("model.pth")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    with pytest.raises(WeightsError, match="no state dictionary"):
        mv.load("me/packed", input=tmp_path / "a/model.tgz")
    assert mv.load("me/packed", input=tmp_path / "b/model.tgz").num_classes == 1000


def test_an_archive_cannot_write_elsewhere(files, tmp_path: Path, publish: Publish) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        member = tarfile.TarInfo("../../../escaped.pth")
        archive.addfile(member, io.BytesIO(b""))
    files.contents["/evil.tgz"] = buffer.getvalue()
    publish("me/evil", f"{files.url}/evil.tgz", member="*.pth")
    with pytest.raises(WeightsError, match="cannot be unpacked"):
        mv.load("me/evil")
    assert not list(tmp_path.rglob("*.pth"))


def test_hub_files_come_by_the_hubs_client(hub, peer, published: bytes, publish: Publish) -> None:
    hub.contents["me/repository/model.pth"] = published
    publish("me/hub-one", "hf://me/repository/model.pth")
    assert_equal(mv.load("me/hub-one"), peer)


def test_what_has_no_address_is_told(publish: Publish) -> None:
    with pytest.raises(WeightsError, match=r"tonylins/mobilenet_v2-imagenet: has no direct address; .*input=…"):
        mv.load("tonylins/mobilenet_v2-imagenet")


def test_offline(publish: Publish, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MNV2VISION_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("torchvision/mobilenet_v2-imagenet1k_v2", "paddle/mobilenet_v2_x0_25-imagenet"):
        with pytest.raises(WeightsError, match="offline mode is on"):
            mv.load(name)


def test_torchvisions_own_cache_serves_offline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, randomize, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MNV2VISION_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    module = torchvision.models.mobilenet_v2(weights=None)
    randomize(module)
    cached = tmp_path / "hub" / "checkpoints" / "mobilenet_v2-7ebf99e0.pth"
    cached.parent.mkdir(parents=True)
    torch.save(module.state_dict(), cached)
    model = mv.load("torchvision/mobilenet_v2-imagenet1k_v2")
    assert_equal(model, module.eval())
    assert model.preprocessing.crop_fraction == 224 / 232


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("timm/mobilenetv2_14", "did you mean timm/mobilenetv2_140-ra_in1k"),
        ("nothing.pt", r"no such file, and no published weights of that name; mv\.list_weights\(\)"),
        ("runs/none/model.safetensors", "no such model file"),
    ],
)
def test_unknown_names(name: str, told: str) -> None:
    with pytest.raises(WeightsError, match=told):
        mv.load(name)


def test_list_weights_by_task_and_source() -> None:
    assert {entry.task for entry in mv.list_weights("detection")} == {"detection"}
    assert [entry.name for entry in mv.list_weights("segmentation", "huggingface")] == [
        "huggingface/deeplabv3_mobilenet_v2_1.0-513"
    ]
    assert len(mv.list_weights(source="torchvision")) == 5


def test_the_published_families_are_complete() -> None:
    """paper_facts 1b: 22 checkpoints of MobileNetV2, 16 of V1; PaddleClas's seven; d-li14's ten."""
    names = [entry.name for entry in mv.list_weights()]
    assert len(set(names)) == len(names)
    for start, count in (
        ("tensorflow/mobilenet_v2", 22),
        ("tensorflow/mobilenet_v1", 16),
        ("tensorflow/mobilenet_v3", 6),
        ("tensorflow/ssd", 3),
        ("tensorflow/deeplabv3", 4),
        ("paddle/", 7),
        ("d-li14/", 10),
        ("timm/", 15),
        ("huggingface/", 7),
    ):
        assert sum(name.startswith(start) for name in names) == count


def test_every_entry_can_be_imported_from() -> None:
    for entry in mv.list_weights():
        assert entry.source in SOURCES
        assert entry.state
        assert entry.licence
        assert not entry.location or "://" in entry.location or entry.location.count(".") == 1
        if entry.location.endswith(("gz", "tgz")):
            assert entry.member


def test_torchvisions_names_and_figures() -> None:
    for entry in mv.list_weights(source="torchvision"):
        weights = torchvision.models.get_weight(entry.location)
        published = weights.meta["_metrics"]["ImageNet-1K"]
        assert entry.metrics == {"top1": published["acc@1"], "top5": published["acc@5"]}


def test_timms_names_and_preprocessing() -> None:
    timm = pytest.importorskip("timm")
    for entry in mv.list_weights(source="timm"):
        repository = entry.location.split("/")[3]
        config = timm.models.get_pretrained_cfg(repository)
        assert config.hf_hub_id == f"timm/{repository}"
        ours = TF_PREPROCESSING if entry.options else PREPROCESSING
        assert (ours.interpolation, ours.mean, ours.std) == (config.interpolation, config.mean, config.std)
        assert (config.crop_pct, config.input_size) == (0.875, (3, 224, 224))


def test_the_page_is_up_to_date() -> None:
    assert (ROOT / "docs/published_weights.md").read_text() == table()


@pytest.mark.slow
def test_convert_by_name_and_info(tmp_path: Path, published: bytes, publish: Publish) -> None:
    publish("me/small-one", "")
    (tmp_path / "copy.pth").write_bytes(published)
    convert(name="me/small-one", input=str(tmp_path / "copy.pth"), output=str(tmp_path / "out.safetensors"))
    command = [sys.executable, "tools/convert.py", f"info={tmp_path / 'out.safetensors'}"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for told in ('"width": 0.35', '"name": "me/small-one"', '"licence": "MIT"', '"sha256": "', '"input": "copy.pth"'):
        assert told in shown


@pytest.mark.parametrize("to", ["torchvision", "timm"])
def test_back_to_others(tmp_path: Path, peer, to: str) -> None:
    torch.save(peer.state_dict(), tmp_path / "copy.pth")
    convert(source="torchvision", input=str(tmp_path / "copy.pth"), output=str(tmp_path / "ours.safetensors"))
    convert(to=to, input=str(tmp_path / "ours.safetensors"), output=str(tmp_path / "theirs.pth"))
    state = torch.load(tmp_path / "theirs.pth", weights_only=True)
    if to == "torchvision":
        again: torch.nn.Module = torchvision.models.mobilenet_v2(weights=None, width_mult=0.35)
    else:
        again = pytest.importorskip("timm").create_model("mobilenetv2_035")
    again.load_state_dict(state)
    assert_equal(again.eval(), peer)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "one of source=, name= and to= is required"),
        ({"source": "caffe", "input": "x"}, "source='caffe' is unknown; valid: tensorflow, torchvision, timm"),
        ({"name": "me/none", "input": "x"}, "me/none: no such file, and no published weights"),
        ({"to": "caffe", "input": "x"}, "to='caffe' is unknown; valid: torchvision, timm"),
        ({"to": "timm", "input": "x.safetensors"}, "a state dictionary of timm is a .pth file"),
        ({"source": "timm"}, "input=... is required"),
        ({"name": "x", "padding": "tf"}, "padding=... is for source=, not for name=x"),
    ],
)
def test_what_convert_refuses(tmp_path: Path, options: dict[str, str], told: str) -> None:
    with pytest.raises((ConfigError, WeightsError), match=told):
        convert(output=str(tmp_path / "out.safetensors"), **options)
    assert list(tmp_path.glob("*.safetensors")) == []


def test_the_official_classifier_by_name(shared: Path) -> None:
    folder = shared / "weights"
    model = mv.load("tensorflow/mobilenet_v2_1.0-224", input=folder / "tf_mobilenet_v2_1.0_224.safetensors")
    vectors = np.load(folder / "tf_mobilenet_v2_1.0_224.vectors.npz")
    for index in range(3):
        with torch.no_grad():  # fed as they are, see test_tensorflow.py
            ours = model(torch.from_numpy(vectors[f"input_{index}"]).float().permute(0, 3, 1, 2)).softmax(1)[0].numpy()
        published = vectors[f"probabilities_{index}"][1:]
        assert np.abs(ours - published / published.sum()).max() < 0.005
    assert model.preprocessing.image_size == (224, 224)


@pytest.mark.slow
def test_the_official_segmentation_model_by_name(shared: Path) -> None:
    path = shared / "weights/tf_deeplabv3_mobilenet_v2_1.0_513.safetensors"
    name = "tensorflow/deeplabv3_mobilenet_v2-coco_voc_trainval"
    model = mv.load(name, input=path)
    vectors = np.load(path.with_suffix(".vectors.npz"))
    key = next(key for key in vectors.files if key.startswith("input_"))
    image = torch.from_numpy(vectors[key].astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
    with torch.no_grad():
        ours = model(image)[0].permute(1, 2, 0).numpy()
    assert np.abs(ours - vectors[key.replace("input", "logits")]).max() < 1e-3
