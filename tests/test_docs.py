"""The examples of the documentation run, and print what the page says they print."""

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mnv2vision as mv

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/backbones.md", "docs/detection.md", "docs/memory.md", "docs/segmentation.md")
# A block of Python; a block of plain text right behind it is its output.
EXAMPLE = re.compile(r"^```python\n(.*?)^```\n(?:\n^```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to run in, with a few photos."""
    (tmp_path / "photos").mkdir()
    generator = np.random.default_rng(0)
    for index, (width, height) in enumerate([(160, 120), (90, 160), (200, 200), (64, 48)]):
        cells = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(cells).resize((width, height), Image.Resampling.NEAREST).save(
            tmp_path / "photos" / f"{index}.jpg", quality=95
        )
    # The same picture at another size is the nearest neighbour of the first, by any features.
    with Image.open(tmp_path / "photos" / "0.jpg") as first:
        first.resize((320, 240)).save(tmp_path / "photos" / "0_large.jpg", quality=95)
        first.save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(page: str) -> dict[str, Any]:
    source = (ROOT / page).read_text(encoding="utf-8")
    namespace: dict[str, Any] = {"__name__": page}
    for example in EXAMPLE.finditer(source):
        line = source.count("\n", 0, example.start(1))
        code = compile("\n" * line + example[1], str(ROOT / page), "exec")  # tracebacks point into the page
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, namespace)
        if example[2] is not None:
            assert printed.getvalue() == example[2], f"{page}, line {line + 1}"
    return namespace


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
@pytest.mark.usefixtures("workplace")
def test_examples(page: str) -> None:
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        namespace = run(page)
    finally:
        torch.set_num_threads(threads)
    if page == "docs/backbones.md":
        assert namespace["neighbours"]["0.jpg"] == "0_large.jpg"
        assert namespace["neighbours"]["0_large.jpg"] == "0.jpg"
        assert namespace["loss"].isfinite()
        with torch.no_grad():
            assert namespace["model"].eval()(torch.zeros(1, 3, 64, 33)).shape == (1, 5, 64, 33)


def test_the_table_of_taps() -> None:
    page = (ROOT / "docs/backbones.md").read_text(encoding="utf-8")
    rows: dict[str, dict[str, tuple[int, int]]] = {}
    for name, first, last, channels, stride in re.findall(
        r"^\| (?:`(mobilenet\w+)`)? *\| `([\w.]+)`(?: … `(\w+)`)? *\| *(\d+) \| *(\d+) \|$", page, re.MULTILINE
    ):
        if name:
            table = rows.setdefault(name, {})
        numbers = re.findall(r"\d+", first)
        taps = [f"block{i}" for i in range(int(numbers[0]), int(last[5:]) + 1)] if last else [first]
        table.update(dict.fromkeys(taps, (int(channels), int(stride))))
    assert list(rows) == ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small"]
    for name, table in rows.items():
        with torch.device("meta"):
            backbone = mv.create_backbone(name, taps=tuple(table))
        assert backbone.feature_specs == table
        assert {layer for layer, _ in backbone.layers()} == {tap for tap in table if "." not in tap}
