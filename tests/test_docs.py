"""The examples of the documentation run, and print what the page says they print; so do its shell commands."""

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mnv2vision as mv
from mnv2vision.common.cache import home
from mnv2vision.config.commands import COMMANDS
from mnv2vision.config.compose import load_config
from mnv2vision.config.schema import Tune
from mnv2vision.config.space import check_space, parse_space
from mnv2vision.inference.runtimes.base import formats_table
from mnv2vision.inference.video import VideoWriter

ROOT = Path(__file__).parents[1]
SERVER = Path(__file__).with_name("command_server.py")
PAGES = ("README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")))
# Lists written by the package itself.
NOT_RUN = ("docs/published_weights.md", "docs/options.md")
# A block of Python; a block of plain text right behind it is its output.
EXAMPLE = re.compile(
    r"^```python(?: needs-weights)?\n(.*?)^```\n(?:\n^```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE
)
SHELL = re.compile(r"^```(?:sh|bash)((?: [\w-]+)*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
NEEDS = {
    "needs-weights": "published weights, for which the test has small stand-ins: it is run",
    "needs-data": "a data set",
    "needs-network": "a download or an account",
    "needs-gpu": "GPUs or several nodes",
    "needs-time": "minutes, or packages to compare with",
}
FOLDERS = ("photos/", "cells/", "street/")
"""Given in the place of key=value."""
CONFIGURED = ("train", "eval", "predict", "convert", "average", "export", "check", "benchmark")
# Appended to the commands of a page, of which the last value of a key counts.
_FEW = ["trainer.limit_val_batches=1", "loader.batch_size=4", "loader.workers=0"]
SMALL = {
    "train": ["trainer.max_epochs=1", "trainer.limit_train_batches=2", "model.image_size=64", *_FEW],
    "eval": _FEW,
}
SMALL["predict"] = ["threshold=0.3"]  # a model of two steps recommends none
SMALL["tune"] = [*SMALL["train"], "tune.trials=2"]


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small models with random weights for the published ones that the pages load."""
    folder = tmp_path_factory.mktemp("published")
    names = {name for page in PAGES for name in re.findall(r"\b(?:timm|tensorflow|torchvision)/[\w.-]+", read(page))}
    entries = [entry for entry in mv.list_weights() if entry.name in names]
    for entry in entries:
        classes = {"classification": 1000, "detection": 80, "segmentation": 21}[entry.task]
        model = mv.create_model(entry.task, width=0.35, num_classes=classes, image_size=64)
        mv.save(model, folder / f"{entry.name.replace('/', '--')}.safetensors")
    return folder


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.fixture
def workplace(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    layouts: Callable[[Path, int, str], object],
    stand_ins: Path,
) -> Path:
    """An empty folder to run in, with a few photos, and what the users of the guide have."""
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
        for folder in ("photos/train/ants", "photos/train/bees", "photos/val/ants", "photos/val/bees", "more"):
            (tmp_path / folder).mkdir(parents=True)
            for name in "abcd":
                first.save(tmp_path / folder / f"{name}.jpg")
    for split in ("train", "val"):
        layouts(tmp_path / "objects", 10, split)
    (tmp_path / "objects/yolo/data.yaml").write_text("train: images/train\nval: images/val\nnames: [ant, bee]\n")
    shutil.copytree(tmp_path / "objects/voc/JPEGImages", tmp_path / "cells")
    shutil.copytree(tmp_path / "objects/voc/Annotations", tmp_path / "cells", dirs_exist_ok=True)
    shutil.copytree(tmp_path / "objects/yolo", tmp_path / "street")
    for name in ("street.mp4", "sunday.mp4"):
        with VideoWriter(tmp_path / name) as video:
            for index in range(30):
                video.write(generator.integers(0, 256, (72, 96, 3), dtype=np.uint8), index / 25)
    shutil.copytree(stand_ins, home() / "models" / mv.__version__)  # where converted models are kept
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(page: str) -> dict[str, Any]:
    source = read(page)
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
@pytest.mark.parametrize("page", [page for page in PAGES if page not in NOT_RUN and EXAMPLE.search(read(page))])
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


@pytest.mark.slow
def test_examples_have_types(tmp_path: Path, patience: float) -> None:
    """A user's own checker takes the examples."""
    for page in PAGES:
        source = read(page)
        lines = [""] * (source.count("\n") + 1)  # those of the page
        lines[0] = "# mypy: allow-untyped-calls"  # what torch leaves without types is not the user's
        for found in re.finditer(r"^```python.*\n((?:.*\n)*?)```", source, re.MULTILINE):
            start = source.count("\n", 0, found.start(1))
            code = found[1].splitlines()
            lines[start : start + len(code)] = code
        (tmp_path / f"{Path(page).stem}_md.py").write_text("\n".join(lines))
    command = [sys.executable, "-m", "mypy", str(tmp_path)]  # strict, by the project's settings, whose cache it shares
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=patience)
    assert done.returncode == 0, done.stdout


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", read(page), flags=re.DOTALL | re.MULTILINE), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)|<img src=\"([^\"]+)", read(page)):
        target, _, anchor = (link[0] or link[1]).partition("#")
        path = (ROOT / page).parent / target if target else ROOT / page
        name = os.path.relpath(path, ROOT)
        if "://" in target or (name in NOT_RUN and not path.exists()):
            continue
        assert path.exists(), f"{page}: {target}"
        assert not anchor or anchor in anchors(name), f"{page}: {target}#{anchor}"


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


