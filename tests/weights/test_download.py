"""Downloads from a local server: whole, broken off, resumed, damaged."""

import errno
import hashlib
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from mnv2vision.errors import WeightsError
from mnv2vision.weights.download import download, no_way_to, offline

CONTENT = bytes(range(256)) * 20_000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def _published(files) -> None:
    files.contents["/model.bin"] = CONTENT


def test_a_file_arrives_whole_and_is_not_asked_for_again(files, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "model.bin"
    for _ in range(2):
        assert download(f"{files.url}/model.bin", path, digest=DIGEST[:8]).read_bytes() == CONTENT
    assert len(files.asked) == 1
    assert [item.name for item in path.parent.iterdir()] == ["model.bin"]


def test_a_broken_connection_is_resumed_where_it_broke(files, tmp_path: Path) -> None:
    files.breaks_after = 2_000_000  # three answers make the file
    path = download(f"{files.url}/model.bin", tmp_path / "model.bin", digest=DIGEST)
    assert path.read_bytes() == CONTENT
    assert [wanted for _, wanted in files.asked] == [None, "bytes=2000000-", "bytes=4000000-"]


def test_what_came_is_kept_for_the_next_call(files, tmp_path: Path) -> None:
    files.breaks_after = 100_000
    with pytest.raises(WeightsError, match=r"the connection broke\) after 300000 bytes, which were kept; a copy can"):
        download(f"{files.url}/model.bin", tmp_path / "model.bin")
    assert not (tmp_path / "model.bin").exists()
    files.breaks_after = None
    assert download(f"{files.url}/model.bin", tmp_path / "model.bin", digest=DIGEST).read_bytes() == CONTENT
    assert files.asked[-1][1] == "bytes=300000-"


def test_a_server_that_cannot_resume_starts_anew(files, tmp_path: Path) -> None:
    (tmp_path / "model.bin.part").write_bytes(CONTENT[:1000])
    (tmp_path / "model.bin.part.etag").write_text(f'"{hashlib.sha1(CONTENT).hexdigest()}"')
    files.resumes = False
    assert download(f"{files.url}/model.bin", tmp_path / "model.bin", digest=DIGEST).read_bytes() == CONTENT


def test_a_part_longer_than_the_file_is_thrown_away(files, tmp_path: Path) -> None:
    (tmp_path / "model.bin.part").write_bytes(CONTENT + b"more")
    (tmp_path / "model.bin.part.etag").write_text(f'"{hashlib.sha1(CONTENT).hexdigest()}"')
    assert download(f"{files.url}/model.bin", tmp_path / "model.bin", digest=DIGEST).read_bytes() == CONTENT


def test_a_wrong_hash_leaves_nothing_behind(files, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=f"SHA-256 is {DIGEST}, not 00ff"):
        download(f"{files.url}/model.bin", tmp_path / "model.bin", digest="00ff")
    assert list(tmp_path.iterdir()) == []


def test_what_came_of_another_version_is_not_continued(files, tmp_path: Path) -> None:
    files.contents["/model.bin"], files.breaks_after = b"x" * len(CONTENT), 100_000
    with pytest.raises(WeightsError, match="the connection broke"):
        download(f"{files.url}/model.bin", tmp_path / "model.bin")
    files.contents["/model.bin"], files.breaks_after = CONTENT, None
    assert download(f"{files.url}/model.bin", tmp_path / "model.bin").read_bytes() == CONTENT  # no hash to tell
    assert [item.name for item in tmp_path.iterdir() if item.is_file()] == ["model.bin"]


def test_what_a_server_refuses_is_told(files, tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"/none: the server answered 404 Not Found; a copy can be placed at .*model\.bin"
    ):
        download(f"{files.url}/none", tmp_path / "model.bin")


def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"http://127\.0\.0\.1:9/x: download failed \(.+\); a copy can be placed"):
        download("http://127.0.0.1:9/x", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["MNV2VISION_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_mode_asks_nobody(files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(WeightsError, match="offline mode is on; a copy can be placed at"):
        download(f"{files.url}/model.bin", tmp_path / "model.bin")
    assert files.asked == []
    (tmp_path / "model.bin").write_bytes(b"by hand")
    assert download(f"{files.url}/model.bin", tmp_path / "model.bin").read_bytes() == b"by hand"


class Failing:
    """In place of a connection: fails each time, and counts."""

    def __init__(self, error: OSError) -> None:
        self.error = error
        self.asked = 0

    def __call__(self, *arguments: object, **options: object) -> None:
        self.asked += 1
        raise self.error


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (urllib.error.URLError(socket.gaierror(-2, "Name or service not known")), 1),
        (urllib.error.URLError(OSError(errno.ENETUNREACH, "Network is unreachable")), 1),
        (urllib.error.URLError(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")), 3),
        (TimeoutError("timed out"), 3),
    ],
)
def test_without_a_network_nothing_is_tried_again(
    error: OSError, asked: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = Failing(error)
    monkeypatch.setattr(urllib.request, "urlopen", connection)
    with pytest.raises(WeightsError, match="no network: " if asked == 1 else r"download failed \("):
        download("http://example.org/x", tmp_path / "x")
    assert connection.asked == asked


def test_whether_there_is_a_way(files, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert no_way_to(files.url) is None
    monkeypatch.setattr(socket, "create_connection", Failing(socket.gaierror(-2, "Name or service not known")))
    assert no_way_to("https://example.org/x") == "no network: example.org: Name or service not known"
    monkeypatch.setattr(socket, "create_connection", Failing(ConnectionRefusedError("refused")))
    assert no_way_to("https://example.org/x") is None  # it may come back: the client asks again
    monkeypatch.setenv("https_proxy", "http://proxy.example.org:3128")
    monkeypatch.setattr(socket, "create_connection", Failing(socket.gaierror(-2, "Name or service not known")))
    assert no_way_to("https://example.org/x") is None


@pytest.mark.parametrize(
    ("value", "is_offline"), [("1", True), ("ON", True), ("true", True), ("0", False), ("false", False)]
)
def test_values_of_the_switch(value: str, is_offline: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MNV2VISION_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, value)
        assert offline() is is_offline
        monkeypatch.delenv(name)
    assert not offline()
