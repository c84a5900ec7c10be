"""Published weights by name: found, fetched from a local server, converted once, kept; and the entries themselves."""

import hashlib
import io
import os
import re
import socket
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
from mnv2vision.common.cache import home
from mnv2vision.errors import ConfigError, WeightsError
from mnv2vision.weights import entries, file
from mnv2vision.weights.convert import convert
from mnv2vision.weights.digests import DIGESTS
from mnv2vision.weights.entries import ON_THE_HUB, find
from mnv2vision.weights.entry import NO_HASH, Entry
from mnv2vision.weights.importers.from_timm import PREPROCESSING, TF_PREPROCESSING
from mnv2vision.weights.importers.sources import SOURCES
from mnv2vision.weights.table import table

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
    with pytest.raises(WeightsError, match="download failed"):
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
    with pytest.raises(
        WeightsError, match=r"model\.tgz: does not contain \*\.ckpt\.index, only x/deep/model\.pth, x/readme"
    ):
        mv.load("me/missing")


def test_another_archive_of_the_same_name(tmp_path: Path, published: bytes, publish: Publish) -> None:
    publish("me/packed", "", member="*.pth")
    for folder, content in (("a", b"broken"), ("b", published)):
        (tmp_path / folder).mkdir()
        with tarfile.open(tmp_path / folder / "model.tgz", "w:gz") as archive:
            member = tarfile.TarInfo("model.pth")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    with pytest.raises(WeightsError, match="not a state dictionary"):
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
    with pytest.raises(WeightsError, match=r"tonylins/mobilenet_v2-imagenet: no direct download address; .*input=…"):
        mv.load("tonylins/mobilenet_v2-imagenet")


def test_offline(publish: Publish, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MNV2VISION_OFFLINE", "1")
    for name in ("torchvision/mobilenet_v2-imagenet1k_v2", "paddle/mobilenet_v2_x0_25-imagenet"):
        with pytest.raises(WeightsError, match="offline mode is on"):
            mv.load(name)


def test_a_kept_file_of_torchvision_serves_offline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, randomize, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MNV2VISION_OFFLINE", "1")
    module = torchvision.models.mobilenet_v2(weights=None)
    randomize(module)
    cached = home() / "downloads" / "mobilenet_v2-7ebf99e0.pth"
    cached.parent.mkdir(parents=True)
    torch.save(module.state_dict(), cached)
    model = mv.load("torchvision/mobilenet_v2-imagenet1k_v2")
    assert_equal(model, module.eval())
    assert model.preprocessing.crop_fraction == 224 / 232


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("timm/mobilenetv2_14", "did you mean timm/mobilenetv2_140-ra_in1k"),
        ("nothing.pt", r"no such file, and no published weights by that name; mv\.list_weights\(\)"),
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
    with pytest.raises(ConfigError, match="task=detecton is unknown; valid: classification, detection, segmentation"):
        mv.list_weights("detecton")
    with pytest.raises(ConfigError, match=r"source=tim is unknown; valid: .*timm"):
        mv.list_weights(source="tim")


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


def test_torchvisions_hashes_are_those_in_its_files_names() -> None:
    for entry in mv.list_weights(source="torchvision"):
        assert torchvision.models.get_weight(entry.location).url.endswith(f"-{entry.digest}.pth")


def test_every_entry_says_where_its_hash_is_from_or_that_there_is_none() -> None:
    known = [entry for entry in mv.list_weights() if entry.digest]
    assert len(known) == 40
    for entry in known:
        assert re.fullmatch(r"[0-9a-f]{8}|[0-9a-f]{64}", entry.digest)
        assert entry.digest_source not in (NO_HASH, ON_THE_HUB)
    assert len({entry.digest for entry in known}) == len(known)
    for entry in mv.list_weights():
        if not entry.digest:
            assert entry.digest_source == (ON_THE_HUB if entry.location.startswith("hf://") else NO_HASH)
    assert {entry.digest for entry in known} == {digest for digest, _ in DIGESTS.values()}


def test_the_list_needs_no_torch() -> None:
    code = "import sys, mnv2vision as mv; mv.list_weights(); print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "False"


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
        ({"source": "caffe", "input": "x"}, "unknown source='caffe'; valid: tensorflow, torchvision, timm"),
        ({"name": "me/none", "input": "x"}, "me/none: no such file, and no published weights"),
        ({"to": "caffe", "input": "x"}, "unknown to='caffe'; valid: torchvision, timm"),
        ({"to": "timm", "input": "x.safetensors"}, "timm's state dictionary is written as a .pth file"),
        ({"source": "timm"}, "input=... is required"),
        ({"name": "x", "padding": "tf"}, "padding=... goes with source=, not with name=x"),
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


# ---- what comes is not what was meant ----


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("model.pth", b"<html>please log in</html>", "not a state dictionary"),
        ("model.pth", b"PK\x03\x04 half an archive", "not a state dictionary"),
        ("model.tgz", b"<html>please log in</html>", "not an archive, or a damaged one"),
        ("model.tar.gz", b"\x1f\x8b\x08 cut off", "not an archive, or a damaged one"),
    ],
)
def test_garbage_is_not_kept(files, published: bytes, publish: Publish, name: str, content: bytes, told: str) -> None:
    files.contents[f"/{name}"] = content
    publish("me/small-one", f"{files.url}/{name}", member="*.pth")
    with pytest.raises(WeightsError, match=rf"{told}.*; the download was deleted$") as caught:
        mv.load("me/small-one")
    assert "\n" not in str(caught.value)
    home = Path(os.environ["MNV2VISION_HOME"])
    assert [path.name for path in home.rglob("*") if path.is_file() and path.suffix != ".lock"] == []
    if name.endswith(".pth"):  # the next call has it
        files.contents[f"/{name}"] = published
        assert mv.load("me/small-one").num_classes == 1000


