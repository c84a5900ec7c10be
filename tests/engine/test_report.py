"""The page of a run: one file that opens anywhere, for every task, and what it advises."""

import csv
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mnv2vision as mv
from mnv2vision.cli.main import main
from mnv2vision.engine.advice import of_history
from mnv2vision.engine.report import read_history

pytestmark = pytest.mark.slow

TITLES = {
    "classification": ["Classes", "Confusion", "The most confident mistakes", "Calibration", "Some photos"],
    "detection": ["Classes", "Kinds of errors", "Precision and recall, and some photos"],
    "segmentation": ["Classes", "Confusion", "The worst photos", "Some photos"],
}


InBrowser = Callable[[Path, int], dict[str, int] | None]


class Page(HTMLParser):
    """Titles, pictures' sources, links and what is left open of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.titles: list[str] = []
        self.sources: list[str] = []
        self.open: list[str] = []
        self.names: set[str] = set()
        text = path.read_text()
        self.feed(text)
        self.close()
        assert not self.open
        assert path.stat().st_size < 5_000_000
        assert not re.search(r"https?://|<script|<link|@import|url\(", text)
        assert all(source.startswith("data:image/") for source in self.sources)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.sources += [str(value) for name, value in attrs if name in ("src", "href")]
        self.names |= {str(value) for name, value in attrs if name == "alt"}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["h2"]:
            self.titles.append(data)


@pytest.mark.parametrize("task", TITLES)
def test_a_run_and_an_evaluation(tmp_path: Path, tiny: tuple[str, ...], task: str, in_browser: InBrowser) -> None:
    run = tmp_path / "run"
    assert main(["train", *tiny, f"task={task}", f"run_dir={run}"]) == 0
    page = Page(run / "report.html")
    assert page.titles[:3] == ["Figures", "What to try next", "Epochs"]
    assert page.titles[-1] == "Size"
    assert set(TITLES[task]) <= set(page.titles)
    assert {"epochs", "predictions"} <= page.names
    for width in (1000, 500):  # Chromium has no narrower windows
        if (seen := in_browser(run / "report.html", width)) is not None:
            assert seen == {"pictures": len(page.sources), "shown": len(page.sources), "beyond": 0}
    if task == "detection":
        with (run / "errors.csv").open() as file:
            assert [row["kind"] for row in csv.DictReader(file)][-1] == "missed"
        assert "errors" in page.names
    common = ("dataset.image_size=48", "dataset.val_size=17", "loader.workers=0", "trainer.accelerator=cpu")
    model = run / "model.safetensors"
    assert main(["eval", f"checkpoint={model}", f"run_dir={tmp_path / 'eval'}", *common]) == 0
    again = Page(tmp_path / "eval/report.html")
    assert [title for title in page.titles if title != "Epochs"] == again.titles
    if task == "detection":  # what was kept is what the table says, wherever something was found
        with (run / "thresholds.csv").open() as file:
            told = [float(row["threshold"]) if row["threshold"] else None for row in csv.DictReader(file)]
        kept = mv.load(model).config.head.thresholds
        assert len(kept) in (0, len(told))
        known = [(a, b) for a, b in zip(kept, told, strict=False) if b is not None]
        assert all(a == pytest.approx(b) for a, b in known)


def test_several_heads(tmp_path: Path, tiny: tuple[str, ...]) -> None:
    own = [argument for argument in tiny if not argument.startswith("optimizer.momentum")]
    assert main(["train", *own, "task=joint", "trainer.max_epochs=1", f"run_dir={tmp_path / 'run'}"]) == 0
    page = Page(tmp_path / "run/report.html")
    for task, titles in TITLES.items():
        assert {f"{task}: {title}" for title in titles[:1]} <= set(page.titles)


def history(values: list[float], losses: list[float]) -> list[dict[str, float]]:
    return [
        {"epoch": epoch + 1, "AP": value, "loss": loss}
        for epoch, (value, loss) in enumerate(zip(values, losses, strict=True))
    ]


@pytest.mark.parametrize(
    ("values", "losses", "said"),
    [
        ([0.1, 0.3, 0.5, 0.45, 0.4, 0.41], [3, 2, 1.5, 1, 0.8, 0.5], "after epoch 3 the loss fell from 1.5 to 0.5"),
        ([0.1, 0.3, 0.5, 0.45, 0.4, 0.41], [3, 2, 1.5, 1.5, 1.6, 1.5], ""),  # neither goes on
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [3, 2.5, 2, 1.5, 1, 0.5], "trainer.max_epochs=12"),
        ([0.1, 0.4, 0.5, 0.6, 0.601, 0.602], [3, 2.5, 2, 1.5, 1.4, 1.3], ""),
        ([0.1, 0.5, 0.2], [3, 2, 1], ""),
        ([float("nan")] * 6, [3, 2, 1, 1, 1, 1], ""),
    ],
)
def test_advice_of_a_history(values: list[float], losses: list[float], said: str) -> None:
    told = of_history(history(values, losses), "AP")
    assert len(told) == bool(said)
    assert not said or said in told[0]


def test_history_with_gaps(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,loss,AP\n1,2.5,\n2,1.5,nan\n3,1.0,0.25\n")
    rows: Any = read_history(tmp_path / "metrics.csv")
    assert rows == [{"epoch": 1, "loss": 2.5}, {"epoch": 2, "loss": 1.5}, {"epoch": 3, "loss": 1.0, "AP": 0.25}]
    assert read_history(tmp_path / "none.csv") == []
    assert np.isfinite([value for row in rows for value in row.values()]).all()
