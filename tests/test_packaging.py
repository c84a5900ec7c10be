"""What the package imports is what it declares, and prediction needs little of it."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import mnv2vision

ROOT = Path(__file__).parents[1]
PACKAGE = Path(mnv2vision.__file__).parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# Peers that a benchmark compares with where they are installed; nobody needs them.
PEERS = {"segmentation_models_pytorch"}
# Imported by name only: Lightning's loggers, and what shows a progress bar.
IMPORTED_BY_OTHERS = {"rich", "tensorboard"}
# For training, evaluation and other formats: not to be imported for a prediction from Python.
HEAVY = (
    *("pytorch_lightning", "lightning_fabric", "torchmetrics", "hydra", "omegaconf", "albumentations"),
    *("hotcoco", "scipy", "tensorboard", "matplotlib", "rich", "msgspec", "pycocotools", "yaml"),
)


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def distributions(requirements: list[str]) -> set[str]:
    return {normal(re.match(r"[\w.-]+", requirement)[0]) for requirement in requirements}  # type: ignore[index]


DEPENDENCIES = distributions(PYPROJECT["project"]["dependencies"])
EXTRAS = {normal(item) for group in PYPROJECT["project"]["optional-dependencies"].values() for item in group}
EXTRAS = distributions(sorted(EXTRAS))
LEAN = distributions(PYPROJECT["dependency-groups"]["predict"])


def third_party(path: Path) -> Iterator[tuple[str, bool]]:
    """Top-level names that a module imports, and whether it needs them to be imported itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        else:
            continue
        for name in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"mnv2vision"}:
            yield name, id(node) not in inside


def imports() -> dict[str, set[Path]]:
    found: dict[str, set[Path]] = {}
    for path in PACKAGE.rglob("*.py"):
        for name, _ in third_party(path):
            found.setdefault(name, set()).add(path)
    return found


PROVIDERS = packages_distributions()  # takes a tenth of a second each time


def providers(name: str) -> set[str]:
    """Distributions that a module may come from; by the name itself where none is installed."""
    return {normal(item) for item in PROVIDERS.get(name, [name])}


def test_imports_are_declared() -> None:
    undeclared = {
        name: sorted(str(path.relative_to(PACKAGE)) for path in paths)
        for name, paths in imports().items()
        if name not in PEERS and not providers(name) & (DEPENDENCIES | EXTRAS)
    }
    assert not undeclared


def test_modules_import_without_extras() -> None:
    for path in PACKAGE.rglob("*.py"):
        needed = {name for name, at_import in third_party(path) if at_import}
        optional = {name for name in needed if not providers(name) & DEPENDENCIES}
        assert not optional, f"{path.relative_to(PACKAGE)} cannot be imported without {optional}"


def test_dependencies_are_imported() -> None:
    used = {provider for name in imports() for provider in providers(name)}
    assert used | IMPORTED_BY_OTHERS >= DEPENDENCIES


BLOCKER = """
import importlib.abc, sys
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)
sys.meta_path.insert(0, Blocker())
"""
PREDICT = """
import numpy as np
import mnv2vision as mv

backbone = mv.create_backbone("mobilenet_v2", width=0.35)
photo = np.zeros((70, 50, 3), np.uint8)
for task in ("classification", "detection", "segmentation"):
    model = mv.create_model(task, width=0.35, num_classes=3, image_size=64)
    mv.save(model, f"{task}.safetensors")
    model = mv.load(f"{task}.safetensors")
    mv.Predictor(model, device="cpu")(photo)
mv.complexity(backbone, (64, 64))
mv.fold_batch_norm(backbone)
mv.split_inference(backbone)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


@pytest.mark.slow
def test_prediction_needs_little(tmp_path: Path) -> None:
    done = run(tmp_path, HEAVY, PREDICT)
    assert imported(done) <= LEAN


COMMAND = """
import numpy as np
from PIL import Image
import mnv2vision as mv
from mnv2vision.cli.main import main

names = ["яблоко", "plum", "fig"]  # letters beyond ASCII are drawn in matplotlib's font
mv.save(mv.create_model("detection", width=0.35, names=names, image_size=64), "model.safetensors")
Image.fromarray(np.zeros((70, 50, 3), np.uint8)).save("photo.jpg")
sys.argv = ["mnv2vision", "predict", "checkpoint=model.safetensors", "images=photo.jpg", "output=out", "threshold=0"]
try:
    main()
except SystemExit as end:
    assert not end.code
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


@pytest.mark.slow
def test_lean_installation_predicts_by_command(tmp_path: Path) -> None:
    """The command needs all of the group of the lean installation, and nothing else."""
    done = run(tmp_path, tuple(name for name in HEAVY if not providers(name) & LEAN), COMMAND)
    assert (tmp_path / "out/photo.jpg").is_file()
    assert imported(done) == LEAN


def run(folder: Path, blocked: tuple[str, ...], code: str) -> str:
    code = f"BLOCKED = {blocked}\n{BLOCKER}{code}"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def imported(modules: str) -> set[str]:
    """The dependencies that modules belong to."""
    return {provider for name in modules.split() for provider in providers(name)} & DEPENDENCIES