def test_garbage_of_a_hub_is_not_kept(hub, published: bytes, publish: Publish) -> None:
    hub.contents["me/repository/model.pth"] = b"<html>please log in</html>"
    publish("me/hub-one", "hf://me/repository/model.pth")
    with pytest.raises(WeightsError, match="the download was deleted"):
        mv.load("me/hub-one")
    hub.contents["me/repository/model.pth"] = published
    assert mv.load("me/hub-one").num_classes == 1000


def test_garbage_of_torchvision_is_not_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MNV2VISION_OFFLINE", "1")
    cached = home() / "downloads" / "mobilenet_v2-7ebf99e0.pth"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"<html>please log in</html>")
    with pytest.raises(WeightsError, match="the download is damaged and was deleted"):
        mv.load("torchvision/mobilenet_v2-imagenet1k_v2")
    assert not cached.exists()


def test_a_local_copy_stays_whatever_it_is(tmp_path: Path, publish: Publish) -> None:
    publish("me/small-one", "http://127.0.0.1:9/model.pth")
    (tmp_path / "copy.pth").write_text("nothing")
    with pytest.raises(WeightsError, match="not a state dictionary"):
        mv.load("me/small-one", input=tmp_path / "copy.pth")
    assert (tmp_path / "copy.pth").exists()


def test_what_no_hash_vouches_for_is_told(
    tmp_path: Path, published: bytes, publish: Publish, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "copy.pth").write_bytes(published)
    publish("me/small-one", "")
    mv.load("me/small-one", input=tmp_path / "copy.pth")
    (line,) = caplog.messages
    assert line.startswith("me/small-one: no published hash to check ")
    assert "copy.pth" in line
    caplog.clear()
    publish("me/known", "", digest=hashlib.sha256(published).hexdigest()[:8])
    mv.load("me/known", input=tmp_path / "copy.pth")
    assert caplog.messages == []
    publish("me/other", "", digest="00000000")
    with pytest.raises(WeightsError, match=r"copy\.pth: its SHA-256 is not 00000000, that of me/other"):
        mv.load("me/other", input=tmp_path / "copy.pth")


