"""Progress by a clock of its own: which lines there are, and what they say."""

import logging
from collections.abc import Iterator

import pytest

from mnv2vision.common import progress


@pytest.mark.parametrize(
    ("seconds", "total", "lines"),
    [
        (1, 5, []),  # done before the first line is due
        (4, 6, ["3 of 6 photos, 0.2 a second, 12 s left"]),
        (
            60,
            4,
            [f"{n} of 4 photos, 0.0 a second, {left} left" for n, left in ((1, "3 min"), (2, "2 min"), (3, "60 s"))],
        ),
    ],
)
def test_lines(
    seconds: int, total: int, lines: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)

    def work() -> Iterator[int]:
        nonlocal now
        for number in range(total):
            now += seconds
            yield number

    with caplog.at_level(logging.INFO, "mnv2vision"):
        assert list(progress.told(work(), total, "photos")) == list(range(total))
    assert caplog.messages == lines


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (119, "119 s"), (121, "2 min"), (3570, "1 h"), (4810, "1 h 20 min"), (90_000, "25 h")],
)
def test_durations(seconds: float, words: str) -> None:
    assert progress.duration(seconds) == words
