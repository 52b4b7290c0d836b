"""The files that no candidate may change: those named in immutableHarness, and the modules that they import."""

from __future__ import annotations

import copy
import hashlib
import itertools
import os
import shlex
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath

from agent.protocol.models import Protocol
from agent.repository.links import way_to
from agent.source.encoding import decoded
from agent.source.imports import COMPILED, SOURCE_FOLDER, Import, closure, imports
from agent.system.memory import remember
from agent.system.patterns import matches

EVALUATORS = ("harness/evaluator.py", "evaluator.py")  # relative to the harness; the second is of older versions
HANDED_OVER = "handed_over"  # an event of the evaluator's protocol, by which its script is recognized
MOST_COMMITS, MOST_BLOBS = 64, 10_000
LINK, LONGEST_LINK = "120000", 4096  # git's mode of symbolic links; the longest target that a system follows, in bytes
WILD = "*?"
# Python or pytest imports these on its own wherever it finds them.
LOADED_UNASKED = ("conftest.py", "sitecustomize.py", "usercustomize.py")
CUSTOMIZING = {"sitecustomize", "usercustomize"}  # they may be packages as well
MODULE_FILES = (".py", ".pyc", COMPILED)
# A file of this name decides how git writes others, in any folder: with other line ends, in another encoding.
ATTRIBUTES = ".gitattributes"
INSTALLED_IN = ("site-packages", "dist-packages")

Tree = Mapping[str, tuple[str, str]]  # path -> mode and blob


class HarnessFiles:
    """The harness of each commit of a workspace.

    Args:
        tree: returns the files of a commit, by path relative to the workspace.
        contents: returns the contents of blobs, by their hash.
        environment: the virtual environment of the workspace, if it has one.
    """

    def __init__(
        self,
        protocol: Protocol,
        tree: Callable[[str], Tree],
        contents: Callable[[list[str]], Mapping[str, bytes]],
        environment: Path | None = None,
    ) -> None:
        self._execution, self._environment = protocol.execution, environment
        self._surface = protocol.mutable_surface
        self._paths = [PurePosixPath(path).as_posix() for path in protocol.immutable_harness.paths]
        self._tree, self._contents = tree, contents
        self._files: dict[str, frozenset[str]] = {}
        self._imports: dict[str, frozenset[Import]] = {}
        allowed = {PurePosixPath(glob).as_posix() for glob in self._surface.allowed_globs if not _is_wild(glob)}
        # What both lists name is protected: an allowed glob singles out a module that is imported, or one file of a
        # folder that is listed, but it does not revoke what the protocol says of the very same path.
        self._named = allowed - {*self._paths}

    def of(self, commit: str) -> frozenset[str]:
        """Return the harness's files in `commit`, without those that a candidate may change."""
        if commit not in self._files:
            tree = self._tree(commit)
            starts = self._starts(tree)
            apart = self._apart(starts)
            reached = self._reached(tree, tree, starts)
            files = frozenset(path for path in reached if not self._is_mutable(path, apart))
            remember(self._files, commit, files, MOST_COMMITS)
        return self._files[commit]

    def digest(self, commit: str) -> str:
        """Return a SHA-256 over paths and contents of the harness in `commit`."""
        tree = self._tree(commit)
        said = "".join(f"{path}\0{tree[path][0]}\0{tree[path][1]}\n" for path in sorted(self.of(commit)))
        return hashlib.sha256(said.encode(errors="surrogateescape")).hexdigest()

    def former_digest(self, commit: str) -> str:
        """Return the digest by an earlier version, for which an allowed glob also revoked the very same path."""
        former = copy.copy(self)
        former._named = {PurePosixPath(glob).as_posix() for glob in self._surface.allowed_globs if not _is_wild(glob)}
        former._files = {}
        return former.digest(commit)

    def unmatched(self, commit: str) -> list[str]:
        """Return the paths of immutableHarness that match no file of `commit`, as one with a typing error."""
        tree = self._tree(commit)
        return [glob for glob in self._paths if not any(matches(path, glob) for path in tree)]

    def holds(self, commit: str, path: str) -> bool:
        """Return whether `path` belongs to the harness in `commit`, unless allowedGlobs alone name it literally."""
        return path not in self._named and path in self.of(commit)

    def refusal(self, commit: str, paths: Iterable[str], *, shadows: bool = True) -> str | None:
        """Return why a candidate on top of `commit` may not change or add files at `paths`, or None if it may.

        A new file is refused if the harness would import it in place of its own module or of an installed one.

        Args:
            shadows: refuse also what earlier versions measured and kept: such new files, and files of attributes.
        """
        paths = sorted({*paths} - self._named)
        if not paths:
            return None
        for path in paths:
            if shadows and PurePosixPath(path).name == ATTRIBUTES:
                return f"changes {path}, by which git would write other files differently"
            if path in self.of(commit):
                return f"changes {path}, which belongs to the harness"
        tree = self._tree(commit)
        new = {path for path in paths if path not in tree}
        if not new:
            return None
        starts = self._starts(tree)
        for path in sorted(new):
            if self._is_start(path) or (starts and PurePosixPath(path).name in LOADED_UNASKED):
                return f"adds {path}, which belongs to the harness"
            if any(path == str(PurePosixPath(start).parent / script) for start in starts for script in EVALUATORS):
                return f"adds {path}, which would evaluate the runs"
        for path in sorted(new & self._reached(tree, {*tree, *new}, starts)):
            return f"adds {path}, which the harness would import"
        return self._shadowing(new, starts) if shadows else None

    def _shadowing(self, new: Collection[str], starts: Collection[str]) -> str | None:
        """Return why a new file may not be added if Python would import it in place of a module that is not ours.

        What the harness imports from outside of the repository imports further modules, whose files are not read here.
        """
        roots = {"", SOURCE_FOLDER, self._execution.cwd, *(str(PurePosixPath(start).parent) for start in starts)}
        roots = {"" if root == "." else PurePosixPath(root).as_posix() for root in roots}
        found = {path: name for path in sorted(new) if (name := _module_of(path, roots))} if starts else {}
        if found:
            known = {*sys.stdlib_module_names, *CUSTOMIZING, *_started(self._execution.command)}
            known |= _installed(self._environment)
            for path, name in found.items():
                if name in known:
                    return f"adds {path}, which Python would import in place of its own or an installed {name}"
        return None

    def _starts(self, tree: Tree) -> frozenset[str]:
        """Return the files of immutableHarness.paths and the evaluator next to them."""
        found = {path for path in tree if self._is_start(path)}
        beside = {str(PurePosixPath(path).parent / script) for path in found for script in EVALUATORS}
        scripts = [path for path in sorted(beside - found) if path in tree and _is_file(tree[path])]
        contents = self._contents([tree[path][1] for path in scripts])
        return frozenset(found | {path for path in scripts if HANDED_OVER.encode() in contents[tree[path][1]]})

    def _is_start(self, path: str) -> bool:
        return any(matches(path, glob) for glob in self._paths)

    def _apart(self, starts: Collection[str]) -> list[str]:
        """Return the allowed globs that match no file of immutableHarness, and so separate mutable files from it."""
        mutable = [path for path in starts if self._surface.allows(path)]
        return [glob for glob in self._surface.allowed_globs if not any(matches(path, glob) for path in mutable)]

    def _reached(self, tree: Tree, files: Collection[str], starts: frozenset[str]) -> frozenset[str]:
        """Return `starts` and everything among `files` that they import, directly or indirectly."""
        apart, links, builds = self._apart(starts), self._links(tree), _builds(files)

        def ways(place: str) -> list[str]:
            if place in builds:
                return builds[place]
            return way_to(place, files, links) if links else [place] if place in files else []

        def read(paths: list[str]) -> dict[str, frozenset[Import]]:
            return self._read({path: tree[path][1] for path in paths})

        def follow(path: str) -> bool:
            own = path in tree and path.endswith(".py") and _is_file(tree[path])
            return own and not self._is_mutable(path, apart)

        return closure(starts, ways, read, follow)

    def _links(self, tree: Tree) -> dict[str, str]:
        """Return the target of each symbolic link as written in it, cut after `LONGEST_LINK` bytes."""
        blobs = {path: entry[1] for path, entry in tree.items() if entry[0] == LINK}
        contents = self._contents([*blobs.values()])
        return {path: os.fsdecode(contents[blob][:LONGEST_LINK]) for path, blob in blobs.items()}

    def _read(self, blobs: Mapping[str, str]) -> dict[str, frozenset[Import]]:
        """Return the imports of each file. They are cached: candidates share nearly all of their files."""
        missing = {blob: path for path, blob in blobs.items() if blob not in self._imports}
        for blob, content in self._contents([*missing]).items():
            try:
                found = imports(decoded(missing[blob], content))
            except (UnicodeError, LookupError):
                found = frozenset()
            remember(self._imports, blob, found, MOST_BLOBS)
        return {path: self._imports.get(blob, frozenset()) for path, blob in blobs.items()}

    def _is_mutable(self, path: str, apart: Collection[str]) -> bool:
        """Return whether a candidate may change `path` although the harness imports it.

        It may if the user has allowed the file by its literal name or by a glob of `apart`.
        """
        if not self._surface.allows(path):
            return False
        return path in self._named or any(matches(path, glob) for glob in apart)


