"""The tests themselves: one folder for each package of the program, and nothing that two of them share between them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.common.workspaces import ROOT

pytestmark = pytest.mark.quick

TESTS = ROOT / "tests"
OWN_FOLDERS = {"common", "data", "whole", "harness"}


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def test_no_test_module_is_imported_by_another() -> None:
    found = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in TESTS.rglob("*.py")
        for name in imported(path)
        if name.startswith("tests.") and not name.startswith("tests.common.")
    ]
    assert found == []


def test_folders_mirror_the_packages_of_the_program() -> None:
    folders = {path.parent.relative_to(TESTS) for path in TESTS.rglob("test_*.py")}
    others = {folder for folder in folders if folder.parts[0] not in OWN_FOLDERS}
    assert {folder.as_posix() for folder in others if not (ROOT / "agent" / folder / "__init__.py").exists()} == set()


def marks(*nodes: ast.AST) -> set[str]:
    """The X of every `pytest.mark.X` within."""
    found = [node for part in nodes for node in ast.walk(part) if isinstance(node, ast.Attribute)]
    return {node.attr for node in found if isinstance(node.value, ast.Attribute) and node.value.attr == "mark"}


def marks_of_module(tree: ast.Module) -> set[str]:
    return marks(*(node for node in tree.body if isinstance(node, ast.Assign) and "pytestmark" in ast.unparse(node)))


def test_no_quick_test_is_slow() -> None:
    for path in TESTS.rglob("test_*.py"):
        tree = ast.parse(path.read_bytes())
        if "quick" in marks_of_module(tree):
            assert "slow" not in marks(tree), path
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                assert not {"quick", "slow"} <= marks(*node.decorator_list), f"{path}: {node.name}"


def test_quick_tests_cover_every_package() -> None:
    files = [path for path in TESTS.rglob("test_*.py") if "quick" in marks(ast.parse(path.read_bytes()))]
    packages = {path.parent.name for path in (ROOT / "agent").glob("*/__init__.py")}
    assert packages - {path.relative_to(TESTS).parts[0] for path in files} == set()
