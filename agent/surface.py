"""Which files of a repository may change and which must not, from the command that is researched."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from agent.discover import TEST_FILE, Candidate, Files
from agent.edits import parsed
from agent.protocol import matches

HARNESS = re.compile(
    r"^(prepare.*|preprocess.*|datasets?|dataload\w*|data|evaluat\w*|eval|metrics?|scor\w+|bench.*|benchmarks?|harness"
    r"|judge|checker|grade\w*|test_.*|.*_test|conftest|setup|noxfile|witness|attest)$"
)
CONFIGURATION = re.compile(
    r"^(pyproject\.toml|uv\.lock|poetry\.lock|Pipfile.*|requirements.*\.txt|setup\.(py|cfg)|environment\.ya?ml|tox\.ini"
    r"|pytest\.ini|conftest\.py|noxfile\.py|[Mm]akefile|justfile|package(-lock)?\.json|pnpm-lock\.yaml|yarn\.lock"
    r"|Cargo\.(toml|lock)|go\.(mod|sum)|CMakeLists\.txt|\.python-version)$"
)
CODE = (
    ".py",
    ".c",
    ".cc",
    ".cpp",
    ".cu",
    ".h",
    ".hpp",
    ".rs",
    ".go",
    ".js",
    ".ts",
    ".java",
    ".jl",
    ".rb",
    ".zig",
    ".metal",
)
TEST_FOLDERS = ("tests", "test")
MOST_NAMED = 12


@dataclass(frozen=True)
class Surface:
    """mutable, harness and forbidden are globs; read: the files that the command reads, as far as can be seen.

    why: of the mutable ones; judged_inside: a mutable file computes its own metric.
    """

    mutable: tuple[str, ...]
    harness: tuple[str, ...]
    forbidden: tuple[str, ...]
    read: tuple[str, ...]
    why: str
    judged_inside: bool = False


def surface(candidate: Candidate, files: Files, wanted: list[str], locks: bool) -> Surface:
    """wanted: the person's own globs, which win; locks: uv writes a lock file here, tracked or not."""
    tests = [path for path in files if TEST_FILE.search(path) or PurePosixPath(path).parts[0] in TEST_FOLDERS]
    begin = tests if candidate.kind == "tests" else [candidate.script] if candidate.script else []
    read = reached(begin, files)
    configuration = {path for path in files if _configures(PurePosixPath(path))}
    harness = [] if candidate.kind == "tests" else _harness(candidate, read, files)
    fixed = {*harness, *tests, *configuration}
    mutable = [path for path in read if path not in fixed]
    why = "what the tests import" if candidate.kind == "tests" else f"what `{candidate.command}` runs and imports"
    if not mutable:
        mutable, named = _unseen(candidate, files, fixed)
        harness, why = [*harness, *named], "the source files here: which of them the command reads cannot be seen"
    if not mutable and candidate.script in harness:
        mutable, harness = [candidate.script], [path for path in harness if path != candidate.script]
        why = "it reads no other file of this repository, as far as can be seen"
    globs = tuple(wanted) or _collapsed(mutable, fixed)
    judges = _collapsed_tests(tests) if candidate.kind == "tests" else sorted(harness)
    forbidden = {*_collapsed_tests(tests), *configuration} | ({"uv.lock"} if locks else set())
    return Surface(
        mutable=globs,
        harness=tuple(path for path in judges if not _named(path, wanted)),
        forbidden=tuple(sorted(path for path in forbidden if not _named(path, wanted))),
        read=tuple(read),
        why="you named it (--mutable)" if wanted else why,
        judged_inside=not judges and any(matches(candidate.script or "", glob) for glob in globs),
    )


def _harness(candidate: Candidate, read: list[str], files: Files) -> list[str]:
    """What prepares data or judges, by its name, with what only that reads; of a benchmark the script itself."""
    named = [path for path in read if path != candidate.script and HARNESS.match(PurePosixPath(path).stem.lower())]
    others = {path: text for path, text in files.items() if path not in named}
    direct = reached([candidate.script] if candidate.script else [], others)
    judge = [candidate.script] if candidate.kind == "benchmark" and candidate.script else []
    return [*judge, *(path for path in read if path not in direct)]


def _unseen(candidate: Candidate, files: Files, fixed: set[str]) -> tuple[list[str], list[str]]:
    """The sources that a command may read though nobody can see it: those to change, and those that judge by name.

    What a Python script reads of other Python files is seen.
    """
    python = (candidate.script or "").endswith(".py")
    sources = [path for path in files if path.endswith(CODE) and not (python and path.endswith(".py"))]
    judges = [path for path in sources if HARNESS.match(PurePosixPath(path).stem.lower())]
    return [path for path in sources if path not in fixed and path not in judges], judges


def _configures(path: PurePosixPath) -> bool:
    """By its name; in a folder `setup.py` may be a module like any other."""
    top_only = path.suffix == ".py" and path.name != "conftest.py"
    return CONFIGURATION.match(path.name) is not None and not (top_only and len(path.parts) > 1)


def reached(begin: Iterable[str], files: Files) -> list[str]:
    """The Python files that `begin` imports or names, directly or not, with themselves; sorted."""
    found: set[str] = set()
    waiting = list(begin)
    while waiting:
        path = waiting.pop()
        if path not in found and path in files:
            found.add(path)
            waiting += [other for other in _references(path, files[path]) if other in files]
    return sorted(path for path in found if path.endswith(".py") or path in begin)


def _references(path: str, source: str) -> Iterator[str]:
    """Where the modules that a file imports may lie, and file names that it holds as strings."""
    tree = parsed(source) if path.endswith(".py") else None
    if tree is None:
        return
    here = PurePosixPath(path).parent
    roots = {here, PurePosixPath(), PurePosixPath("src")}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files_of(alias.name.split("."), roots)
        elif isinstance(node, ast.ImportFrom):
            parts = node.module.split(".") if node.module else []
            above = {[here, *here.parents][min(node.level - 1, len(here.parents))]} if node.level else roots
            for alias in node.names:
                yield from _files_of([*parts, alias.name], above)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.endswith(".py"):
            yield from (str(root / node.value) for root in roots)


def _files_of(parts: list[str], roots: Iterable[PurePosixPath]) -> Iterator[str]:
    """`a.b` may be a/b.py, or a folder; a/__init__.py is read on the way to either."""
    for root in roots:
        for count in range(1, len(parts) + 1):
            stem = root.joinpath(*parts[:count])
            yield f"{stem}.py"
            yield f"{stem}/__init__.py"


def _collapsed(paths: list[str], fixed: set[str]) -> tuple[str, ...]:
    """The paths, or where they are many the folders that hold them, unless those hold what must not change."""
    if len(paths) <= MOST_NAMED:
        return tuple(paths)
    globs = set()
    for path in paths:
        pure = PurePosixPath(path)
        glob = f"{pure.parts[0]}/**/*{pure.suffix}" if len(pure.parts) > 1 else path
        globs.add(path if any(matches(other, glob) for other in fixed) else glob)
    return tuple(sorted(globs))


def _collapsed_tests(tests: list[str]) -> list[str]:
    folders = sorted({PurePosixPath(path).parts[0] for path in tests} & {*TEST_FOLDERS})
    loose = [path for path in tests if PurePosixPath(path).parts[0] not in folders]
    return [*(f"{folder}/**/*.py" for folder in folders), *sorted(loose)]


def _named(path: str, wanted: list[str]) -> bool:
    """Whether a person's glob means this very file, or lies in this very folder."""
    return any(path == glob or ("*" in path and glob.startswith(path.split("*")[0])) for glob in wanted)
