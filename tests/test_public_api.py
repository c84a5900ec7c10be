"""The public surface: every public signature has a type that says something."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import mnv2vision

PACKAGE = Path(mnv2vision.__file__).parent
MODULES = {str(path.relative_to(PACKAGE)): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def names_any(node: ast.AST | None, aliases: set[str]) -> bool:
    """Whether an annotation says Any, itself, in quotes, or by another name."""
    if node is None:
        return False
    if (
        isinstance(node, ast.Subscript) and ast.unparse(node) == "NDArray[Any]"
    ):  # of any dtype: as each array's name says
        return False
    if isinstance(node, ast.Subscript | ast.BinOp | ast.Tuple | ast.List):
        return any(names_any(child, aliases) for child in ast.iter_child_nodes(node))
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name | ast.Attribute):
            name = inner.id if isinstance(inner, ast.Name) else inner.attr
            if name == "Any" or name in aliases:
                return True
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str) and "Any" in inner.value:
            return True
    return False


def is_public(name: str) -> bool:
    return not name.startswith("_") or (name.startswith("__") and name.endswith("__"))


def public_nodes(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, ast.stmt]]:
    """Public functions, methods, and annotated fields and constants, by dotted name."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and is_public(node.name):
            yield prefix + node.name, node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and is_public(node.target.id):
            yield prefix + node.target.id, node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_nodes(node.body, f"{prefix}{node.name}.")


def aliases_of_any() -> set[str]:
    """Module-level names that stand for a type with Any in it, such as `Options = dict[str, Any]`."""
    found: set[str] = set()
    for tree in MODULES.values():
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript | ast.BinOp | ast.Name):
                targets = [target.id for target in node.targets if isinstance(target, ast.Name)]
                if names_any(node.value, set()):
                    found.update(targets)
    return found


ALIASES = aliases_of_any()


def offenders(module: str) -> list[str]:
    found = []
    for name, node in public_nodes(MODULES[module].body):
        if isinstance(node, ast.AnnAssign):
            annotations: list[ast.AST | None] = [node.annotation]
        else:
            assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            arguments = node.args
            every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
            annotations = [node.returns, *(argument.annotation for argument in every if argument is not None)]
        if any(names_any(annotation, ALIASES) for annotation in annotations):
            found.append(name)
    return found


@pytest.mark.parametrize("module", MODULES)
def test_no_any_in_public_signatures(module: str) -> None:
    assert not offenders(module)


def test_exported_names_exist() -> None:
    for name in mnv2vision.__all__:
        assert getattr(mnv2vision, name) is not None
    assert dir(mnv2vision) == sorted(mnv2vision.__all__)
