"""Runs of a tiny model on tiny shapes: in this process, or as a user starts them."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mnv2vision.cli.main import main
from mnv2vision.common import charts, draw
from mnv2vision.tasks.base import Task

ROOT = Path(__file__).parents[2]
LOOK = """<script>
addEventListener("load", () => {
  const pictures = [...document.images], root = document.documentElement;
  document.title = JSON.stringify({
    pictures: pictures.length,
    shown: pictures.filter(it => it.naturalWidth > 0 && it.getBoundingClientRect().width > 0).length,
    beyond: root.scrollWidth - root.clientWidth,
  });
});
</script>"""
"""Writes what a page looks like into its title."""
# Seven batches an epoch, an odd number, with two images left over; and a last batch of one in validation.
TINY = (
    "backbone.width=0.35",
    "optimizer.name=sgd",
    "optimizer.lr=0.05",
    "optimizer.weight_decay=4e-5",
    "model.image_size=32",
    "dataset.image_size=48",
    "dataset.train_size=58",
    "dataset.val_size=17",
    "loader.batch_size=8",
    "loader.workers=0",
    "trainer.accelerator=cpu",
    "trainer.precision=32",
    "trainer.max_epochs=2",
    "loggers=[]",
)

Train = Callable[..., int]
Start = Callable[..., "subprocess.Popen[str]"]


Interrupt = Callable[..., None]


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    """The arguments that make a run tiny."""
    return TINY


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Train:
    """Train in this process; gives the exit status."""
    for picture in ("confusion_matrix", "contact_sheet"):  # half of a run's time
        monkeypatch.setattr(draw, picture, lambda *args, **options: None)
    for chart in ("history", "over_scores", "reliability", "bars"):
        monkeypatch.setattr(charts, chart, lambda *args, **options: None)

    def run(*arguments: str) -> int:
        tiny = () if any(argument.startswith("resume=") for argument in arguments) else TINY
        if any(argument.startswith("data.") and argument.partition("=")[0].count(".") == 2 for argument in arguments):
            tiny = tuple(argument for argument in tiny if not argument.startswith("dataset."))
        return main(["train", *tiny, *arguments])

    return run


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Interrupt:
    """Raise InterruptedError once at each of the given points: (epoch, batch), or (epoch, "validation")."""
    left: set[tuple[int, int | str]] = set()

    def pause(epoch: int, place: int | str) -> None:
        if (epoch, place) in left:
            left.remove((epoch, place))
            raise InterruptedError

    training_step, validation_step = Task.training_step, Task.validation_step

    def train_or_stop(task: Task, batch: Any, batch_idx: int) -> Any:
        pause(task.current_epoch, batch_idx)
        return training_step(task, batch, batch_idx)

    def validate_or_stop(task: Task, batch: Any, batch_idx: int) -> None:
        if task.trainer.state.fn == "fit":
            pause(task.current_epoch, "validation")
        validation_step(task, batch, batch_idx)

    monkeypatch.setattr(Task, "training_step", train_or_stop)
    monkeypatch.setattr(Task, "validation_step", validate_or_stop)
    return lambda *points: left.update(points)


@pytest.fixture(scope="session")
def browser() -> str | None:
    """Chromium or Chrome; None where there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def in_browser(browser: str | None, tmp_path: Path, patience: float) -> Callable[[Path, int], dict[str, int] | None]:
    """What a real browser makes of a page at a width of its window; None where none is installed.

    How many pictures there are, how many of them it shows, and by how many pixels the page is wider than the window.
    """

    def look(page: Path, width: int) -> dict[str, int] | None:
        if browser is None:
            return None
        copy = tmp_path / "in_browser.html"
        copy.write_text(page.read_text(encoding="utf-8").replace("</body>", LOOK + "</body>"), encoding="utf-8")
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
        command = [browser, *flags, f"--window-size={width},900", "--dump-dom", f"file://{copy}"]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=patience, check=True).stdout
        found = re.search(r"<title>(\{.*?\})</title>", shown)
        assert found is not None, shown[-500:]
        answer: dict[str, int] = json.loads(found[1])
        return answer

    return look


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a tool as a user does, in a folder of the test's; what still runs at the end is killed."""
    processes: list[subprocess.Popen[str]] = []

    def popen(tool: str, *arguments: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "tools" / f"{tool}.py"), *arguments],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield popen
    for process in processes:
        process.kill()
        process.communicate()