def test_the_table_of_formats() -> None:
    found = re.search(r"<!-- formats -->\n(.*?)<!-- /formats -->", read("docs/deployment.md"), re.DOTALL)
    assert found is not None
    assert found[1] == formats_table()


def test_the_example_in_cpp(tmp_path: Path, patience: float) -> None:
    """Compiled where a compiler and ONNX Runtime's headers and library are, and run on an exported model."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    (code,) = re.findall(r"^```cpp\n(.*?)^```", read("docs/deployment.md"), re.DOTALL | re.MULTILINE)
    (tmp_path / "empty.cpp").write_text("#include <onnxruntime_cxx_api.h>\nint main() { Ort::Env env; }\n")
    (tmp_path / "classify.cpp").write_text(code)
    for name in ("empty", "classify"):
        command = [compiler, "-std=c++17", "-Wall", str(tmp_path / f"{name}.cpp"), "-o", str(tmp_path / name)]
        done = subprocess.run([*command, "-lonnxruntime"], capture_output=True, text=True, timeout=patience)
        if name == "empty" and done.returncode:
            pytest.skip("ONNX Runtime's C++ headers or its library are not installed")
        assert done.returncode == 0, done.stderr
    model = mv.create_model("classification", width=0.35, num_classes=3, image_size=32)
    (file,) = mv.export(model, tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    run = [str(tmp_path / "classify"), str(file.folder / "model.onnx")]
    said = subprocess.run(run, input=image.tobytes(), capture_output=True, timeout=patience, check=True).stdout
    with torch.no_grad():
        logits = model.eval()(model.preprocessing.normalize(torch.from_numpy(image)[None].permute(0, 3, 1, 2)))
    assert int(said) == int(logits.argmax())


@dataclass
class Block:
    """A block of shell commands.

    Attributes:
        place: Page and line.
        needs: What it is marked as needing.
        text: Its lines.
    """

    place: str
    needs: set[str]
    text: str

    @property
    def is_run(self) -> bool:
        return self.needs <= {"needs-weights"}

    def lines(self) -> Iterator[list[str]]:
        """The words of each command, without comments."""
        for line in self.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words:
                end = next((place for place, word in enumerate(words) if word in ("||", "&&", "|")), len(words))
                yield words[:end]
                words = words[end + 1 :]

    def commands(self) -> Iterator[tuple[str, list[str]]]:
        """The package's own commands, with their arguments, whichever way they are called."""
        for words in self.lines():
            for index, word in enumerate(words):
                if word in ("mnv2vision", "mnv2vision.cli.main"):
                    yield words[index + 1], words[index + 2 :]
                elif found := re.fullmatch(r"tools/(\w+)\.py", word):
                    yield found[1], words[index + 1 :]


