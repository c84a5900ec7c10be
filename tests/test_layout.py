"""The rooms of the package: imports lead down, never up, and there are no circles."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import mnv2vision

PACKAGE = Path(mnv2vision.__file__).parent
TOP_LEVEL = {"__init__", "errors", "preprocessing", "version"}
# From the ground up; a room may import from those below it. Those of one line do not import one another.
FLOORS = (
    ("version", "errors"),
    ("common",),
    ("preprocessing",),
    ("predictions",),
    ("backbones",),
    ("data",),
    ("contracts",),
    ("config", "training"),
    ("classification", "detection", "segmentation"),
    ("models",),
    ("weights",),
    ("inference", "tasks"),
    ("deploy",),
    ("engine",),
    ("benchmarks",),
    ("paper",),
    ("cli",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = ["mnv2vision", *path.relative_to(PACKAGE).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(path: Path) -> Iterator[str]:
    """Modules of the package that a module names, those inside functions too, but not those for types alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [
                full if (full := f"{node.module}.{alias.name}") in MODULES else node.module for alias in node.names
            ]
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] == "mnv2vision")


IMPORTS = {name: set(imports(path)) - {name} for name, path in MODULES.items()}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_top_level() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} <= TOP_LEVEL
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()} <= FLOOR.keys()


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"mnv2vision"}))
def test_imports_lead_down(module: str) -> None:
    for imported in IMPORTS[module]:
        above, below = room(module), room(imported)
        # The package itself offers what users import; its benchmarks are clients like any other.
        if imported == "mnv2vision":
            assert above == "benchmarks"
        else:
            assert above == below or FLOOR[below] < FLOOR[above], f"{module} imports {imported}"


def test_no_circles() -> None:
    graph = {name: imported - {"mnv2vision"} for name, imported in IMPORTS.items() if name != "mnv2vision"}
    list(TopologicalSorter(graph).static_order())  # raises CycleError with the circle


def test_size() -> None:
    lengths = sorted(len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES.values())
    assert lengths[len(lengths) // 2] < 150
    assert lengths[-1] <= 400
