"""Test that the imports of Python files are found from their syntax."""

from __future__ import annotations

import pytest

from agent.source import imports as module
from agent.source.imports import Import, closure, imports


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import a.b, c as d", {Import("a.b"), Import("c")}),
        ("from a import b, c", {Import("a.b"), Import("a.c")}),
        ("from a.b import *", {Import("a.b")}),
        ("from . import x", {Import("x", 1)}),
        ("from ..a import x", {Import("a.x", 2)}),
        ("def f():\n    if 1:\n        import a", {Import("a")}),
        ("import importlib\nimportlib.import_module('a.b')", {Import("importlib"), Import("a.b")}),
        ("__import__('a')", {Import("a")}),
        ("\ufeffimport a", {Import("a")}),
        ("import a\n)", set()),
        ("(" * 10_000, set()),
        ("\0", set()),
        ("import a\n#" + "x" * module.LARGEST_FILE, set()),
    ],
)
def test_imports_are_read_off_the_syntax(source: str, found: set[Import]) -> None:
    assert imports(source) == found


def reached(files: dict[str, str], *starts: str, mutable: tuple[str, ...] = ()) -> set[str]:
    return set(
        closure(
            starts,
            lambda place: [place] if place in files else [],
            lambda paths: {path: imports(files[path]) for path in paths},
            lambda path: path not in mutable,
        )
    )


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"judge.py": "import a", "a.py": "import b", "b.py": "import a", "c.py": ""}, {"a.py", "b.py"}),
        ({"judge.py": "import a.b", "a/__init__.py": "", "a/b.py": "", "a/c.py": ""}, {"a/__init__.py", "a/b.py"}),
        ({"judge.py": "from a import b, c", "a/b/__init__.py": "", "a/c.py": ""}, {"a/b/__init__.py", "a/c.py"}),
        ({"judge.py": "from a import name", "a.py": ""}, {"a.py"}),
        ({"judge.py": "import a", "a/__init__.py": "from . import b\nfrom .c import d", "a/b.py": "", "a/c.py": ""},
         {"a/__init__.py", "a/b.py", "a/c.py"}),
        ({"judge.py": "import a.b.c", "a/b/c.py": "from ..d import e", "a/d.py": "", "d.py": ""},
         {"a/b/c.py", "a/d.py"}),
        ({"judge.py": "from .... import a", "a.py": ""}, set()),
        ({"judge.py": "import a", "src/a.py": ""}, {"src/a.py"}),
        ({"judge.py": "import a", "a.py": "", "a/__init__.py": ""}, {"a.py", "a/__init__.py"}),
        ({"judge.py": "import numpy, json"}, set()),
        ({"judge.py": "import a", "a.py": "import (", "b.py": ""}, {"a.py"}),
    ],
)  # fmt: skip
def test_closure_holds_what_is_imported_directly_or_not(files: dict[str, str], found: set[str]) -> None:
    assert reached(files, "judge.py") == {"judge.py", *found}


def test_closure_finds_modules_beside_the_importer() -> None:
    assert reached({"eval/judge.py": "import a", "eval/a.py": "", "b.py": ""}, "eval/judge.py") == {
        "eval/judge.py",
        "eval/a.py",
    }


def test_imports_of_a_mutable_file_do_not_count() -> None:
    files = {"judge.py": "import train", "train.py": "import model", "model.py": ""}
    assert reached(files, "judge.py", mutable=("train.py",)) == {"judge.py", "train.py"}


def test_closure_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_FILES", 50)
    files = {"judge.py": "\n".join(f"import a{n}" for n in range(500)), **{f"a{n}.py": "" for n in range(500)}}
    assert len(reached(files, "judge.py")) == 1 + 50