def _builds(files: Collection[str]) -> dict[str, list[str]]:
    """Return the compiled modules by the name under which they are imported.

    There may be one for each interpreter and machine: `fast.cpython-311-x86_64-linux-gnu.so` is one of `fast.so`.
    """
    found: dict[str, list[str]] = {}
    for path in sorted(files):
        if path.endswith(COMPILED):
            folder, slash, name = path.rpartition("/")
            found.setdefault(f"{folder}{slash}{name.split('.')[0]}{COMPILED}", []).append(path)
    return found


def _module_of(path: str, roots: Collection[str]) -> str | None:
    """Return the name by which a file is imported from one of the folders `roots`, or None if it is not."""
    place = PurePosixPath(path)
    if not place.name.endswith(MODULE_FILES):
        return None
    name = place.name.split(".")[0]
    place = place.parent if name == "__init__" else place
    above = str(place.parent)
    return place.name.split(".")[0] if ("" if above == "." else above) in roots else None


def _started(command: str) -> set[str]:
    """Return the top-level names of the modules that a command starts by `-m`."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    return {name.split(".")[0] for flag, name in itertools.pairwise(words) if flag == "-m"}


def _installed(environment: Path | None) -> set[str]:
    """Return the top-level names in this program's environment and in that of the workspace."""
    folders = [Path(each) for each in sys.path if Path(each).name in INSTALLED_IN]
    folders += environment.glob("lib/python*/site-packages") if environment is not None else ()
    return {name for folder in folders for name in _names_in(folder)}


def _names_in(folder: Path) -> set[str]:
    try:
        entries = [*os.scandir(folder)]
    except OSError:
        return set()
    return {each.name.split(".")[0] for each in entries if each.is_dir() or each.name.endswith(MODULE_FILES)}


def _is_file(entry: tuple[str, str]) -> bool:
    """Return whether an entry is a regular file, neither a link nor a submodule."""
    return entry[0].startswith("100")


def _is_wild(glob: str) -> bool:
    return any(sign in glob for sign in WILD)
