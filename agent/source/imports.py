"""Find the modules of a repository that Python files import, from their syntax alone: nothing is run."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from agent.source.constants import parsed

MOST_FILES, MOST_SCRIPTS = 2000, 100
LARGEST_FILE = 2**20  # characters; larger files are not parsed
MOST_IMPORTS = 10_000  # per file
DEEPEST = 16  # parts of a module name
SOURCE_FOLDER = "src"
BY_NAME = ("import_module", "__import__")
COMPILED = ".so"


@dataclass(frozen=True)
class Import:
    """An imported module.

    Attributes:
        name: `a.b` for `import a.b` and for `from a import b`.
        level: number of leading dots; 0 for an absolute import.
    """

    name: str
    level: int = 0


def imports(source: str) -> frozenset[Import]:
    """Return what a file imports, inside functions too; empty if it is too large or not valid Python."""
    tree = parsed(source) if len(source) <= LARGEST_FILE else None
    if tree is None:
        return frozenset()
    return frozenset(itertools.islice(_imports(tree), MOST_IMPORTS))


def _imports(tree: ast.Module) -> Iterator[Import]:
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                yield from (Import(alias.name) for alias in node.names)
            case ast.ImportFrom():
                for alias in node.names:
                    parts = [part for part in (node.module, alias.name) if part and part != "*"]
                    yield Import(".".join(parts), node.level)
            case ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called)) if called in BY_NAME:
                given = [*node.args[:1], *(each.value for each in node.keywords if each.arg == "name")]
                for each in given:
                    if isinstance(each, ast.Constant) and isinstance(each.value, str) and each.value[:1] != ".":
                        yield Import(each.value)


def places(imported: Import, importer: str, scripts: Iterable[PurePosixPath] = ()) -> Iterator[str]:
    """Yield each path where a file that the import loads may be.

    Parent packages count: `import a.b` loads a/__init__.py too. An absolute name is looked up in the importer's folder,
    at the top, in src/ and in `scripts`; every match counts, not only the first.

    Args:
        importer: path of the importing file.
        scripts: the folders of the scripts that are started.
    """
    here = PurePosixPath(importer).parent
    parts = [part for part in imported.name.split(".") if part][:DEEPEST]
    roots = [*dict.fromkeys((here, PurePosixPath(), PurePosixPath(SOURCE_FOLDER), *scripts))]
    if imported.level:
        above = [here, *here.parents]
        if imported.level > len(above):
            return
        roots = [above[imported.level - 1]]
        yield from (str(folder / "__init__.py") for folder in above)
    for root in roots:
        for count in range(1, len(parts) + 1):
            stem = root.joinpath(*parts[:count])
            yield f"{stem}.py"
            yield f"{stem}/__init__.py"
            yield f"{stem}{COMPILED}"


def closure(
    starts: Iterable[str],
    ways: Callable[[str], Sequence[str]],
    read: Callable[[list[str]], Mapping[str, frozenset[Import]]],
    follow: Callable[[str], bool],
) -> frozenset[str]:
    """Return `starts` and the files that they import, directly or indirectly, up to MOST_FILES more.

    Args:
        ways: path -> every path that counts if it is imported, the file itself last; empty if nothing is there.
        read: paths -> the imports of each file.
        follow: whether the imports of a file count.
    """
    places_asked, done = set[str](), set[str]()
    wave = {path: way[-1] for path in starts if (way := ways(path))}
    found = {*starts}.union(*map(ways, starts))
    most = len(found) + MOST_FILES
    scripts = [*dict.fromkeys(PurePosixPath(path).parent for path in sorted(wave) if follow(wave[path]))][:MOST_SCRIPTS]
    while wave and len(found) < most:
        # Several names may lead to one file: read it once, under the first.
        names = {real: path for path, real in sorted(wave.items(), reverse=True) if real not in done and follow(real)}
        done |= {*names}
        imported = read(sorted(names))
        asked = {
            place for real, path in names.items() for each in imported[real] for place in places(each, path, scripts)
        }
        wave = {}
        for place in sorted(asked - places_asked):
            if (way := ways(place)) and len(found) < most:
                found |= {*way}
                wave[place] = way[-1]
        places_asked |= asked
    return frozenset(found)
