"""Arrays kept in the cache folder: taken where their files are the same, built anew where not, and never half."""

import logging
import multiprocessing
import os
import pickle
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mnv2vision.common.cache import home
from mnv2vision.common.logs import warn_once
from mnv2vision.data.formats import index_cache
from mnv2vision.data.formats.index_cache import Arrays, cached_arrays
from mnv2vision.errors import DataError

OLD = 10**9  # seconds: a time that is old enough to be trusted


@pytest.fixture(autouse=True)
def _log_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("mnv2vision"), "propagate", True)  # the command line turns it off
    warn_once.cache_clear()


class Source:
    """Two files, and how often their bytes were made an array."""

    def __init__(self, folder: Path) -> None:
        self.paths = [folder / "a.txt", folder / "b.txt"]
        self.built = 0
        self.write("one", "two")

    def write(self, *texts: str, changed: float = OLD) -> None:
        for path, text in zip(self.paths, texts, strict=True):
            path.write_text(text)
            os.utime(path, (changed, changed))

    def arrays(self) -> Arrays:
        return cached_arrays("test 1", self.paths, self._build)

    def text(self) -> str:
        return self.arrays()["text"].tobytes().decode()

    def _build(self) -> Mapping[str, NDArray[Any]]:
        self.built += 1
        text = b"".join(path.read_bytes() for path in self.paths)
        return {"text": np.frombuffer(text, np.uint8), "none": np.zeros((0, 4)), "flags": np.array([True, False])}


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path)


def test_built_once_and_mapped(source: Source) -> None:
    for _ in range(3):
        arrays = source.arrays()
        assert arrays["text"].tobytes() == b"onetwo"
        assert arrays["none"].shape == (0, 4)
        assert arrays["flags"].tolist() == [True, False]
        assert arrays["flags"].dtype == np.bool_
        assert not arrays["text"].flags.writeable
    assert source.built == 1
    assert isinstance(arrays["text"].base, np.memmap)


def test_goes_to_another_process_as_a_path(source: Source) -> None:
    source.write("x" * 10**6, "y")
    arrays = source.arrays()
    sent = pickle.dumps(arrays)
    assert len(sent) < 1000
    assert pickle.loads(sent)["text"].tobytes() == arrays["text"].tobytes()


@pytest.mark.parametrize(
    "changed",
    [pytest.param(OLD, id="a time of long ago"), pytest.param(0, id="no time"), pytest.param(None, id="just now")],
)
def test_a_change_is_seen(source: Source, changed: float | None) -> None:
    """Where times are the same after a change, too, as in a mounted bucket, or of a clock that ticks slowly."""
    times = time.time() if changed is None else changed
    source.write("one", "two", changed=times)
    assert source.text() == "onetwo"
    source.write("one", "TWO" if changed != OLD else "three", changed=times)
    assert source.text() == ("oneTWO" if changed != OLD else "onethree")
    source.write("one", "six", changed=OLD + 1)
    assert source.text() == "onesix"
    assert source.built == 3


def test_another_time_alone_is_no_change(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    source.arrays()
    source.write("one", "two", changed=OLD + 5)
    assert source.text() == "onetwo"
    assert source.built == 1
    monkeypatch.setattr(index_cache, "_digest", None)  # and what was found is noted: no second look at the contents
    assert source.text() == "onetwo"


def test_old_states_do_not_pile_up(source: Source) -> None:
    for number in range(3):
        source.write("one", str(number), changed=OLD + number)
        source.arrays()
    assert len([path for path in (home() / "index").iterdir() if path.is_dir()]) == 1


def test_a_change_while_it_is_read_is_not_kept(source: Source) -> None:
    def build() -> Mapping[str, NDArray[Any]]:
        source.write("one", "later", changed=OLD + 9)
        return {"text": np.frombuffer(b"onetwo", np.uint8)}

    assert cached_arrays("test 1", source.paths, build)["text"].tobytes() == b"onetwo"
    assert source.text() == "onelater"


def test_another_key_or_order_is_another_entry(source: Source) -> None:
    source.arrays()
    other = cached_arrays("test 2", source.paths, lambda: {"text": np.zeros(1)})
    turned = cached_arrays("test 1", source.paths[::-1], lambda: {"text": np.ones(1)})
    assert (other["text"].tolist(), turned["text"].tolist()) == ([0], [1])
    assert source.text() == "onetwo"


def damage_array(folder: Path) -> None:
    path = folder / "text.npy"
    path.write_bytes(path.read_bytes()[:-3])


def remove_array(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def damage_state(folder: Path) -> None:
    (path,) = folder.parent.glob("*.json")
    path.write_text(path.read_text()[:-9])


@pytest.mark.parametrize("damage", [damage_array, remove_array, damage_state])
def test_a_damaged_entry_is_built_anew(source: Source, damage: Any) -> None:
    folder = source.arrays().folder
    assert folder is not None
    damage(folder)
    assert source.text() == "onetwo"
    assert source.text() == "onetwo"
    assert source.built == 2


def test_errors_pass_through_and_leave_nothing(source: Source) -> None:
    def build() -> Mapping[str, NDArray[Any]]:
        raise DataError("a.txt: is wrong")

    for _ in range(2):
        with pytest.raises(DataError, match="is wrong"):
            cached_arrays("test 1", source.paths, build)
    assert [path.suffix for path in (home() / "index").iterdir()] == [".lock"]


def test_a_missing_file_is_named(source: Source) -> None:
    source.paths[1].unlink()
    with pytest.raises(DataError, match=r"b\.txt: cannot be read"):
        source.arrays()


def test_without_a_place_to_keep_it(source: Source, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a_file").touch()
    monkeypatch.setenv("MNV2VISION_HOME", str(tmp_path / "a_file"))
    for _ in range(2):
        arrays = source.arrays()
        assert arrays["text"].tobytes() == b"onetwo"
    assert source.built == 2
    assert pickle.loads(pickle.dumps(arrays))["text"].tobytes() == b"onetwo"


def test_a_full_disk_is_one_line(
    source: Source, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    assert source.text() == source.text() == "onetwo"
    (message,) = caplog.messages
    assert "No space left on device" in message
    assert not [path for path in (home() / "index").iterdir() if path.is_dir()]


def _one_of_many(folder: str, started: Any, results: Any) -> None:
    source = Source.__new__(Source)
    source.paths, source.built = [Path(folder, "a.txt"), Path(folder, "b.txt")], 0
    started.wait()
    results.put((source.text(), source.built))


def test_processes_that_ask_at_once_build_it_once(source: Source, tmp_path: Path, patience: float) -> None:
    context = multiprocessing.get_context("fork")
    started, results = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_one_of_many, args=(str(tmp_path), started, results)) for _ in range(4)]
    for process in processes:
        process.start()
    found = [results.get(timeout=patience) for _ in processes]
    for process in processes:
        process.join()
    assert [text for text, _ in found] == ["onetwo"] * 4
    assert sum(built for _, built in found) == 1