def test_an_unpacked_file_cannot_be_compared_with_the_archives_hash(
    tmp_path: Path, published: bytes, publish: Publish, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "model.pth").write_bytes(published)
    with tarfile.open(tmp_path / "model.tgz", "w:gz") as archive:
        archive.add(tmp_path / "model.pth", "model.pth")
    publish("me/packed", "", member="*.pth", digest=hashlib.sha256((tmp_path / "model.tgz").read_bytes()).hexdigest())
    mv.load("me/packed", input=tmp_path / "model.tgz")
    assert caplog.messages == []
    mv.load("me/packed", input=tmp_path / "model.pth")
    (line,) = caplog.messages
    assert line.startswith("me/packed: no published hash to check ")
    publish("me/other", "", member="*.pth", digest="0" * 64)
    with pytest.raises(WeightsError, match=r"model\.tgz: its SHA-256 is not 0{64}, that of me/other"):
        mv.load("me/other", input=tmp_path / "model.tgz")


def test_a_file_of_another_architecture_than_the_names(tmp_path: Path, published: bytes, publish: Publish) -> None:
    (tmp_path / "035.pth").write_bytes(published)  # torchvision's of width 0.35
    publish("me/wide", "", architecture={"backbone": "mobilenet_v2", "num_classes": 1000, "width": 1.0})
    with pytest.raises(WeightsError, match=r"035\.pth: has width=0\.35, but me/wide has width=1\.0"):
        mv.load("me/wide", input=tmp_path / "035.pth")
    few = torchvision.models.mobilenet_v2(weights=None, num_classes=7)
    torch.save(few.state_dict(), tmp_path / "few.pth")
    with pytest.raises(WeightsError, match=r"has num_classes=7, but me/wide has num_classes=1000"):
        mv.load("me/wide", input=tmp_path / "few.pth")


def test_every_name_says_which_network_it_is() -> None:
    for entry in mv.list_weights():
        assert "backbone" in entry.architecture
        assert "num_classes" in entry.architecture
        numbers = re.findall(r"(?<![\d.])[01]\.\d+(?![\d.])", entry.name)
        if numbers:
            assert entry.architecture["width"] == float(numbers[0]), entry.name
        for family in ("v1", "v2", "v3_large", "v3_small"):
            if f"mobilenet_{family}" in entry.name:
                assert entry.architecture["backbone"] == f"mobilenet_{family}", entry.name


@pytest.mark.parametrize("spelling", ["timm/mobilenetv2_100.ra_in1k", "mobilenetv2_100.ra_in1k"])
def test_timms_own_spelling(spelling: str) -> None:
    assert find(spelling).name == "timm/mobilenetv2_100-ra_in1k"


def test_without_a_network_a_name_is_refused_at_once(monkeypatch: pytest.MonkeyPatch, publish: Publish) -> None:
    """The hub's client would try for half a minute."""
    asked = []

    def unknown(address: tuple[str, int], *_: object) -> None:
        asked.append(address[0])
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    for proxy in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setattr(socket, "create_connection", unknown)
    with pytest.raises(WeightsError) as caught:
        mv.load("timm/mobilenetv2_100-ra_in1k")
    assert str(caught.value) == (
        "timm/mobilenetv2_100-ra_in1k: hf://timm/mobilenetv2_100.ra_in1k/model.safetensors: not downloaded, no network:"
        " huggingface.co: Name or service not known; or pass a local copy:"
        " mv.load('timm/mobilenetv2_100-ra_in1k', input=…)"
    )
    assert asked == ["huggingface.co"]


def test_torchs_advice_is_not_handed_on(tmp_path: Path) -> None:
    class Call:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'executed'}",)

    torch.save({"a": Call()}, tmp_path / "x.pth")
    with pytest.raises(WeightsError) as caught:
        convert(source="timm", input=str(tmp_path / "x.pth"), output=str(tmp_path / "out.safetensors"))
    assert "weights_only" not in str(caught.value)
    assert f"it refers to {os.system.__module__}.system, which weights do not need" in str(caught.value)
    assert not (tmp_path / "executed").exists()