def blocks(page: str) -> list[Block]:
    source = read(page)
    return [
        Block(f"{page}, line {source.count(chr(10), 0, found.start()) + 1}", set(found[1].split()), found[2])
        for found in SHELL.finditer(source)
    ]


@pytest.mark.parametrize("page", PAGES)
def test_blocks_are_run_or_marked(page: str) -> None:
    for language, *needs in map(str.split, re.findall(r"^```([^`\n]+)$", read(page), re.MULTILINE)):
        assert language in ("sh", "bash", "python", "text", "cpp"), page
        assert set(needs) <= NEEDS.keys(), page


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)])
def test_commands_have_keys_that_exist(page: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks(page):
        for command, arguments in block.commands():
            if command in CONFIGURED and "--help" not in arguments:
                if page not in NOT_RUN:
                    assert not set("…<>") & set("".join(arguments)), f"{block.place}: a placeholder cannot be typed"
                for own in (item.partition("=")[2] for item in arguments if re.fullmatch(r"recipe=.*\.yaml", item)):
                    (tmp_path / own).parent.mkdir(parents=True, exist_ok=True)  # written by a command before
                    (tmp_path / own).write_text("seed: 0\n")
                for own in (Path(item.removeprefix("run=")) for item in arguments if item.startswith("run=")):
                    own.mkdir(parents=True, exist_ok=True)  # of a command before
                    (own / "model.safetensors").touch()
                    (own / "config.yaml").write_text("dataset: {name: shapes}\n")
                # Raises ConfigError for unknown keys, groups and values; a folder is none of them.
                load_config(COMMANDS[command].schema, [item for item in arguments if item not in FOLDERS])
            elif command == "tune":
                own = [item for item in arguments if item.startswith(("tune.", "run_dir="))]
                space = parse_space(load_config(Tune, own).tune.space)
                check_space(space, [item for item in arguments if item not in own])
            else:
                assert (ROOT / f"tools/{command}.py").is_file() or command == "--version", f"{block.place}: {command}"


@pytest.fixture(scope="module")
def command_server(tmp_path_factory: pytest.TempPathFactory, patience: float) -> Iterator[Path]:
    """The socket of a server that runs commands; see there."""
    path = tmp_path_factory.mktemp("server") / "socket"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen([sys.executable, str(SERVER), "serve", str(path)], env=environment) as process:
        deadline = time.monotonic() + patience
        while not path.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield path
        process.kill()


def with_shims(folder: Path, server: Path) -> str:
    """A PATH whose `mnv2vision` runs on small data, whose `python` is this one, and whose `pip` does nothing."""
    folder.mkdir()
    client = shlex.join([sys.executable, "-ES", str(SERVER), "run", str(server)])
    for name, line in {
        "mnv2vision": f'exec {client} "$@"',
        "python": f'exec {shlex.quote(sys.executable)} "$@"',
        "pip": ":",
    }.items():
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


# The page of the paper's tables is run as a whole by tests/paper.
SCRIPTS = [page for page in PAGES if page not in (*NOT_RUN, "docs/reproduction.md")]


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in SCRIPTS if any(block.is_run for block in blocks(page))])
def test_commands_run(
    page: str, workplace: Path, command_server: Path, tmp_path_factory: pytest.TempPathFactory, patience: float
) -> None:
    (workplace / "tools").symlink_to(ROOT / "tools")
    environment = {
        **os.environ,
        "PATH": with_shims(tmp_path_factory.mktemp("shims") / "bin", command_server),
        "MNV2VISION_TESTS_SMALL": json.dumps(SMALL),
        "PYTHONPATH": str(ROOT),
        "MNV2VISION_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    for block in blocks(page):
        if block.is_run:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", block.text],
                cwd=workplace,
                env=environment,
                capture_output=True,
                text=True,
                timeout=patience,
            )
            assert done.returncode == 0, f"{block.place}: {done.stderr[-2000:]}"
