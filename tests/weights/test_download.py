"""Downloads from a local server: whole, broken off, resumed, damaged."""

import hashlib
from pathlib import Path

import pytest

from mnv2vision.errors import WeightsError
from mnv2vision.weights.download import download

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
    with pytest.raises(WeightsError, match=r"the connection broke\) after 300000 bytes, which are kept; a copy may"):
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
    with pytest.raises(WeightsError, match=f"SHA-256 {DIGEST}, not 00ff"):
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
    with pytest.raises(WeightsError, match=r"/none: answered 404 Not Found; a copy may be put at .*model\.bin"):
        download(f"{files.url}/none", tmp_path / "model.bin")


def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"http://127\.0\.0\.1:9/x: cannot be downloaded \(.+\); a copy may be put"):
        download("http://127.0.0.1:9/x", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["MNV2VISION_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_mode_asks_nobody(files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(WeightsError, match="offline mode is on; a copy may be put at"):
        download(f"{files.url}/model.bin", tmp_path / "model.bin")
    assert files.asked == []
    (tmp_path / "model.bin").write_bytes(b"by hand")
    assert download(f"{files.url}/model.bin", tmp_path / "model.bin").read_bytes() == b"by hand"
